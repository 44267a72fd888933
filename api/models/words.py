"""Values that several resources take: instants, and short texts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from scheduler.clock import as_utc
from scheduler.domain.user import TEXT_PATTERN

NULL: Final[dict[str, Any]] = {"type": "null"}
"""The schema of null."""

DAY_PATTERN: Final = "((0[1-9]|1[0-2])-(0[1-9]|[12][0-9])|(0[13-9]|1[0-2])-30|(0[13578]|1[02])-31)"
"""A day of the year, 29 February among them."""

DAY_OF_ANY_YEAR_PATTERN: Final = DAY_PATTERN.replace(
    "-(0[1-9]|[12][0-9])", "-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-29"
)
"""A day that every year has."""

_FIRST_YEAR: Final = 1900
_LAST_YEAR: Final = 2999


def _parse_instant(value: object) -> datetime:
    try:
        written = datetime.fromisoformat(value) if isinstance(value, str) else None
        # By the year as it is written, which is what the document can tell of.
        instant = as_utc(written) if written and _FIRST_YEAR <= written.year <= _LAST_YEAR else None
    except ValueError:
        instant = None
    if instant is None:
        raise ValueError("must be an instant with its zone, such as 2027-03-01T09:00:00Z")
    return instant


Instant = Annotated[
    datetime,
    BeforeValidator(_parse_instant),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": "^(19|2[0-9])",
            "examples": ["2027-03-01T09:00:00Z"],
        }
    ),
]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=TEXT_PATTERN)]


def exactly_one(*names: str) -> dict[str, Any]:
    """What a JSON schema says of fields of which exactly one must be given."""
    choices = [
        {
            "required": [name],
            "properties": {each: {"not": NULL} if each == name else NULL for each in names},
        }
        for name in names
    ]
    return {"oneOf": choices}
