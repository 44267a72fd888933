"""Statistics and the dashboard as callers see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.models.jobs import JobAnswer
from api.models.words import Instant, Word
from api.queries import NoQuery
from scheduler.domain.message import MessageState
from scheduler.domain.occasion import Channel
from scheduler.store.statistics import Interval

StateCounts = dict[MessageState, int]


class StatisticsQuery(NoQuery):
    """Which messages are counted: those due from `due_from` on and before `due_until`; by default, of the last day."""

    due_from: Instant | None = None
    due_until: Instant | None = None
    interval: Interval = Interval.HOUR
    """How long the pieces of time are, in UTC."""
    occasion: Word | None = None
    send_id: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Messages of a request to send."""
    channel: Channel | None = None


class TimeCounts(BaseModel):
    """Messages that fell due in a piece of time, by state."""

    starts: datetime
    states: StateCounts


OccasionKind = Literal["occasion", "ad_hoc", "others"]


class OccasionCounts(BaseModel):
    """Messages of an occasion, by state. Or, without its key, of all requests to send (`ad_hoc`), or of the occasions
    that have the fewest messages where there are more than five hundred (`others`).
    """

    kind: OccasionKind
    occasion: str | None
    states: StateCounts


class ChannelCounts(BaseModel):
    """Messages of a channel, by state."""

    channel: Channel
    states: StateCounts


class ZoneCounts(BaseModel):
    """Messages to users of a time zone, by state."""

    timezone: str
    states: StateCounts


class LatenessAnswer(BaseModel):
    """How many seconds after they fell due the messages of an occasion on a channel were accepted.

    `kind` and `occasion` are as in the counts. Percentiles are at most 1 % too high; the maximum is exact.
    """

    kind: OccasionKind
    occasion: str | None
    channel: Channel
    messages: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float


class StatisticsAnswer(BaseModel):
    """Messages of a range of time, by state: all, and by each thing they may be told apart by; and their lateness."""

    due_from: datetime
    due_until: datetime
    interval: Interval
    states: StateCounts
    by_time: list[TimeCounts]
    by_occasion: list[OccasionCounts]
    by_channel: list[ChannelCounts]
    by_zone: list[ZoneCounts]
    lateness: list[LatenessAnswer]


class ProviderStanding(BaseModel):
    """A provider: on hold, or how many worker processes' circuits are in which state."""

    name: str
    held: bool
    circuits: dict[Literal["closed", "open", "half-open"], int]


class DashboardAnswer(BaseModel):
    """How things stand. Dead letters and users are counted exactly up to `counted_exactly`; there may be more.

    `oldest_open_batch_at`: since when the oldest batch that is due waits or is being sent. `planned_through`: how far
    all occasions are planned; null where one never was.
    """

    now: datetime
    sent_last_hour: int
    sent_last_day: int
    due_next_hour: int
    waiting: int
    retrying: int
    dead_letters: int
    users: int
    counted_exactly: int
    oldest_open_batch_at: datetime | None
    planned_through: datetime | None
    providers: list[ProviderStanding]
    jobs: list[JobAnswer]
