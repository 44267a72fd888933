"""Read people from CSV or NDJSON, line by line: users whose form is right, and rows that are not.

- CSV: RFC 4180 in UTF-8, a header first, cells separated by commas (or by semicolons or tabs, as spreadsheets
  write them where the comma is the decimal sign). Columns as in `UserRows`; unknown ones are ignored.
- NDJSON: one JSON object a line, each a `UserInput`; a name that stands twice in an object is refused.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput, field_errors
from scheduler.domain.user_row import UserRows
from scheduler.importing import chunks
from scheduler.importing.chunks import Candidate, Chunk, RejectedRow, chunk_of
from scheduler.importing.columns import Checks, Table
from scheduler.importing.lines import MAX_ROW_BYTES, Source, UnreadableLine, shown, unusable

_REQUIRED_COLUMNS: Final = ("external_id", "first_name", "timezone")
_DELIMITERS: Final = (",", ";", "\t")

# Where a name ends in JSON. In a string a quote is escaped, so there may be more of these than names, never fewer.
_NAME_ENDS: Final = re.compile(rb'"\s*+:')


class ImportForm(StrEnum):
    """What a file of people may look like."""

    csv = "csv"
    ndjson = "ndjson"


def chunks_of(source: Source, form: ImportForm, checks: Checks) -> Iterator[Chunk]:
    """The rows of a file, some thousands at once, checked as of today.

    Raises InvalidInput, before the first, for a file that cannot be read at all.
    """
    if form is ImportForm.csv:
        return _csv_chunks(source, checks)
    return _gathered(source, _checked(_ndjson_rows(source), checks))


def _gathered(source: Source, rows: Iterator[Candidate | RejectedRow]) -> Iterator[Chunk]:
    """Rows that are read one by one, as chunks."""
    begins, gathered = source.bytes_read, list[Candidate | RejectedRow]()
    for row in rows:
        gathered.append(row)
        if len(gathered) >= chunks.USERS_PER_CHUNK or source.bytes_read - begins >= chunks.BYTES_PER_CHUNK:
            yield chunk_of(gathered, source.bytes_read)
            begins, gathered = source.bytes_read, []
    if gathered:
        yield chunk_of(gathered, source.bytes_read)


def _checked(rows: Iterator[Candidate | RejectedRow], checks: Checks) -> Iterator[Candidate | RejectedRow]:
    for row in rows:
        if isinstance(row, Candidate) and (problems := checks.problems(row.user)):
            yield RejectedRow(row.line, problems, row.user.external_id)
        else:
            yield row


def _ndjson_rows(source: Source) -> Iterator[Candidate | RejectedRow]:
    is_first = True
    while True:
        line_number = source.begin_row()
        try:
            line = source.next_bytes().strip()
        except StopIteration:
            return
        except UnreadableLine as error:
            yield _rejected(line_number, str(error))
            continue
        if not line:
            continue
        if is_first and not line.startswith(b"{"):
            raise unusable(f"the file is not NDJSON: line {line_number} must be a JSON object, as every line")
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
        return RejectedRow(line_number, errors, shown(user.external_id))
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
    return shown(value.get("external_id")) if isinstance(value, dict) else None


def _csv_chunks(source: Source, checks: Checks) -> Iterator[Chunk]:
    header, delimiter = _read_header(source)
    rows = UserRows(header)
    source.ignored_columns = tuple(name for each in rows.ignored if (name := shown(each)))
    csv.field_size_limit(MAX_ROW_BYTES)
    table = Table(header, delimiter, rows, checks)
    while True:
        first_line = source.line + 1
        lines = source.take(chunks.USERS_PER_CHUNK, chunks.BYTES_PER_CHUNK)
        if not lines:
            return
        chunk = table.read(lines, first_line, source.bytes_read)
        if chunk is not None:
            yield chunk
        else:
            through = source.line
            source.give_back(lines)
            yield from _gathered(source, _csv_rows(source, through, table))


def _csv_rows(source: Source, through: int, table: Table) -> Iterator[Candidate | RejectedRow]:
    """The rows that begin on the next lines up to `through`, one by one."""
    reader = csv.reader(source, delimiter=table.delimiter, strict=True)
    while source.line < through:
        line_number = source.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnreadableLine) as error:
            yield _rejected(line_number, _unreadable(str(error), line_number, source.line))
            continue
        if row := table.row(line_number, cells):
            yield row


def _read_header(source: Source) -> tuple[list[str], str]:
    """The columns, and what separates them: the delimiter under which all required ones are there."""
    try:
        line = next((line for line in source if line.strip()), None)
    except UnreadableLine as error:
        raise unusable(f"the header, line {source.line}, {error}") from None
    if line is None:
        raise unusable("the file is empty: its first line must be a header with the names of the columns")
    for delimiter in _DELIMITERS:
        columns = _columns(line, delimiter)
        if set(_REQUIRED_COLUMNS) <= set(columns):
            _refuse_repeated(columns)
            return columns, delimiter
    raise unusable(_missing_columns(line))


def _columns(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except csv.Error as error:
        raise unusable(f"the header cannot be read: {error}") from None


def _missing_columns(line: str) -> str:
    columns = max((_columns(line, delimiter) for delimiter in _DELIMITERS), key=len)
    missing = ", ".join(name for name in _REQUIRED_COLUMNS if name not in columns)
    if len(columns) == 1:
        return (
            f"the header lacks the columns {missing}; columns are separated by commas, semicolons or tabs, "
            "and it has only one"
        )
    return f"the header lacks the columns {missing}; it has {shown(', '.join(columns))}"


def _refuse_repeated(columns: Sequence[str]) -> None:
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise unusable(f"the header names a column twice: {shown(', '.join(repeated))}")


def _unreadable(reason: str, first_line: int, last_line: int) -> str:
    if first_line == last_line:
        return reason
    return f'lines {first_line} to {last_line} are one row, as a quoted cell (") goes on: {reason}'


def _rejected(line_number: int, message: str) -> RejectedRow:
    return RejectedRow(line_number, [FieldError("", message)], None)
