"""Rows of a CSV file checked column by column: some microseconds a row less than one by one, by the same rules.

Each column is checked by the type that `UserInput` has for it, values that many have in common (zones, days) once. A
row with a value that is not right beyond doubt is read as any row is, and so are those with attributes. Lines that are
not a row each, or no text, are not read here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from itertools import repeat
from typing import Any, Final, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.mailbox import are_plain
from scheduler.domain.user import (
    BIRTHDAY,
    DateName,
    Email,
    ExternalId,
    FirstName,
    LastName,
    LocalDate,
    Locale,
    Phone,
    PushToken,
    TimeOfDay,
    UserInput,
    WebhookUrl,
    ZoneName,
    field_errors,
)
from scheduler.domain.user_columns import UserColumns, dates_of
from scheduler.domain.user_row import UserRows
from scheduler.importing.chunks import Candidate, Chunk, RejectedRow
from scheduler.importing.lines import MAX_ROW_BYTES, shown

_STRICT: Final = ConfigDict(strict=True)
_MOST_REMEMBERED: Final = 100_000
_MOST_DATES: Final = 50

# What they may be is looked up in a few hundred values at most, or some ten thousand days.
_COMMON: Final[Mapping[str, Any]] = {"timezone": ZoneName, "locale": Locale, "preferred_time": TimeOfDay}
_OWN: Final[Mapping[str, Any]] = {
    "external_id": ExternalId,
    "first_name": FirstName,
    "last_name": LastName,
    "email": Email,
    "phone": Phone,
    "push_token": PushToken,
    "webhook_url": WebhookUrl,
}
_REQUIRED: Final = frozenset({"external_id", "first_name", "timezone"})
_DEFAULTS: Final[Mapping[str, Any]] = {"locale": "en", "preferred_time": None}


class Checks(Protocol):
    """What today's date tells of users."""

    def problems(self, user: UserInput) -> list[FieldError]:
        """What is wrong with a user."""

    def past(self) -> date:
        """A day that is past wherever a user may live: nothing is wrong with a birthday up to it."""


class Table:
    """The columns of one file."""

    def __init__(self, header: Sequence[str], delimiter: str, rows: UserRows, checks: Checks) -> None:
        self._width = len(header)
        self.delimiter = delimiter
        """What separates cells."""
        self._rows = rows
        self._checks = checks
        self._own = {name: _list_of(kind) for name, kind in _OWN.items()}
        self._common = {name: _Common(kind) for name, kind in _COMMON.items()}
        self._dates = _Common(LocalDate)
        self._are_dates_named = _are_names(rows.dates)

    def read(self, lines: Sequence[bytes], first_line: int, ends: int) -> Chunk | None:
        """The rows of some lines, the last of which ends at byte `ends`; None if they cannot be read like this."""
        text = self._text(lines) if self._are_dates_named else None
        if text is None:
            return None
        is_plain = '"' not in text and "\r" not in text
        if is_plain and (columns := self._columns(text, lines)) is not None:
            return self._checked(columns, range(first_line, first_line + len(lines)), [], ends)
        cells = self._cells(text, len(lines), is_plain=is_plain)
        if cells is None:
            return None
        numbers: Sequence[int] = range(first_line, first_line + len(cells))
        rejected: list[RejectedRow] = []
        if any(len(row) != self._width for row in cells):
            rejected = [each for each in map(self._odd, numbers, cells) if each is not None]
            kept = [place for place, row in enumerate(cells) if len(row) == self._width]
            numbers = [numbers[place] for place in kept]
            cells = [cells[place] for place in kept]
        if not cells:
            return Chunk(UserColumns.of([]), [], rejected, ends, 0)
        return self._checked(list(zip(*cells, strict=True)), numbers, rejected, ends)

    def _text(self, lines: Sequence[bytes]) -> str | None:
        if max(map(len, lines)) > MAX_ROW_BYTES:
            return None
        try:
            return b"".join(lines).decode()
        except UnicodeDecodeError:
            return None

    def _columns(self, text: str, lines: Sequence[bytes]) -> list[list[str]] | None:
        """The columns of lines without quotes, in one go and without a list for each; None unless all are as wide."""
        width = self._width
        if set(map(bytes.count, lines, repeat(self.delimiter.encode()))) != {width - 1}:
            return None
        cells = text.removesuffix("\n").replace("\n", self.delimiter).split(self.delimiter)
        if len(cells) != width * len(lines):
            return None
        return [cells[place::width] for place in range(width)]

    def _cells(self, text: str, count: int, *, is_plain: bool) -> list[list[str]] | None:
        """The cells of each of `count` lines; None where a line may not be a row."""
        rows = text.split("\n")
        if not rows[-1]:
            rows.pop()
        if is_plain:
            return [row.split(self.delimiter) for row in rows]
        reader = csv.reader(rows, delimiter=self.delimiter, strict=True)
        try:
            cells = list(reader)
        except csv.Error:
            return None
        return cells if len(cells) == reader.line_num == count else None

    def _odd(self, line: int, row: Sequence[str]) -> RejectedRow | None:
        """Why a row is left out that has other cells than the header, if it is more than a blank line."""
        if len(row) == self._width or not row or row == [""]:
            return None
        message = f"has {len(row)} cells where the header has {self._width}"
        return RejectedRow(line, [FieldError("", message)], None)

    def _checked(
        self, cells: Sequence[Sequence[str]], numbers: Sequence[int], rejected: list[RejectedRow], ends: int
    ) -> Chunk:
        """What these columns of cells say."""
        count = len(numbers)
        columns = [list(map(str.strip, column)) for column in cells]
        doubtful: set[int] = set()
        values = self._values(columns, doubtful)
        dates = {
            name: self._dates.values_of(columns[place], doubtful, required=False)
            for place, name in self._rows.dates
        }
        if BIRTHDAY in dates:
            past = self._checks.past()
            doubtful.update(
                place for place, day in enumerate(dates[BIRTHDAY]) if day is not None and day > past
            )
        for place in self._rows.attributes:
            doubtful.update(number for number, cell in enumerate(columns[place]) if cell)
        attributes: list[Mapping[str, Any]] = [{}] * count
        refused: set[int] = set()
        for place in sorted(doubtful):
            row = self.row(numbers[place], [column[place] for column in cells])
            if isinstance(row, Candidate):
                _put(row.user, place, values, dates, attributes)
            elif row is not None:
                rejected.append(row)
                refused.add(place)
        preferred_times: Sequence[time | None] = values.pop("preferred_time")
        users = UserColumns(
            values, preferred_times, attributes, {name: dates_of(column) for name, column in dates.items()}
        )
        if refused:
            keep = [place not in refused for place in range(count)]
            users = users.kept(keep)
            numbers = [number for number, is_kept in zip(numbers, keep, strict=True) if is_kept]
        rejected.sort(key=lambda each: each.line)
        return Chunk(users, numbers, rejected, ends, users.without_address).each_once()

    def _values(self, columns: Sequence[list[str]], doubtful: set[int]) -> dict[str, Any]:
        """The columns but for dates and attributes; places of rows that are not right beyond doubt are added."""
        count = len(columns[0])
        places = {name: place for place, name in self._rows.fields}
        found: dict[str, Any] = {}
        for name, kind in self._own.items():
            if name in places:
                found[name] = _own_values(name, kind, columns[places[name]], doubtful)
            else:
                found[name] = [""] * count
        for name, common in self._common.items():
            if name in places:
                values = common.values_of(columns[places[name]], doubtful, required=name in _REQUIRED)
                if (default := _DEFAULTS.get(name)) is not None:
                    values = [default if value is None else value for value in values]
                found[name] = values
            else:
                found[name] = [_DEFAULTS[name]] * count
        return found

    def row(self, line: int, cells: Sequence[str]) -> Candidate | RejectedRow | None:
        """A row by itself; None: it is blank."""
        if len(cells) != self._width:
            return self._odd(line, cells)
        values = self._rows.user(cells)
        try:
            user = UserInput.model_validate(values)
        except ValidationError as error:
            return RejectedRow(line, field_errors(error), shown(values.get("external_id")))
        if problems := self._checks.problems(user):
            return RejectedRow(line, problems, user.external_id)
        return Candidate(line, user)


