"""The lines of a file, one after the other or some thousands at once."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from typing import BinaryIO, Final

from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput

MAX_ROW_BYTES: Final = 1_048_576
"""The longest row, with all its lines: as long as a user may be who is sent alone."""

_BYTES_AT_ONCE: Final = 262_144
"""Read at once: hardly ever, since after each reading a thread may wait for its turn among the writing ones."""

_SHOWN_CHARACTERS: Final = 200


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


class UnreadableLine(ValueError):
    """A line from which no text comes; its text says why."""


class Source(Iterator[str]):
    """The lines as text, counted. An unreadable one raises and is passed: the next call goes on after it."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._given_back: list[bytes] = []
        self.line = 0
        self.bytes_read = 0
        self.ignored_columns: tuple[str, ...] = ()
        self._row_bytes = 0

    def begin_row(self) -> int:
        """A row begins with the next line; returns its number."""
        self._row_bytes = 0
        return self.line + 1

    def next_bytes(self) -> bytes:
        """The next line as it is. Raises UnreadableLine where the row grows too long."""
        line = self._given_back.pop() if self._given_back else next(self._lines)
        if self.line == 0:
            line = _without_mark(line)
        self.line += 1
        self.bytes_read += len(line)
        self._row_bytes += len(line)
        if self._row_bytes > MAX_ROW_BYTES:
            raise UnreadableLine(f"must be at most {MAX_ROW_BYTES} bytes long")
        return line

    def take(self, most_lines: int, most_bytes: int) -> list[bytes]:
        """The next lines as they are, up to so many, and no more once they are so long; empty at the end."""
        assert not self._given_back, "these come first"
        taken: list[bytes] = []
        length = 0
        for line in self._lines:
            taken.append(line)
            length += len(line)
            if length >= most_bytes or len(taken) >= most_lines:
                break
        self.line += len(taken)
        self.bytes_read += length
        return taken

    def give_back(self, lines: Sequence[bytes]) -> None:
        """Lines that were just taken come next, one by one."""
        self._given_back = list(reversed(lines))
        self.line -= len(lines)
        self.bytes_read -= sum(map(len, lines))

    def __next__(self) -> str:
        try:
            return self.next_bytes().decode()
        except UnicodeDecodeError:
            raise UnreadableLine("must be UTF-8 text") from None


def _without_mark(first_line: bytes) -> bytes:
    """The first line without the byte-order mark that some editors write. Raises InvalidInput for UTF-16."""
    if first_line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first_line:
        raise unusable("the file is not UTF-8 text: it looks like UTF-16; save it as UTF-8")
    return first_line.removeprefix(codecs.BOM_UTF8)


def unusable(message: str) -> InvalidInput:
    """What is raised for a file that cannot be read at all."""
    return InvalidInput([FieldError("", message)])


def shown(value: object) -> str | None:
    """A text of the input, cut and cleaned so that it can be put into any answer or file."""
    if not isinstance(value, str):
        return None
    clean = "".join(character if character.isprintable() else "\ufffd" for character in value)
    return clean if len(clean) <= _SHOWN_CHARACTERS else clean[: _SHOWN_CHARACTERS - 1] + "…"
