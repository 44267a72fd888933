"""Occasions and what is done with them, as callers send and see them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.models.answer import Answer
from api.queries import PageQuery
from scheduler.domain.calendar import DateRule
from scheduler.domain.local_time import GapPolicy, OverlapPolicy, TimeRule
from scheduler.domain.message import MessageState
from scheduler.domain.occasion import Channel, LeapDayPolicy, Priority, SameDayPolicy
from scheduler.domain.occasion_input import (
    FixedRuleInput,
    Key,
    Lateness,
    Name,
    OccasionInput,
    OnceRuleInput,
    RecurrenceRuleInput,
    RetryInput,
    TextInput,
    YearlyRuleInput,
)
from scheduler.domain.upcoming import OddDay
from scheduler.domain.user import UserInput
from scheduler.occasions import BacklogChoice

MOST_OCCURRENCES = 50
MOST_PREVIEWED = 10


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class OccasionListQuery(PageQuery):
    """Which occasions to list; those that are archived only where they are asked for."""

    active: bool | None = None
    archived: bool = False
    kind: Literal["yearly", "fixed", "rrule", "once"] | None = None
    channel: Channel | None = None


class CloneBody(_Body):
    """What the copy is called; it sends nothing before it is active."""

    key: Key
    name: Name | None = None
    active: bool = False


class ResumeBody(_Body):
    """What becomes of messages that fell due in the pause: required where there are any."""

    backlog: Annotated[BacklogChoice, Field(strict=False)] | None = None


class PreviewBody(_Body):
    """An occasion, and for whom to show it: stored users, made-up ones, or else some of the stored ones."""

    occasion: OccasionInput
    user_ids: (
        Annotated[list[Annotated[int, Field(ge=1, lt=2**63)]], Field(min_length=1, max_length=MOST_PREVIEWED)]
        | None
    ) = None
    users: Annotated[list[UserInput], Field(min_length=1, max_length=MOST_PREVIEWED)] | None = None
    next: Annotated[int, Field(ge=0, le=MOST_OCCURRENCES)] = 3
    odd_days: bool = False


class OccurrencesQuery(BaseModel):
    """How many occurrences to show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    next: Annotated[int, Field(ge=1, le=MOST_OCCURRENCES)] = 10


class OccasionAnswer(Answer):
    """An occasion, as it is stored."""

    id: int
    key: str
    name: str
    rule: Annotated[
        YearlyRuleInput | FixedRuleInput | RecurrenceRuleInput | OnceRuleInput, Field(discriminator="kind")
    ]
    local_times: list[str]
    honours_preferred_time: bool
    channels: list[Channel]
    priority: Priority
    subject: str
    body: str
    html: str | None
    translations: dict[str, TextInput]
    group: str | None
    quiet_hours: str | None
    gap: GapPolicy
    overlap: OverlapPolicy
    leap_day: LeapDayPolicy
    same_day: SameDayPolicy
    lateness_limit: str | None
    """An ISO 8601 duration; null: the limit of the settings."""
    retry: RetryInput | None
    active: bool
    paused_at: datetime | None
    archived_at: datetime | None
    version: int
    planned_through: datetime | None
    """Up to when all its messages are in the log."""
    is_replanned: bool
    """Whether the log agrees with its newest edit for everyone; nothing of it is sent before."""


class OneOccasionAnswer(Answer):
    """An occasion."""

    occasion: OccasionAnswer


class OccasionListAnswer(Answer):
    """A page of occasions, the oldest first."""

    occasions: list[OccasionAnswer]
    next_cursor: str | None


class PlannedAnswer(Answer):
    """What planning put into the log: messages, and the batches that carry them."""

    added: int
    already_there: int
    batches: int


class ReplannedOccasionAnswer(Answer):
    """What an edit changed in the log, in messages."""

    planned: int
    moved: int
    kept: int
    removed: int


class CreatedOccasionAnswer(Answer):
    """A new occasion, and what of it was planned."""

    occasion: OccasionAnswer
    planned: PlannedAnswer
    is_done: bool
    """Whether it is planned through the horizon; if not, the scheduler does the rest."""
    warnings: list[str]