def _list_of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(list[kind], config=_STRICT)


class _Common:
    """A kind of values of which many are the same: each is checked once."""

    def __init__(self, kind: Any) -> None:
        self._kind: TypeAdapter[Any] = TypeAdapter(kind, config=_STRICT)
        self._known: dict[str, Any] = {}

    def values_of(self, column: Sequence[str], doubtful: set[int], *, required: bool) -> list[Any]:
        """The values, None for an empty text; the places of those that are not right are added to `doubtful`."""
        known = self._known
        if len(known) > _MOST_REMEMBERED:
            known.clear()
        wrong = set()
        for text in set(column).difference(known):
            try:
                known[text] = self._kind.validate_python(text) if text or required else None
            except ValidationError:
                wrong.add(text)
        if wrong:
            doubtful.update(place for place, text in enumerate(column) if text in wrong)
            return [known.get(text) for text in column]
        return list(map(known.__getitem__, column))


def _own_values(name: str, kind: TypeAdapter[Any], column: list[str], doubtful: set[int]) -> list[str]:
    """The values of a column of which each person has their own."""
    if name in _REQUIRED or "" not in column:
        return _accepted(name, kind, column, range(len(column)), doubtful)
    given = [place for place, text in enumerate(column) if text]
    accepted = _accepted(name, kind, [column[place] for place in given], given, doubtful)
    for place, value in zip(given, accepted, strict=True):
        column[place] = value
    return column


def _accepted(
    name: str, kind: TypeAdapter[Any], texts: list[str], places: Sequence[int], doubtful: set[int]
) -> list[str]:
    if name == "email" and are_plain(texts):
        return texts
    try:
        accepted: list[str] = kind.validate_python(texts)
    except ValidationError as error:
        # Whatever else may be said of them: a row of these is read by itself.
        found = error.errors(include_url=False, include_context=False, include_input=False)
        doubtful.update(places[int(each["loc"][0])] for each in found)
        return texts
    return accepted


def _put(
    user: UserInput,
    place: int,
    values: Mapping[str, list[Any]],
    dates: Mapping[str, list[date | None]],
    attributes: list[Mapping[str, Any]],
) -> None:
    """Have the columns say at `place` what was found of the row by itself."""
    for name, column in values.items():
        value = getattr(user, name)
        column[place] = "" if value is None and name in _OWN else value
    for name, days in dates.items():
        days[place] = user.dates.get(name)
    attributes[place] = user.attributes


def _are_names(dates: Iterable[tuple[int, str]]) -> bool:
    """Whether these may be the names of a user's dates, each for one column; otherwise each row tells what is wrong."""
    names = [name for _, name in dates]
    if len(set(names)) < len(names) or len(names) > _MOST_DATES:
        return False
    try:
        TypeAdapter(list[DateName], config=_STRICT).validate_python(names)
    except ValidationError:
        return False
    return True
