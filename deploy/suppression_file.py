"""Addresses from a file: one a line, or a column of a CSV as mail services export their bounces.

A header is recognised by a column named address, email or phone; without one the first column counts. An address
has no line breaks, so each line is read by itself, and a broken quote spoils one line only.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from scheduler.domain.address import address_errors, normal_address
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel
from scheduler.errors import InvalidInput

MAX_LINE_BYTES: Final = 65_536

_NAMES: Final = frozenset({"address", "email", "e-mail", "email address", "phone", "phone number", "to"})
_DELIMITERS: Final = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class FileLine:
    """A line that held something: its address, or what is wrong with it."""

    number: int
    bytes_read: int
    """How many bytes of the file it ends at."""
    address: str = ""
    errors: tuple[FieldError, ...] = ()


def read_addresses(lines: Iterable[bytes], channel: Channel) -> Iterator[FileLine]:
    """The addresses of `channel` in a file, in their normal form, and its wrong lines; blank lines are passed.

    Raises InvalidInput for a file that is not UTF-8 at its beginning.
    """
    bytes_read, delimiter, column, is_first = 0, ",", 0, True
    for number, original in enumerate(lines, start=1):
        bytes_read += len(original)
        line = _without_mark(original) if number == 1 else original
        if not line.strip():
            continue
        try:
            text = _decoded(line)
            if is_first and (found := _header(text)) is not None:
                delimiter, column = found
                continue
            address = normal_address(channel, _cell(text, delimiter, column))
            errors = tuple(address_errors(channel, address))
        except ValueError as error:
            address, errors = "", (FieldError("", str(error)),)
        finally:
            is_first = False
        yield FileLine(number, bytes_read, address, errors)


def _without_mark(line: bytes) -> bytes:
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line:
        raise InvalidInput(
            [FieldError("", "the file is not UTF-8 text: it looks like UTF-16; save it as UTF-8")]
        )
    return line.removeprefix(codecs.BOM_UTF8)


def _decoded(line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"must be at most {MAX_LINE_BYTES} bytes long")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8 text") from None


def _header(line: str) -> tuple[str, int] | None:
    """The delimiter and the column of the address, where a line names one."""
    for delimiter in _DELIMITERS:
        names = [name.strip().lower() for name in _cells(line, delimiter)]
        for name in names:
            if name in _NAMES:
                return delimiter, names.index(name)
    return None


def _cell(line: str, delimiter: str, column: int) -> str:
    cells = _cells(line, delimiter)
    if column >= len(cells):
        raise ValueError(f"has {len(cells)} cells, and the address is the {column + 1}th")
    return cells[column]


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        raise ValueError("is not a line of a CSV") from None
