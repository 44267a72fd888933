"""Messages as callers see them, and the requests to send some."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.models.words import DAY_OF_ANY_YEAR_PATTERN, DAY_PATTERN, NULL, Instant, Word
from api.queries import PageQuery
from scheduler.domain.local_time import GapPolicy, OverlapPolicy
from scheduler.domain.message import AttemptOutcome, MessageState
from scheduler.domain.occasion import Channel, Priority, SameDayPolicy
from scheduler.domain.occasion_input import LanguageTag, Lateness, Name, PartOfDay, Text, TextInput
from scheduler.domain.user import (
    AttributeName,
    AttributeValue,
    DateName,
    ExternalId,
    LocalDate,
    ZoneName,
)
from scheduler.sending import MOST_USERS_LISTED

_LOCAL_MESSAGE: Final = (
    "must be a local date and time in whole minutes without a zone, such as 2027-03-01T09:00"
)
_LOCAL: Final = re.compile(r"(19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::00)?", re.ASCII)
_DAY_MESSAGE: Final = "must be a day of the year written MM-DD, such as 03-02"
_A_LEAP_YEAR: Final = 2000

_STRICT: Final = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _parse_local(value: object) -> datetime:
    try:
        if isinstance(value, str) and _LOCAL.fullmatch(value):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError(_LOCAL_MESSAGE)


def _parse_day(value: object) -> int:
    try:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{2}-[0-9]{2}", value, re.ASCII):
            found = date(_A_LEAP_YEAR, int(value[:2]), int(value[3:]))
            return found.month * 100 + found.day
    except ValueError:
        pass
    raise ValueError(_DAY_MESSAGE)


def _check_distinct(channels: list[Channel]) -> list[Channel]:
    if len(set(channels)) < len(channels):
        raise ValueError("must not hold the same channel twice")
    return channels


LocalTime = Annotated[
    datetime,
    BeforeValidator(_parse_local),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^(19|2[0-9])[0-9]{{2}}-{DAY_OF_ANY_YEAR_PATTERN}T([01][0-9]|2[0-3]):[0-5][0-9](:00)?$",
            "examples": ["2027-03-01T09:00"],
        },
    ),
]
DayOfYear = Annotated[
    int,
    BeforeValidator(_parse_day),
    WithJsonSchema({"type": "string", "pattern": f"^{DAY_PATTERN}$", "examples": ["03-02"]}),
]
Identity = Annotated[int, Field(ge=1, lt=2**63)]


class MessageListQuery(PageQuery):
    """Which messages to list. Both local dates are included, `send_at_until` is not."""

    user_id: Identity | None = None
    external_id: ExternalId | None = None
    occasion: Word | None = None
    send_id: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Messages of a request to send."""
    channel: Channel | None = None
    state: MessageState | None = None
    reason: Word | None = None
    """Why a message ended, such as `too_late`, or the category of its dead letter, such as `http_503`."""
    send_at_from: Instant | None = None
    send_at_until: Instant | None = None
    local_date_from: LocalDate | None = None
    local_date_until: LocalDate | None = None


class DateCriterion(BaseModel):
    """Users who have a date of this name; with `days`, on one of these days of the year."""

    model_config = _STRICT

    name: DateName
    days: Annotated[list[DayOfYear], Field(min_length=1, max_length=366)] | None = None


def _narrows_or_means_all(schema: dict[str, Any]) -> None:
    criteria = ("timezone", "date", "attributes")
    given = [{"required": [name], "properties": {name: {"not": NULL}}} for name in criteria]
    schema["oneOf"] = [
        {"required": ["all"], "properties": {"all": {"const": True}, **dict.fromkeys(criteria, NULL)}},
        {"properties": {"all": NULL}, "anyOf": given},
    ]


def _lists_or_filters(schema: dict[str, Any]) -> None:
    listed = [
        {"required": [name], "properties": {name: {"minItems": 1}}} for name in ("user_ids", "external_ids")
    ]
    none = {"user_ids": {"maxItems": 0}, "external_ids": {"maxItems": 0}}
    schema["oneOf"] = [
        {"properties": {"filter": NULL}, "anyOf": listed},
        {"required": ["filter"], "properties": {"filter": {"not": NULL}, **none}},
    ]


class RecipientFilter(BaseModel):
    """The users of whom all of this holds; `all` alone: everyone."""

    model_config = _STRICT | ConfigDict(json_schema_extra=_narrows_or_means_all)

    timezone: ZoneName | None = None
    date: DateCriterion | None = None
    attributes: Annotated[dict[AttributeName, AttributeValue], Field(min_length=1, max_length=20)] | None = (
        None
    )
    all: Literal[True] | None = None

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        narrows = not (self.timezone is None and self.date is None and self.attributes is None)
        if narrows and self.all is not None:
            raise PydanticCustomError("recipients", "must narrow whom it means, or mean all; not both")
        if not narrows and self.all is None:
            raise PydanticCustomError(
                "recipients",
                "must have a timezone, a date or attributes; leave it out where users are listed, "
                'or send {"all": true} to everyone',
            )
        return self


class RecipientsInput(BaseModel):
    """Who is to get it: users by id or external id, or all that a filter means when it is sent."""

    model_config = _STRICT | ConfigDict(json_schema_extra=_lists_or_filters)

    user_ids: Annotated[list[Identity], Field(max_length=MOST_USERS_LISTED)] = Field(default_factory=list)
    external_ids: Annotated[list[ExternalId], Field(max_length=MOST_USERS_LISTED)] = Field(
        default_factory=list
    )
    filter: RecipientFilter | None = None

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        listed = len(self.user_ids) + len(self.external_ids)
        if listed == 0 and self.filter is None:
            raise PydanticCustomError("recipients", "must name users, or have a filter")
        if listed > 0 and self.filter is not None:
            raise PydanticCustomError("recipients", "must have either users or a filter, not both")
        if listed > MOST_USERS_LISTED:
            raise PydanticCustomError("recipients", f"must list at most {MOST_USERS_LISTED} users")
        return self


