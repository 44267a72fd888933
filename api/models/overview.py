"""What the live page shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from api.models.answer import Answer
from scheduler.domain.occasion import Channel


class TotalsAnswer(Answer):
    """Counts, in messages; `dead_letters` and `users` are exact up to `counted_exactly`."""

    sent_last_hour: int
    sent_last_day: int
    waiting: int
    retrying: int
    due_next_hour: int
    dead_letters: int
    users: int
    counted_exactly: int


class SentAnswer(Answer):
    """A message that went out: to whom by first name and initial, and when by their own clock."""

    id: str
    person: str | None
    timezone: str
    local_time: str
    local_date: date
    occasion: str
    greeting: str
    channel: Channel
    attempt: int
    accepted_at: datetime
    lateness_seconds: float


class ComingAnswer(Answer):
    """Messages of one batch that are to go out."""

    due_at: datetime
    timezone: str
    local_time: str
    occasion: str
    greeting: str
    channel: Channel
    is_retry: bool
    messages: int


class ZoneAnswer(Answer):
    """A time zone in which users live, with the offset in force, and where it lies (null: nowhere)."""

    timezone: str
    utc_offset_minutes: int
    latitude: float | None
    longitude: float | None


class LastRunAnswer(Answer):
    """The last run of a job."""

    state: str
    trigger: str
    started_at: datetime
    finished_at: datetime | None
    counts: Mapping[str, int]


class NextRunAnswer(Answer):
    """A job: when it runs next, and its last run."""

    job: str
    next_at: datetime
    last: LastRunAnswer | None


class OverviewAnswer(Answer):
    """What went out and what comes next."""

    totals: TotalsAnswer
    sent: list[SentAnswer]
    coming: list[ComingAnswer]
    zones: list[ZoneAnswer]
    jobs: list[NextRunAnswer]
