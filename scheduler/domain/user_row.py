"""Rows of a CSV file of people as input for `UserInput`, unchecked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scheduler.domain.user import ANNIVERSARY, BIRTHDAY

_ROW_FIELDS: Final = frozenset(
    {
        "external_id",
        "first_name",
        "last_name",
        "email",
        "phone",
        "push_token",
        "webhook_url",
        "timezone",
        "locale",
        "preferred_time",
    }
)
_ROW_DATES: Final[Mapping[str, str]] = {
    "birth_date": BIRTHDAY,
    BIRTHDAY: BIRTHDAY,
    "anniversary_date": ANNIVERSARY,
    ANNIVERSARY: ANNIVERSARY,
}
_DATE_COLUMN_PREFIX: Final = "date:"
_ATTRIBUTES: Final = "attributes"


class UserRows:
    """What the columns of one file mean, looked up once: a file has a million rows."""

    def __init__(self, header: Sequence[str]) -> None:
        self.fields = [(place, name) for place, name in enumerate(header) if name in _ROW_FIELDS]
        """The places of the columns that are a field of the same name."""
        self.dates = [
            (place, date) for place, name in enumerate(header) if (date := _date_in(name)) is not None
        ]
        """The places of the columns that are dates, and whose."""
        self.attributes = [place for place, name in enumerate(header) if name == _ATTRIBUTES]
        """The places of the columns of JSON."""
        read = {place for place, _ in (*self.fields, *self.dates)}.union(self.attributes)
        self.ignored = [name for place, name in enumerate(header) if name and place not in read]
        """The columns that say nothing to Daybreak."""

    def user(self, cells: Sequence[str]) -> dict[str, Any]:
        """A row, of as many cells as the header has, as input for `UserInput`: an empty cell is an absent value.

        `birth_date` and `anniversary_date` are the dates `birthday` and `anniversary`, which may also be called
        so, a column `date:NAME` is the date NAME, `attributes` is a JSON object, other columns are ignored. Of two
        columns for one date, the later counts.
        """
        user: dict[str, Any] = {name: value for place, name in self.fields if (value := cells[place].strip())}
        user["dates"] = {name: value for place, name in self.dates if (value := cells[place].strip())}
        for place in self.attributes:
            if value := cells[place].strip():
                user[_ATTRIBUTES] = _json_object(value)
        return user


def _date_in(column: str) -> str | None:
    """The name of the date that a column of this name holds, if it holds one."""
    if column.startswith(_DATE_COLUMN_PREFIX):
        return column.removeprefix(_DATE_COLUMN_PREFIX)
    return _ROW_DATES.get(column)


def _json_object(text: str) -> object:
    """What a cell of JSON says; the text itself, which is no object, where it cannot be read in one way only."""

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=each_once)
    except (ValueError, RecursionError):
        return text
