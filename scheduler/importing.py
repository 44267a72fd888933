"""Import people from CSV or NDJSON, as a stream, chunk by chunk: bad rows are told, good ones are kept.

- CSV: RFC 4180 in UTF-8, a header first, cells separated by commas (or by semicolons or tabs, as spreadsheets
  write them where the comma is the decimal sign). Columns as in `user_from_row`; unknown ones are ignored.
- NDJSON: one JSON object a line, each a `UserInput`.

Each chunk is one transaction with its plan. An import that ends early has kept the chunks before; to import
the same file again is harmless. Of two rows with one external id the later counts. While one chunk is
written the next is read, so `registry` works in a thread of its own; at most two chunks are in memory.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import BinaryIO, Final, Protocol

from pydantic import ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput, field_errors, is_row_column, user_from_row
from scheduler.errors import InvalidInput
from scheduler.registry import WrittenUsers
from scheduler.store.planning import Replanned

MAX_ROW_BYTES: Final = 65_536
"""The longest row, with all its lines: a multiple of the longest user there can sensibly be."""

_USERS_PER_CHUNK: Final = 2_000
_BYTES_PER_CHUNK: Final = 4_194_304
_REQUIRED_COLUMNS: Final = ("external_id", "first_name", "timezone")
_DELIMITERS: Final = (",", ";", "\t")
_SHOWN_CHARACTERS: Final = 200


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


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How many rows are done, rejected ones among them, and how many bytes of the file they were."""

    bytes_read: int
    read: int
    rejected: int


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import did, in rows, and what it changed in the message log."""

    created: int = 0
    updated: int = 0
    rejected: int = 0
    replanned: Replanned = field(default_factory=Replanned)
    ignored_columns: tuple[str, ...] = ()
    """Columns of a CSV that say nothing to Daybreak."""

    @property
    def read(self) -> int:
        """All rows that were read."""
        return self.created + self.updated + self.rejected

    def __add__(self, other: ImportSummary) -> ImportSummary:
        """Both together."""
        return ImportSummary(
            created=self.created + other.created,
            updated=self.updated + other.updated,
            rejected=self.rejected + other.rejected,
            replanned=self.replanned + other.replanned,
            ignored_columns=self.ignored_columns or other.ignored_columns,
        )


class UserRegister(Protocol):
    """What an import asks of a `Registry`."""

    def problems(self, user: UserInput) -> list[FieldError]:
        """What is wrong with a user that only today's date tells."""

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """Add or replace users, with their plan, in one transaction."""


def import_users(
    registry: UserRegister,
    tenant_id: int,
    lines: Iterable[bytes],
    form: ImportForm,
    on_rejected: Callable[[RejectedRow], None],
    on_progress: Callable[[ImportProgress], None] = lambda _: None,
) -> ImportSummary:
    """Add or replace all people in `lines`, which end with their line breaks (see `read_lines`).

    `on_rejected` is told each row that is not taken, in the order of the file, `on_progress` each chunk that
    is written; both in the caller's thread. A row that is not UTF-8, too long or wrongly quoted is rejected
    like one whose values are wrong. Raises InvalidInput, before anything is written, for a file that cannot
    be read at all: no header, required columns missing, another encoding, another form.
    """
    source = _Source(lines)
    rows = _csv_rows(source) if form is ImportForm.csv else _ndjson_rows(source)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="import") as executor:
        writing = _Writing(lambda users: registry.upsert(tenant_id, users), executor, on_progress)
        for row in rows:
            outcome = row if isinstance(row, RejectedRow) else _checked(registry, row)
            if isinstance(outcome, RejectedRow):
                writing.count_rejected()
                on_rejected(outcome)
            else:
                writing.add(outcome, source.bytes_read)
        return replace(writing.finish(), ignored_columns=source.ignored_columns)


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream, of which those above `MAX_ROW_BYTES` are cut: they are never held in memory."""
    while line := stream.readline(MAX_ROW_BYTES + 1):
        rest = line
        while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_ROW_BYTES + 1)
        yield line


class _UnreadableLine(ValueError):
    """A line from which no text comes; its text says why."""


class _Source(Iterator[str]):
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


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A user whose form is right, and the line they come from."""

    line: int
    user: UserInput


