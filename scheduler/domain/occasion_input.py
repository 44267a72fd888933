"""What an occasion may be: the one set of rules for whoever writes one.

Values are taken as written or refused, never guessed, as those of a user are (see `user`). Every policy has a value
that is declared here, so that a short input means something definite. What only the database knows (the group, the
key that is taken) and what the texts say is checked by whoever stores it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from scheduler.domain.duration import format_duration, parse_duration
from scheduler.domain.local_time import GapPolicy, OverlapPolicy
from scheduler.domain.merge_patch import merged
from scheduler.domain.occasion import (
    MAX_OFFSET_DAYS,
    AdHocRule,
    Channel,
    FixedRule,
    LeapDayPolicy,
    MessageText,
    Occasion,
    OnceRule,
    Priority,
    RecurrenceRule,
    Rule,
    SameDayPolicy,
    YearlyRule,
)
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.recurrence import parse_recurrence
from scheduler.domain.retry import RetryPolicy
from scheduler.domain.schema_of import PATCH_OF
from scheduler.domain.user import SOME_TEXT_PATTERN, DateName, LocalDate, TimeOfDay

MOST_LOCAL_TIMES: Final = 24
MOST_LATENESS: Final = timedelta(days=366)
LEAST_LATENESS: Final = timedelta(minutes=1)

KEY_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
KEY_MESSAGE: Final = (
    "must be a key such as name-day: up to 63 lower-case letters, digits, - and _, no sign first"
)
NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_QUIET_PATTERN: Final = "^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$"
# The form that we write; others of ISO 8601 are read as well.
_DURATION_PATTERN: Final = "^P(([1-9][0-9]?|[12][0-9]{2}|3[0-5][0-9]|36[0-6])D|T[1-9][0-9]{0,2}[HM])$"
_TEXT_PATTERN: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
_LONGEST_TEXT: Final = 200_000
_MOST_TRANSLATIONS: Final = 200
_MOST_RETRY_SECONDS: Final = 30 * 86_400
_DURATION_MESSAGE: Final = "must be an ISO 8601 duration such as PT25H or P2D, from one minute to 366 days"
_QUIET_MESSAGE: Final = "must be a part of the day such as 22:00-08:00; equal times mean no hour"


def _parse_lateness(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    try:
        duration = parse_duration(value) if isinstance(value, str) and value[:1] in ("P", "p") else None
    except ValueError:
        duration = None
    if duration is None or not LEAST_LATENESS <= duration <= MOST_LATENESS:
        raise ValueError(_DURATION_MESSAGE)
    return duration


def _parse_quiet_hours(value: object) -> object:
    if isinstance(value, QuietHours):
        return value
    try:
        return QuietHours.parse(value) if isinstance(value, str) else _refuse(_QUIET_MESSAGE)
    except ValueError:
        raise ValueError(_QUIET_MESSAGE) from None


def _refuse(message: str) -> object:
    raise ValueError(message)


def _check_recurrence(value: str) -> str:
    parse_recurrence(value)
    return value


def _check_distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not hold the same value twice")
    return values


def _check_unicode(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain the character NUL")
    return value


def _time_as_text(value: time) -> str:
    return value.isoformat("minutes")


Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NAME_PATTERN),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200, "pattern": SOME_TEXT_PATTERN}),
]
Text = Annotated[
    str,
    Field(min_length=1, max_length=_LONGEST_TEXT, json_schema_extra={"pattern": _TEXT_PATTERN}),
    AfterValidator(_check_unicode),
]
LanguageTag = Annotated[
    str,
    StringConstraints(min_length=2, max_length=50),
    AfterValidator(_check_unicode),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}$"}),
]
Lateness = Annotated[
    timedelta,
    BeforeValidator(_parse_lateness),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN, "examples": ["PT25H"]}),
]
PartOfDay = Annotated[
    QuietHours,
    BeforeValidator(_parse_quiet_hours),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _QUIET_PATTERN, "examples": ["22:00-08:00"]}),
]
ClockTime = Annotated[TimeOfDay, PlainSerializer(_time_as_text, return_type=str)]
Distinct = AfterValidator(_check_distinct)


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True)


class YearlyRuleInput(_StrictModel):
    """Every year from a named date of the user, so many days after it (before it where negative)."""

    kind: Literal["yearly"]
    date_name: DateName
    offset_days: Annotated[int, Field(ge=-MAX_OFFSET_DAYS, le=MAX_OFFSET_DAYS)] = 0

    def to_rule(self) -> Rule:
        """As it is planned by."""
        return YearlyRule(self.date_name, self.offset_days)


_DAYS_OF_MONTHS: Final[dict[str, Any]] = {
    "anyOf": [
        {"properties": {"day": {"maximum": 29}}},
        {"properties": {"day": {"maximum": 30}, "month": {"not": {"const": 2}}}},
        {"properties": {"month": {"enum": [1, 3, 5, 7, 8, 10, 12]}}},
    ]
}


class FixedRuleInput(_StrictModel):
    """Every year on the same calendar date."""

    model_config = ConfigDict(json_schema_extra=_DAYS_OF_MONTHS)

    kind: Literal["fixed"]
    month: Annotated[int, Field(ge=1, le=12)]
    day: Annotated[int, Field(ge=1, le=31)]

    @model_validator(mode="after")
    def _is_a_date(self) -> FixedRuleInput:
        FixedRule(self.month, self.day)
        return self

    def to_rule(self) -> Rule:
        """As it is planned by."""
        return FixedRule(self.month, self.day)


class RecurrenceRuleInput(_StrictModel):
    """By an RFC 5545 recurrence of dates, from its first date on."""

    kind: Literal["rrule"]
    rrule: Annotated[str, StringConstraints(max_length=500), AfterValidator(_check_recurrence)]
    starts_on: LocalDate

    def to_rule(self) -> Rule:
        """As it is planned by."""
        return RecurrenceRule(self.rrule, self.starts_on)


class OnceRuleInput(_StrictModel):
    """On one date."""

    kind: Literal["once"]
    on: LocalDate

    def to_rule(self) -> Rule:
        """As it is planned by."""
        return OnceRule(self.on)


RuleInput = Annotated[
    YearlyRuleInput | FixedRuleInput | RecurrenceRuleInput | OnceRuleInput, Field(discriminator="kind")
]


class TextInput(_StrictModel):
    """What a message says in one language, as templates."""

    subject: Text
    body: Text
    html: Text | None = None


class RetryInput(_StrictModel):
    """How often and how patiently a message is tried."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    base_seconds: Annotated[float, Field(ge=0, le=_MOST_RETRY_SECONDS)] = 1.0
    cap_seconds: Annotated[float, Field(ge=0, le=_MOST_RETRY_SECONDS)] = 3600.0

    @model_validator(mode="after")
    def _cap_is_no_less(self) -> RetryInput:
        if self.cap_seconds < self.base_seconds:
            raise PydanticCustomError("retry_cap", "cap_seconds must be a number from base_seconds")
        return self


