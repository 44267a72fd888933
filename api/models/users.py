"""Users as callers see them: what is asked for, written, imported, exported."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from api.models.answer import Answer
from api.models.messages import DayOfYear
from api.models.words import DAY_OF_ANY_YEAR_PATTERN, DAY_PATTERN, Instant
from api.queries import NoQuery, PageQuery
from scheduler.domain.user import (
    AttributeName,
    AttributeValue,
    DateName,
    ExternalId,
    LocalDate,
    UserInput,
    ZoneName,
    field_errors,
)
from scheduler.store.user_queries import UserFilter

_DAY_MESSAGE = "must be a day of the year written MM-DD, or a date written YYYY-MM-DD"
_ATTRIBUTES_MESSAGE = 'must be a JSON object of attributes and their values, such as {"plan": "gold"}'

Attributes = Annotated[dict[AttributeName, AttributeValue], Field(min_length=1, max_length=20)]

_ATTRIBUTES: TypeAdapter[dict[str, Any]] = TypeAdapter(Attributes)
_DATE: TypeAdapter[date] = TypeAdapter(LocalDate)
_DAY: TypeAdapter[int] = TypeAdapter(DayOfYear)


def _refuse(_: object) -> NoReturn:
    raise ValueError


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError
    return values


def _parse_attributes(value: object) -> dict[str, Any]:
    try:
        given = json.loads(str(value), object_pairs_hook=_each_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError(_ATTRIBUTES_MESSAGE) from None
    try:
        return _ATTRIBUTES.validate_python(given, strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(map(str, field_errors(error)))) from None


def _parse_day(value: object) -> int | date:
    text = str(value)
    try:
        return _DAY.validate_python(text) if len(text) == 5 else _DATE.validate_python(text)
    except ValidationError:
        raise ValueError(_DAY_MESSAGE) from None


DayOrDate = Annotated[
    int | date,
    PlainValidator(_parse_day),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^(({DAY_PATTERN})|(19|2[0-9])[0-9]{{2}}-({DAY_OF_ANY_YEAR_PATTERN}))$",
            "examples": ["03-02", "1990-03-02"],
        }
    ),
]
AttributesText = Annotated[
    dict[str, Any],
    PlainValidator(_parse_attributes),
    WithJsonSchema(
        {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": _ATTRIBUTES.json_schema(),
            "examples": ['{"plan": "gold"}'],
        }
    ),
]


class UserExportQuery(NoQuery):
    """Which users are meant: those of whom all that is given holds."""

    timezone: ZoneName | None = None
    date: DateName | None = None
    """Who has a date of this name; with `on`, on that day."""
    on: DayOrDate | None = None
    """A day of any year, or of one."""
    attributes: AttributesText | None = None
    """A JSON object: who has all of these attributes with these values."""
    updated_since: Instant | None = None

    @property
    def wanted(self) -> UserFilter:
        """The same for the store."""
        return UserFilter(
            timezone=self.timezone,
            date_name=self.date,
            month_day=self.on if isinstance(self.on, int) else None,
            on=None if isinstance(self.on, int) else self.on,
            attributes=self.attributes,
            updated_since=self.updated_since,
        )


class UserListQuery(UserExportQuery, PageQuery):
    """Which users to list."""

    external_id: ExternalId | None = None

    @property
    def wanted(self) -> UserFilter:
        """The same for the store."""
        return replace(super().wanted, external_id=self.external_id)


class ExternalUserInput(UserInput):
    """A whole user whose external id stands in the path; here it may be left out."""

    external_id: ExternalId = Field(default_factory=str)


class UserAnswer(Answer):
    """A user. `version` grows with every change; it is also the ETag."""

    id: int
    external_id: str
    first_name: str
    last_name: str
    email: str | None
    phone: str | None
    push_token: str | None
    webhook_url: str | None
    timezone: str
    locale: str
    preferred_time: str | None
    """A time of day, HH:MM."""
    dates: dict[str, date]
    attributes: dict[str, AttributeValue]
    version: int
    created_at: datetime
    updated_at: datetime


class ReplannedAnswer(Answer):
    """What a write changed in the message log, in messages. `kept`: what they say may have changed."""

    planned: int
    moved: int
    kept: int
    removed: int


class OneUserAnswer(Answer):
    """A user."""

    user: UserAnswer


class WrittenUserAnswer(OneUserAnswer):
    """A user as they are now, and what that changed."""

    replanned: ReplannedAnswer


class DeletedUserAnswer(Answer):
    """What the deletion changed."""

    replanned: ReplannedAnswer


class UserListAnswer(Answer):
    """A page of users in order of id. It may be short, even empty: only one whose `next_cursor` is null is the last."""

    users: list[UserAnswer]
    next_cursor: str | None


class ImportQuery(NoQuery):
    """How to import. `all`: nothing is written unless every row is right."""

    mode: Literal["good_rows", "all"] = "good_rows"


class RowErrorAnswer(Answer):
    """What is wrong with a row: where in the user, and why."""

    pointer: str
    detail: str


class RejectedRowAnswer(Answer):
    """A row that was not taken, by its first line."""

    line: int
    external_id: str | None
    errors: list[RowErrorAnswer]


class ImportAnswer(Answer):
    """What an import did, in rows. Asked for as NDJSON, the answer tells every rejected row, and how far it is."""

    mode: Literal["good_rows", "all"]
    read: int
    created: int
    updated: int
    unchanged: int
    """Rows of users who were so already."""
    rejected: int
    without_address: int
    """Rows taken of users who have nothing but their inbox."""
    rejected_rows: list[RejectedRowAnswer]
    """The first hundred."""
    replanned: ReplannedAnswer
    ignored_columns: list[str]
