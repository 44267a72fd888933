"""A row of a CSV file of people as input for `UserInput`, unchecked."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def is_row_column(name: str) -> bool:
    """Whether `user_from_row` reads a column of this name."""
    return name in (*_ROW_FIELDS, *_ROW_DATES, _ATTRIBUTES) or name.startswith(_DATE_COLUMN_PREFIX)


def user_from_row(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a CSV file as input for `UserInput`, unchecked: an empty cell is an absent value.

    `birth_date` and `anniversary_date` are the dates `birthday` and `anniversary`, which may also be called
    so, a column `date:NAME` is the date NAME, `attributes` is a JSON object, other columns are ignored. Of two columns
    for one date, the later counts.
    """
    user: dict[str, Any] = {}
    dates: dict[str, str] = {}
    for column, cell in row.items():
        value = cell.strip() if cell else None
        if not value:
            continue
        if column in _ROW_FIELDS:
            user[column] = value
        elif column in _ROW_DATES:
            dates[_ROW_DATES[column]] = value
        elif column.startswith(_DATE_COLUMN_PREFIX):
            dates[column.removeprefix(_DATE_COLUMN_PREFIX)] = value
        elif column == _ATTRIBUTES:
            user[_ATTRIBUTES] = _json_object(value)
    user["dates"] = dates
    return user


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