def _without_mark(first_line: bytes) -> bytes:
    """The first line without the byte-order mark that some editors write. Raises InvalidInput for UTF-16."""
    if first_line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first_line:
        raise _unusable("the file is not UTF-8 text: it looks like UTF-16; save it as UTF-8")
    return first_line.removeprefix(codecs.BOM_UTF8)


def _checked(registry: UserRegister, candidate: _Candidate) -> UserInput | RejectedRow:
    problems = registry.problems(candidate.user)
    if problems:
        return RejectedRow(candidate.line, problems, candidate.user.external_id)
    return candidate.user


def _ndjson_rows(source: _Source) -> Iterator[_Candidate | RejectedRow]:
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


def _user_from_json(line_number: int, line: bytes) -> _Candidate | RejectedRow:
    try:
        return _Candidate(line_number, UserInput.model_validate_json(line))
    except ValidationError as error:
        return RejectedRow(line_number, field_errors(error), _external_id_in(line))


def _external_id_in(line: bytes) -> str | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _shown(value.get("external_id")) if isinstance(value, dict) else None


def _csv_rows(source: _Source) -> Iterator[_Candidate | RejectedRow]:
    header, delimiter = _read_header(source)
    ignored = [_shown(name) for name in header if name and not is_row_column(name)]
    source.ignored_columns = tuple(name for name in ignored if name)
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
            yield _user_from_cells(line_number, header, cells)
        else:
            yield _rejected(line_number, f"has {len(cells)} cells where the header has {len(header)}")


def _user_from_cells(line_number: int, header: Sequence[str], cells: list[str]) -> _Candidate | RejectedRow:
    values = user_from_row(dict(zip(header, cells, strict=True)))
    try:
        return _Candidate(line_number, UserInput.model_validate(values))
    except ValidationError as error:
        return RejectedRow(line_number, field_errors(error), _shown(values.get("external_id")))


def _read_header(source: _Source) -> tuple[list[str], str]:
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


class _Writing:
    """Collects users into chunks, and writes one while the next is collected."""

    def __init__(
        self,
        write: Callable[[list[UserInput]], WrittenUsers],
        executor: ThreadPoolExecutor,
        on_progress: Callable[[ImportProgress], None],
    ) -> None:
        self._write = write
        self._executor = executor
        self._on_progress = on_progress
        self._summary = ImportSummary()
        self._chunk = _Chunk()
        self._under_way: tuple[_Chunk, Future[WrittenUsers]] | None = None

    def add(self, user: UserInput, bytes_read: int) -> None:
        """Take a user; `bytes_read` is where in the file they end."""
        self._chunk.add(user, bytes_read)
        if self._chunk.is_full():
            self._begin_chunk()

    def count_rejected(self) -> None:
        """A row more is rejected."""
        self._summary += ImportSummary(rejected=1)

    def finish(self) -> ImportSummary:
        """Write what is left; returns what the whole import did."""
        self._begin_chunk()
        self._end_chunk()
        return self._summary

    def _begin_chunk(self) -> None:
        self._end_chunk()
        self._under_way = self._chunk, self._executor.submit(self._write, self._chunk.users())
        self._chunk = _Chunk(self._chunk.ends)

    def _end_chunk(self) -> None:
        """Wait for the chunk that is being written, and count it."""
        if self._under_way is None:
            return
        chunk, future = self._under_way
        self._under_way = None
        written = future.result()
        self._summary += ImportSummary(
            created=written.created, updated=written.updated + chunk.repeated, replanned=written.replanned
        )
        self._on_progress(ImportProgress(chunk.ends, self._summary.read, self._summary.rejected))


class _Chunk:
    """Users to be written together, each external id once: the later row counts."""

    def __init__(self, begins: int = 0) -> None:
        self._begins = begins
        self._users: dict[str, UserInput] = {}
        self.ends = begins
        self.repeated = 0

    def add(self, user: UserInput, bytes_read: int) -> None:
        """Take a user, in place of an earlier one with their external id."""
        self.repeated += user.external_id in self._users
        self._users[user.external_id] = user
        self.ends = bytes_read

    def is_full(self) -> bool:
        """Whether it is worth a transaction, or as much as is to be held in memory."""
        return len(self._users) >= _USERS_PER_CHUNK or self.ends - self._begins >= _BYTES_PER_CHUNK

    def users(self) -> list[UserInput]:
        """The users."""
        return list(self._users.values())