class OccasionInput(_StrictModel):
    """A whole occasion, to create or replace one."""

    key: Key
    name: Name
    rule: RuleInput
    local_times: Annotated[
        tuple[ClockTime, ...],
        Field(
            min_length=1, max_length=MOST_LOCAL_TIMES, strict=False, json_schema_extra={"uniqueItems": True}
        ),
        Distinct,
    ] = (time(9),)
    honours_preferred_time: bool = True
    channels: Annotated[
        tuple[Annotated[Channel, Field(strict=False)], ...],
        Field(min_length=1, strict=False, json_schema_extra={"uniqueItems": True}),
        Distinct,
    ] = (Channel.EMAIL,)
    priority: Annotated[Priority, Field(strict=False)] = Priority.NORMAL
    subject: Text
    body: Text
    html: Text | None = None
    translations: Annotated[dict[LanguageTag, TextInput], Field(max_length=_MOST_TRANSLATIONS)] = Field(
        default_factory=dict
    )
    group: Key | None = None
    quiet_hours: PartOfDay | None = None
    gap: Annotated[GapPolicy, Field(strict=False)] = GapPolicy.FORWARD
    overlap: Annotated[OverlapPolicy, Field(strict=False)] = OverlapPolicy.FIRST
    leap_day: Annotated[LeapDayPolicy, Field(strict=False)] = LeapDayPolicy.FEB28
    same_day: Annotated[SameDayPolicy, Field(strict=False)] = SameDayPolicy.SEND
    lateness_limit: Lateness | None = None
    retry: RetryInput | None = None
    active: bool = True


