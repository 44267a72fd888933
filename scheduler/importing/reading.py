"""Read people from CSV or NDJSON, line by line: users whose form is right, and rows that are not.

- CSV: RFC 4180 in UTF-8, a header first, cells separated by commas (or by semicolons or tabs, as spreadsheets
  write them where the comma is the decimal sign). Columns as in `UserRows`; unknown ones are ignored.
- NDJSON: one JSON object a line, each a `UserInput`; a name that stands twice in an object is refused.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any, BinaryIO, Final, NamedTuple

from pydantic import ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput, field_errors
from scheduler.domain.user_row import UserRows
from scheduler.errors import InvalidInput

MAX_ROW_BYTES: Final = 1_048_576
"""The longest row, with all its lines: as long as a user may be who is sent alone."""

_BYTES_AT_ONCE: Final = 262_144
"""Read at once: hardly ever, since after each reading a thread may wait for its turn among the writing ones."""

_REQUIRED_COLUMNS: Final = ("external_id", "first_name", "timezone")
_DELIMITERS: Final = (",", ";", "\t")
_SHOWN_CHARACTERS: Final = 200

# Where a name ends in JSON. In a string a quote is escaped, so there may be more of these than names, never fewer.
_NAME_ENDS: Final = re.compile(rb'"\s*+:')


class ImportForm(StrEnum):
    """What a file of people may look like."""

    csv = "csv"
    ndjson = "ndjson"


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that was not taken: its first line in the file (from 1), all that is wrong, and whose it is if known."""

    line: int
    errors: list[FieldError]
    external_id: str | None


class Candidate(NamedTuple):
    """A user whose form is right, and the line they come from."""

    line: int
    user: UserInput


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream, of which those above `MAX_ROW_BYTES` are cut: they are never held in memory.

    A line is handed out as soon as it has come, where the stream can tell (`read1`); it is read ahead of the lines.
    """
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    begun = bytearray()
    while block := read(_BYTES_AT_ONCE):
        lines = BytesIO(block).readlines()
        if begun:
            begun += lines[0][: MAX_ROW_BYTES + 1 - len(begun)]
            if not lines[0].endswith(b"\n"):
                continue
            lines[0] = bytes(begun)
            begun.clear()
        if not block.endswith(b"\n"):
            begun += lines.pop()
        yield from lines
    if begun:
        yield bytes(begun)


def rows_of(source: Source, form: ImportForm) -> Iterator[Candidate | RejectedRow]:
    """The rows of a file. Raises InvalidInput, before the first, for a file that cannot be read at all."""
    return _csv_rows(source) if form is ImportForm.csv else _ndjson_rows(source)


class _UnreadableLine(ValueError):
    """A line from which no text comes; its text says why."""


class Source(Iterator[str]):
    """The lines as text, counted. An unreadable one raises and is passed: the next call goes on after it."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self.line = 0
        self.bytes_read = 0
        self.ignored_columns: tuple[str, ...] = ()
        self._row_bytes = 0

    def begin_row(self) -> int:
        """A row begins with the next line; returns its number."""
        self._row_bytes = 0
        return self.line + 1

    def next_bytes(self) -> bytes:
        """The next line as it is. Raises _UnreadableLine where the row grows too long."""
        line = next(self._lines)
        if self.line == 0:
            line = _without_mark(line)
        self.line += 1
        self.bytes_read += len(line)
        self._row_bytes += len(line)
        if self._row_bytes > MAX_ROW_BYTES:
            raise _UnreadableLine(f"must be at most {MAX_ROW_BYTES} bytes long")
        return line

    def __next__(self) -> str:
        try:
            return self.next_bytes().decode()
        except UnicodeDecodeError:
            raise _UnreadableLine("must be UTF-8 text") from None


def _without_mark(first_line: bytes) -> bytes:
    """The first line without the byte-order mark that some editors write. Raises InvalidInput for UTF-16."""
    if first_line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first_line:
        raise _unusable("the file is not UTF-8 text: it looks like UTF-16; save it as UTF-8")
    return first_line.removeprefix(codecs.BOM_UTF8)


def _ndjson_rows(source: Source) -> Iterator[Candidate | RejectedRow]:
    is_first = True
    while True:
        line_number = source.begin_row()
        try:
            line = source.next_bytes().strip()
        except StopIteration:
            return
        except _UnreadableLine as error:
            yield _rejected(line_number, str(error))
            continue
        if not line:
            continue
        if is_first and not line.startswith(b"{"):
            raise _unusable(
                f"the file is not NDJSON: line {line_number} must be a JSON object, as every line"
            )
        is_first = False
        yield _user_from_json(line_number, line)