class SendInput(BaseModel):
    """A request to send: now, at the instant `at`, or at `at_local` by each user's own clock."""

    model_config = _STRICT | ConfigDict(
        json_schema_extra={"anyOf": [{"properties": {"at": NULL}}, {"properties": {"at_local": NULL}}]}
    )

    to: RecipientsInput
    channels: Annotated[
        list[Annotated[Channel, Field(strict=False)]],
        Field(min_length=1, max_length=len(Channel), json_schema_extra={"uniqueItems": True}),
        AfterValidator(_check_distinct),
    ]
    subject: Text | Literal[""] = ""
    body: Text
    html: Text | None = None
    translations: Annotated[dict[LanguageTag, TextInput], Field(max_length=200)] = Field(default_factory=dict)
    at: Instant | None = None
    at_local: LocalTime | None = None
    name: Name = "Ad hoc"
    priority: Annotated[Priority, Field(strict=False)] = Priority.NORMAL
    expires_at: Instant | None = None
    """What is not sent by then is not sent at all, whatever put it off."""
    lateness_limit: Lateness | None = None
    """How late a message may be; quiet hours that put it off do not count. None: the limit of the settings."""
    gap: Annotated[GapPolicy, Field(strict=False)] = GapPolicy.FORWARD
    overlap: Annotated[OverlapPolicy, Field(strict=False)] = OverlapPolicy.FIRST
    same_day: Annotated[SameDayPolicy, Field(strict=False)] = SameDayPolicy.SEND
    """What a user gets where `at_local` is past and its date is not: the message at once, or none."""
    group: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """The group of occasions whose frequency cap holds."""
    quiet_hours: PartOfDay | None = None

    @model_validator(mode="after")
    def _has_one_time(self) -> Self:
        if self.at is not None and self.at_local is not None:
            raise PydanticCustomError("times", "must have at most one of at and at_local")
        return self

    @property
    def due(self) -> datetime | None:
        """The time asked for: an instant, a local time without a zone, or none for now."""
        return self.at_local if self.at is None else self.at.astimezone(UTC)


class MessageAnswer(BaseModel):
    """A message. `year`: which year is celebrated; the rules: how its date and time were found."""

    id: str
    user_id: int
    occasion: str | None
    local_date: date
    slot: int
    channel: Channel
    state: MessageState
    reason: str | None
    send_at: datetime
    accepted_at: datetime | None
    attempt: int
    timezone: str
    date_rule: str
    time_rule: str
    year: int | None


class AttemptAnswer(BaseModel):
    """An attempt at a message. Where its outcome is `failed` or `unknown`, `kind`, `category` and `detail` say why."""

    number: int
    """A failure that was not the message's fault costs it no attempt: its number comes again."""
    at: datetime | None
    """When it ended; null while it is under way."""
    outcome: AttemptOutcome
    provider: str | None
    """Null where none was asked, or where the log does not tell for certain which one was."""
    kind: str | None
    category: str | None
    detail: str | None
    batch_id: int | None


class MessageDeadLetterAnswer(BaseModel):
    """Why a message is not tried again by itself, and whether that is for good."""

    id: int
    attempt: int
    died_at: datetime
    category: str
    detail: str
    discarded_at: datetime | None
    discard_reason: str | None


class MessageHistoryAnswer(MessageAnswer):
    """A message with every attempt at it."""

    attempts: list[AttemptAnswer]
    dead_letter: MessageDeadLetterAnswer | None


class OneMessageAnswer(BaseModel):
    """A message with its history."""

    message: MessageHistoryAnswer


class MessageListAnswer(BaseModel):
    """A page of messages. It may be short, even empty: only one whose `next_cursor` is null is the last."""

    messages: list[MessageAnswer]
    next_cursor: str | None


class SendAnswer(BaseModel):
    """A request to send. `skipped` and `unreachable` count messages that were not written: the local time was past
    or does not exist where the user lives; the user has no address for the channel.
    """

    id: int
    occasion: str
    name: str
    created_at: datetime
    at: datetime | None
    at_local: str | None
    expires_at: datetime | None
    channels: list[Channel]
    priority: Priority
    users: int
    messages: int
    skipped: int
    unreachable: int
    audience: dict[str, Any]


class NewSendAnswer(BaseModel):
    """A send as it was written. `message_ids` is null where there are more than a hundred."""

    send: SendAnswer
    message_ids: list[str] | None


class SendCountsAnswer(SendAnswer):
    """A send with its messages by state. Not `exact`: a large one is counted by its batches, which know nothing of
    what was cancelled by hand or reported by a provider later.
    """

    states: dict[MessageState, int]
    exact: bool


class OneSendAnswer(BaseModel):
    """A send, with what has become of it."""

    send: SendCountsAnswer


class SendListAnswer(BaseModel):
    """A page of sends, the newest first."""

    sends: list[SendAnswer]
    next_cursor: str | None


class CancelledSendAnswer(BaseModel):
    """How many messages were taken back; those being sent, or tried again, are not."""

    cancelled: int


class RetriedMessageAnswer(OneMessageAnswer):
    """A message that is tried again, with when it falls due."""

    due_at: datetime