class OccasionPatch(BaseModel):
    """A change as an RFC 7396 merge patch: what is not named stays, null takes away. See `OccasionInput` for values.

    What it results in is checked, so nothing is checked here but the names. A rule of another kind takes the
    place of the old one whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={PATCH_OF: "OccasionInput"})

    name: Any = None
    rule: dict[str, Any] | None = None
    local_times: Any = None
    honours_preferred_time: Any = None
    channels: Any = None
    priority: Any = None
    subject: Any = None
    body: Any = None
    html: Any = None
    translations: dict[str, Any] | None = None
    group: Any = None
    quiet_hours: Any = None
    gap: Any = None
    overlap: Any = None
    leap_day: Any = None
    same_day: Any = None
    lateness_limit: Any = None
    retry: dict[str, Any] | None = None
    active: Any = None


def input_of(occasion: Occasion) -> OccasionInput:
    """The input that an occasion could have been made from. Raises ValueError for what was sent ad hoc."""
    return OccasionInput.model_validate(
        {
            name: getattr(occasion, name)
            for name in OccasionInput.model_fields
            if name not in ("rule", "translations", "retry")
        }
        | {
            "rule": rule_as_json(occasion.rule),
            "translations": {
                tag: {"subject": said.subject, "body": said.body, "html": said.html}
                for tag, said in occasion.translations.items()
            },
            "retry": None
            if occasion.retry is None
            else {name: getattr(occasion.retry, name) for name in RetryInput.model_fields},
        }
    )


def rule_as_json(rule: Rule) -> dict[str, Any]:
    """A rule with its kind, as its input has it."""
    match rule:
        case YearlyRule(date_name, offset_days):
            return {"kind": "yearly", "date_name": date_name, "offset_days": offset_days}
        case FixedRule(month, day):
            return {"kind": "fixed", "month": month, "day": day}
        case RecurrenceRule(rrule, starts_on):
            return {"kind": "rrule", "rrule": rrule, "starts_on": starts_on}
        case OnceRule(on):
            return {"kind": "once", "on": on}
        case AdHocRule():
            raise ValueError("what was sent ad hoc has no rule that anybody could write")


def occasion_of(given: OccasionInput, tenant_id: int) -> Occasion:
    """The occasion that an input means; not stored yet, so its `id` is 0."""
    retry = given.retry
    return Occasion(
        id=0,
        tenant_id=tenant_id,
        key=given.key,
        name=given.name,
        rule=given.rule.to_rule(),
        local_times=given.local_times,
        honours_preferred_time=given.honours_preferred_time,
        channels=given.channels,
        priority=given.priority,
        subject=given.subject,
        body=given.body,
        gap=given.gap,
        overlap=given.overlap,
        leap_day=given.leap_day,
        same_day=given.same_day,
        lateness_limit=given.lateness_limit,
        retry=None if retry is None else RetryPolicy(**retry.model_dump()),
        active=given.active,
        version=1,
        planned_through=None,
        html=given.html,
        translations={
            tag: MessageText(said.subject, said.body, said.html) for tag, said in given.translations.items()
        },
        group=given.group,
        quiet_hours=given.quiet_hours,
    )


def applied(given: OccasionInput, occasion: Occasion) -> Occasion:
    """`occasion` with all that can be written of it as `given`."""
    return replace(
        occasion_of(given, occasion.tenant_id),
        id=occasion.id,
        version=occasion.version,
        planned_through=occasion.planned_through,
        paused_at=occasion.paused_at,
        archived_at=occasion.archived_at,
        replan_from=occasion.replan_from,
        ahead_through=occasion.ahead_through,
    )


def patched(occasion: OccasionInput, patch: OccasionPatch) -> OccasionInput:
    """`occasion` with `patch` merged in (RFC 7396); raises ValidationError if the result is no occasion."""
    target = occasion.model_dump()
    changes = patch.model_dump(exclude_unset=True)
    rule = changes.get("rule")
    if isinstance(rule, dict) and rule.get("kind", target["rule"]["kind"]) != target["rule"]["kind"]:
        target["rule"] = {}
    return OccasionInput.model_validate(merged(target, changes))
