"""Occasions: what is celebrated, on which local dates, at which local times, under which policies.

Values only. Which dates and instants follow from them is decided in `calendar`. Every policy is given
by whoever makes an occasion: none has a default here. Making one that cannot be meant raises ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Final

from scheduler.domain.local_time import GapPolicy, OverlapPolicy
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.recurrence import parse_recurrence
from scheduler.domain.retry import RetryPolicy

MAX_OFFSET_DAYS: Final = 3660
"""How far from the named date a yearly occasion may lie, either way: about ten years."""

_A_LEAP_YEAR: Final = 2000


class OccasionKind(StrEnum):
    """How an occasion's local dates are found."""

    YEARLY = "yearly"
    FIXED = "fixed"
    RRULE = "rrule"
    ONCE = "once"
    AD_HOC = "ad_hoc"


class LeapDayPolicy(StrEnum):
    """When 29 February is celebrated in a year that has none."""

    FEB28 = "feb28"
    MAR1 = "mar1"
    SKIP = "skip"


class SameDayPolicy(StrEnum):
    """What a user gets whose send time was past when they were added or edited, on the date itself."""

    SEND = "send"
    SKIP = "skip"


class Channel(StrEnum):
    """The way a message goes."""

    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    WEBHOOK = "webhook"
    IN_APP = "in_app"


class Priority(StrEnum):
    """Which queue a message waits in, first to last."""

    CRITICAL = "critical"
    NORMAL = "normal"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class YearlyRule:
    """Every year from a named date of the user, `offset_days` after it (before it where negative)."""

    date_name: str
    offset_days: int

    def __post_init__(self) -> None:
        if not self.date_name:
            raise ValueError("a yearly occasion names the date it celebrates")
        if abs(self.offset_days) > MAX_OFFSET_DAYS:
            raise ValueError(f"offset_days must be from -{MAX_OFFSET_DAYS} to {MAX_OFFSET_DAYS}")


@dataclass(frozen=True, slots=True)
class FixedRule:
    """Every year on the same calendar date for everyone; 29 February follows the leap-day policy."""

    month: int
    day: int

    def __post_init__(self) -> None:
        try:
            date(_A_LEAP_YEAR, self.month, self.day)
        except ValueError:
            raise ValueError(f"no year has a day {self.day} in month {self.month}") from None


@dataclass(frozen=True, slots=True)
class RecurrenceRule:
    """An RFC 5545 recurrence of local dates; see `recurrence` for what it may say."""

    rrule: str
    starts_on: date

    def __post_init__(self) -> None:
        parse_recurrence(self.rrule)


@dataclass(frozen=True, slots=True)
class OnceRule:
    """One local date."""

    on: date


@dataclass(frozen=True, slots=True)
class AdHocRule:
    """Messages that somebody asked to be sent once, to users chosen then: never planned, only sent.

    `at` is an instant, the same for everyone, or without a zone a local date and time of each user. What is not
    sent by `expires_at` is not sent at all, whatever put it off.
    """

    at: datetime
    expires_at: datetime | None = None

    @property
    def is_local(self) -> bool:
        """Whether it falls due by each user's own clock."""
        return self.at.tzinfo is None


Rule = YearlyRule | FixedRule | RecurrenceRule | OnceRule | AdHocRule

_KINDS: Final[dict[type[Rule], OccasionKind]] = {
    YearlyRule: OccasionKind.YEARLY,
    FixedRule: OccasionKind.FIXED,
    RecurrenceRule: OccasionKind.RRULE,
    OnceRule: OccasionKind.ONCE,
    AdHocRule: OccasionKind.AD_HOC,
}


@dataclass(frozen=True, slots=True)
class MessageText:
    """What a message says, as Jinja2 sources (see `scheduler/texts/`). `html` goes with e-mail only."""

    subject: str
    body: str
    html: str | None = None


@dataclass(frozen=True, slots=True)
class Occasion:
    """An occasion as planned: the index of a local time is its slot, part of a message's identity."""

    id: int
    tenant_id: int
    key: str
    name: str
    rule: Rule
    local_times: tuple[time, ...]
    honours_preferred_time: bool
    channels: tuple[Channel, ...]
    priority: Priority
    subject: str
    body: str
    gap: GapPolicy
    overlap: OverlapPolicy
    leap_day: LeapDayPolicy
    same_day: SameDayPolicy
    lateness_limit: timedelta | None
    """None: the limit of the settings."""
    retry: RetryPolicy | None
    """None: the policy of the settings."""
    active: bool
    version: int
    planned_through: datetime | None
    """The watermark: planned up to and without this instant; None: never planned."""
    html: str | None = None
    translations: Mapping[str, MessageText] = field(default_factory=dict)
    """Texts by language tag (BCP 47), such as `de` or `pt-BR`; the occasion's own are for everyone else."""
    group: str | None = None
    """The group whose frequency cap holds for it; None: no cap."""
    quiet_hours: QuietHours | None = None
    """None: the quiet hours of the settings."""
    paused_at: datetime | None = None
    """Since when nothing of it is sent, while it is planned as ever; None: it does not pause."""
    archived_at: datetime | None = None
    """Since when it is kept for its history only; None: it is not."""
    replan_from: datetime | None = None
    """As of when its newest edit is still being replanned, user by user; None: the log agrees with it."""
    ahead_through: datetime | None = None
    """How far a plan may have written ahead of the watermark; None: none ever has."""

    def __post_init__(self) -> None:
        if not self.local_times or len(set(self.local_times)) < len(self.local_times):
            raise ValueError("an occasion has at least one local time, each of them once")
        if any(local_time.tzinfo is not None for local_time in self.local_times):
            raise ValueError("local times have no zone of their own: they are read in the user's")
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ValueError("an occasion has at least one channel, each of them once")
        if self.lateness_limit is not None and self.lateness_limit <= timedelta():
            raise ValueError("a lateness limit is longer than nothing")

    @property
    def is_withheld(self) -> bool:
        """Whether nothing of it may be sent now: it pauses, or the log does not agree with its newest edit yet."""
        return self.paused_at is not None or self.replan_from is not None

    @property
    def text(self) -> MessageText:
        """What it says to those whose language it has no translation for."""
        return MessageText(self.subject, self.body, self.html)

    @property
    def kind(self) -> OccasionKind:
        """How its local dates are found."""
        return _KINDS[type(self.rule)]