class WrittenOccasionAnswer(Answer):
    """An occasion after an edit, and what that changed."""

    occasion: OccasionAnswer
    replanned: ReplannedOccasionAnswer
    is_done: bool
    """Whether everyone has been replanned; if not, the scheduler does the rest, and nothing is sent until then."""
    warnings: list[str]


class DeletedOccasionAnswer(Answer):
    """`archived`: something of it had been planned, so it is kept for its history."""

    deleted: bool
    archived: bool
    occasion: OccasionAnswer | None


class BacklogAnswer(Answer):
    """Messages that fell due in a pause."""

    due: int
    within_limit: int
    """May still be sent, as things are now."""
    too_late: int
    """Past their lateness limit: they expire, whatever is chosen."""
    oldest_at: datetime | None


class PausedBacklogAnswer(Answer):
    """The backlog of an occasion; nothing where it does not pause."""

    paused_at: datetime | None
    backlog: BacklogAnswer


class ResumedOccasionAnswer(Answer):
    """An occasion that goes on, and what there was of a backlog; what was not skipped goes out now."""

    occasion: OccasionAnswer
    backlog: BacklogAnswer
    skipped: int


class SaidAnswer(Answer):
    """What a message says to its reader."""

    subject: str
    body: str
    html: str | None


class PreviewedMessageAnswer(Answer):
    """An occurrence. `send_at` null: nothing is sent on that day, and there is no text."""

    local_date: date
    local_time: str | None
    slot: int | None
    date_rule: DateRule | None
    time_rule: TimeRule | None
    send_at: datetime | None
    local: str | None
    """The instant by the user's clock, with its offset from UTC."""
    put_off_until: datetime | None
    """The end of the user's quiet hours, for channels that disturb."""
    text: SaidAnswer | None
    text_error: str | None


class OddDayAnswer(PreviewedMessageAnswer):
    """An occurrence as it is, was or would be on a day of which clocks or calendars make something special."""

    day: OddDay


class PreviewedUserAnswer(Answer):
    """What one user would get."""

    user_id: int | None
    """Null: somebody made up."""
    external_id: str
    timezone: str
    locale: str
    channels: list[Channel]
    """Those of the occasion that they have an address for."""
    lacks_date: bool
    """They do not have the date that the occasion celebrates."""
    next: list[PreviewedMessageAnswer]
    odd_days: list[OddDayAnswer]


class PreviewAnswer(Answer):
    """What an occasion would send; nothing of it is stored."""

    users: list[PreviewedUserAnswer]
    warnings: list[str]


class PlannedMessageAnswer(Answer):
    """A message of an occurrence. No `state`: it is not planned yet; its id will be this one."""

    channel: Channel
    id: str
    state: MessageState | None
    withheld: Literal["unsubscribed", "suppressed"] | None
    """Why it would not be sent as things are now: they want no more of it, or their address is suppressed."""


class OccurrenceAnswer(Answer):
    """An occurrence of an occasion for a user."""

    occasion: str
    local_date: date
    local_time: str
    slot: int
    date_rule: DateRule
    time_rule: TimeRule
    send_at: datetime
    local: str
    is_paused: bool
    messages: list[PlannedMessageAnswer]
    """On the channels that the user has an address for."""


class OccurrencesAnswer(Answer):
    """The next occurrences of a user, of all active occasions, by instant."""

    occurrences: list[OccurrenceAnswer]


class GroupBody(_Body):
    """At most so many occurrences of the group's occasions reach a user within any such period."""

    most_occurrences: Annotated[int, Field(ge=1, lt=2**15)]
    period: Lateness
    """An ISO 8601 duration."""


class GroupAnswer(Answer):
    """A group of occasions."""

    key: str
    most_occurrences: int
    period: str


class OneGroupAnswer(Answer):
    """A group."""

    group: GroupAnswer


class GroupListAnswer(Answer):
    """All groups in order of their keys: a handful, so there are no pages."""

    groups: list[GroupAnswer]


class RemovedAnswer(Answer):
    """Something is gone."""

    removed: Literal[True]