def _user_from_json(line_number: int, line: bytes) -> Candidate | RejectedRow:
    try:
        user = UserInput.model_validate_json(line)
    except ValidationError as error:
        return RejectedRow(line_number, field_errors(error), _external_id_in(line))
    names = len(user.model_fields_set) + len(user.dates) + len(user.attributes)
    if len(_NAME_ENDS.findall(line)) != names and (repeated := _repeated_names(line)):
        # Two readers could take it differently (RFC 8259 §4).
        errors = [FieldError("", f"has the name {json.dumps(name[:100])} twice") for name in repeated]
        return RejectedRow(line_number, errors, _shown(user.external_id))
    return Candidate(line_number, user)


def _repeated_names(line: bytes) -> list[str]:
    repeated: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        names = [name for name, _ in pairs]
        repeated.extend(name for name in found if len(found) < len(names) and names.count(name) > 1)
        return found

    json.loads(line, object_pairs_hook=keep)
    return repeated


def _external_id_in(line: bytes) -> str | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _shown(value.get("external_id")) if isinstance(value, dict) else None


def _csv_rows(source: Source) -> Iterator[Candidate | RejectedRow]:
    header, delimiter = _read_header(source)
    rows = UserRows(header)
    source.ignored_columns = tuple(name for each in rows.ignored if (name := _shown(each)))
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        line_number = source.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _UnreadableLine) as error:
            yield _rejected(line_number, _unreadable(str(error), line_number, source.line))
            continue
        if not cells:
            continue
        if len(cells) == len(header):
            yield _user_from_cells(line_number, rows, cells)
        else:
            yield _rejected(line_number, f"has {len(cells)} cells where the header has {len(header)}")


def _user_from_cells(line_number: int, rows: UserRows, cells: list[str]) -> Candidate | RejectedRow:
    values = rows.user(cells)
    try:
        return Candidate(line_number, UserInput.model_validate(values))
    except ValidationError as error:
        return RejectedRow(line_number, field_errors(error), _shown(values.get("external_id")))


def _read_header(source: Source) -> tuple[list[str], str]:
    """The columns, and what separates them: the delimiter under which all required ones are there."""
    try:
        line = next((line for line in source if line.strip()), None)
    except _UnreadableLine as error:
        raise _unusable(f"the header, line {source.line}, {error}") from None
    if line is None:
        raise _unusable("the file is empty: its first line must be a header with the names of the columns")
    for delimiter in _DELIMITERS:
        columns = _columns(line, delimiter)
        if set(_REQUIRED_COLUMNS) <= set(columns):
            _refuse_repeated(columns)
            return columns, delimiter
    raise _unusable(_missing_columns(line))


def _columns(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except csv.Error as error:
        raise _unusable(f"the header cannot be read: {error}") from None


def _missing_columns(line: str) -> str:
    columns = max((_columns(line, delimiter) for delimiter in _DELIMITERS), key=len)
    missing = ", ".join(name for name in _REQUIRED_COLUMNS if name not in columns)
    if len(columns) == 1:
        return (
            f"the header lacks the columns {missing}; columns are separated by commas, semicolons or tabs, "
            "and it has only one"
        )
    return f"the header lacks the columns {missing}; it has {_shown(', '.join(columns))}"


def _refuse_repeated(columns: Sequence[str]) -> None:
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise _unusable(f"the header names a column twice: {_shown(', '.join(repeated))}")


def _unreadable(reason: str, first_line: int, last_line: int) -> str:
    if first_line == last_line:
        return reason
    return f'lines {first_line} to {last_line} are one row, as a quoted cell (") goes on: {reason}'


def _rejected(line_number: int, message: str) -> RejectedRow:
    return RejectedRow(line_number, [FieldError("", message)], None)


def _unusable(message: str) -> InvalidInput:
    return InvalidInput([FieldError("", message)])


def _shown(value: object) -> str | None:
    """A text of the input, cut and cleaned so that it can be put into any answer or file."""
    if not isinstance(value, str):
        return None
    clean = "".join(character if character.isprintable() else "\ufffd" for character in value)
    return clean if len(clean) <= _SHOWN_CHARACTERS else clean[: _SHOWN_CHARACTERS - 1] + "…"
