"""Counts and lateness over a range of time, and one cheap summary of how things stand.

The statistics read the message log itself: every message that lies near those of the range, as a block-range index
of the send times has it. So a range costs what fell due in it, and besides what was planned since the log was last
vacuumed; callers bound it, and the time it may take. The summary reads indexes and counters of batches only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from scheduler.domain.message import MessageState
from scheduler.domain.occasion import Channel

# How far the local date of a message may lie from the UTC date of its send time: zones, and quiet hours that put it
# off time and again.
_DATES_BEHIND: Final = timedelta(days=7)
_DATES_AHEAD: Final = timedelta(days=1)

MOST_OCCASIONS: Final = 500
"""So many occasions are counted each by itself, those with the most messages; the others together."""

AD_HOC: Final = 0
"""In place of an occasion's id: all messages that were sent ad hoc."""

OTHERS: Final = -1
"""In place of an occasion's id: those beyond `MOST_OCCASIONS`."""

_CONDITIONS: Final[Mapping[str, str]] = {
    "occasion_id": "occasion_id = :occasion_id",
    "channel": "channel = CAST(:channel AS channel)",
}

_RANGE: Final = """
    tenant_id = :tenant_id AND local_date BETWEEN :date_first AND :date_last
    AND send_at >= CAST(:starts AS timestamptz) AND send_at < CAST(:ends AS timestamptz)"""

# The range is read once, into the smallest cells there are; they are few, and added up each way. An occasion of many
# is told by its id, messages that were sent ad hoc and the rest of the occasions together: each send is an occasion,
# so there may be as many of them as messages.
_COUNTS: Final = f"""
WITH cells AS MATERIALIZED (
    SELECT date_trunc(CAST(:unit AS text), send_at) AS bucket, occasion_id, channel, timezone, state,
           count(*) AS messages
    FROM message_log WHERE {{range}} GROUP BY 1, 2, 3, 4, 5
),
ranked AS (
    SELECT c.occasion_id, row_number() OVER (ORDER BY sum(c.messages) DESC, c.occasion_id) AS place
    FROM cells c JOIN occasions o ON o.id = c.occasion_id
    WHERE o.kind <> 'ad_hoc' OR o.id = CAST(:occasion_id AS integer)
    GROUP BY c.occasion_id
),
named AS (
    SELECT c.bucket, c.channel, c.timezone, c.state, c.messages,
           CASE WHEN r.place <= :most THEN c.occasion_id WHEN r.place > :most THEN {OTHERS} ELSE {AD_HOC} END
               AS occasion
    FROM cells c LEFT JOIN ranked r ON r.occasion_id = c.occasion_id
)
SELECT CASE WHEN grouping(bucket) = 0 THEN 'bucket' WHEN grouping(occasion) = 0 THEN 'occasion'
            WHEN grouping(channel) = 0 THEN 'channel' WHEN grouping(timezone) = 0 THEN 'zone' ELSE 'all' END AS by,
       bucket, occasion, CAST(channel AS text) AS channel, timezone, CAST(state AS text) AS state,
       CAST(sum(messages) AS bigint) AS messages
FROM named
GROUP BY GROUPING SETS ((state), (bucket, state), (occasion, state), (channel, state), (timezone, state))
ORDER BY by, bucket, occasion, channel, timezone, state"""

# Counted in bins, each 1 % wide from a millisecond on, since sorting each message would take longer than all the rest.
# A percentile is the latest of its bin: at most 1 % above the message of that rank.
_LATENESS: Final = f"""
WITH binned AS (
    SELECT CASE WHEN named.id IS NOT NULL THEN named.id WHEN o.id IS NOT NULL THEN {OTHERS} ELSE {AD_HOC} END
               AS occasion,
           accepted.channel, CAST(floor(100 * ln(greatest(accepted.late, 0.001))) AS integer) AS bin,
           count(*) AS messages, max(accepted.late) AS latest
    FROM (
        SELECT occasion_id, channel, date_part('epoch', accepted_at - send_at) AS late
        FROM message_log WHERE {{range}} AND accepted_at IS NOT NULL
    ) AS accepted
    LEFT JOIN unnest(CAST(:named_ids AS integer[])) AS named (id) ON named.id = accepted.occasion_id
    LEFT JOIN occasions o ON o.id = accepted.occasion_id AND o.kind <> 'ad_hoc' AND o.tenant_id = :tenant_id
    GROUP BY 1, 2, 3
),
ranked AS (
    SELECT occasion, channel, latest, sum(messages) OVER whole AS messages,
           sum(messages) OVER (whole ORDER BY bin) / sum(messages) OVER whole AS share
    FROM binned WINDOW whole AS (PARTITION BY occasion, channel)
)
SELECT occasion, CAST(channel AS text) AS channel, CAST(max(messages) AS bigint) AS messages,
       ARRAY[min(latest) FILTER (WHERE share >= 0.5), min(latest) FILTER (WHERE share >= 0.95),
             min(latest) FILTER (WHERE share >= 0.99)] AS percentiles, max(latest) AS latest
FROM ranked GROUP BY occasion, channel ORDER BY occasion, channel"""

_BOUND: Final = text("""
SELECT set_config('statement_timeout', :timeout, true), set_config('work_mem', '64MB', true)""")

_STANDING: Final = text("""
SELECT least(
           (SELECT min(send_at) FROM batches
            WHERE tenant_id = :tenant_id AND state = 'pending' AND NOT held AND due_at <= :now),
           (SELECT min(send_at) FROM batches WHERE tenant_id = :tenant_id AND state = 'enqueued'),
           (SELECT min(send_at) FROM batches WHERE tenant_id = :tenant_id AND state = 'leased')
       ) AS oldest_open,
       (SELECT CASE WHEN count(*) = count(planned_through) THEN min(planned_through) END FROM occasions
        WHERE tenant_id = :tenant_id AND active AND kind <> 'ad_hoc') AS planned_through""")


class Interval(StrEnum):
    """How long the pieces of time are that counts are given for; in UTC."""

    HOUR = "hour"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class StatisticsFilter:
    """Which messages are counted: those due from `starts` on and before `ends`; None: any.

    `occasion_id` may be that of a request to send.
    """

    starts: datetime
    ends: datetime
    interval: Interval = Interval.HOUR
    occasion_id: int | None = None
    channel: Channel | None = None


StateCounts = dict[MessageState, int]


@dataclass(frozen=True, slots=True)
class Counted:
    """Messages by state, in all and by each thing they may be told apart by.

    `by_occasion`: by the ids of occasions, `AD_HOC` and `OTHERS`.
    """

    states: StateCounts
    by_time: Mapping[datetime, StateCounts]
    by_occasion: Mapping[int, StateCounts]
    by_channel: Mapping[Channel, StateCounts]
    by_zone: Mapping[str, StateCounts]


@dataclass(frozen=True, slots=True)
class Lateness:
    """How long after they fell due the messages of an occasion on a channel were accepted, in seconds.

    Percentiles are of messages that there are (nearest rank), and at most 1 % too high.
    `occasion_id` may be `AD_HOC` or `OTHERS`.
    """

    occasion_id: int
    channel: Channel
    messages: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant's work stands: since when the oldest batch waits, and how far is planned.

    `planned_through` None: an occasion was never planned, or there is none.
    """

    oldest_open: datetime | None
    planned_through: datetime | None


def bound(connection: Connection, longest: timedelta) -> None:
    """Let no statement of this transaction run longer."""
    connection.execute(_BOUND, {"timeout": f"{int(longest.total_seconds() * 1000)}ms"})


def count(connection: Connection, tenant_id: int, wanted: StatisticsFilter) -> Counted:
    """Count the messages of a range."""
    by_time: dict[datetime, StateCounts] = {}
    by_occasion: dict[int, StateCounts] = {}
    by_channel: dict[Channel, StateCounts] = {}
    by_zone: dict[str, StateCounts] = {}
    states: StateCounts = {}
    parameters = _parameters(tenant_id, wanted) | {"most": MOST_OCCASIONS}
    for row in connection.execute(_statement(_COUNTS, _names(wanted)), parameters):
        match row.by:
            case "bucket":
                counts = by_time.setdefault(row.bucket, {})
            case "occasion":
                counts = by_occasion.setdefault(row.occasion, {})
            case "channel":
                counts = by_channel.setdefault(Channel(row.channel), {})
            case "zone":
                counts = by_zone.setdefault(row.timezone, {})
            case _:
                counts = states
        counts[MessageState(row.state)] = row.messages
    return Counted(states, by_time, by_occasion, by_channel, by_zone)


def lateness(
    connection: Connection, tenant_id: int, wanted: StatisticsFilter, counted: Counted
) -> list[Lateness]:
    """How late the messages of a range were that were accepted, by the occasions that they were counted by."""
    named_ids = [occasion_id for occasion_id in counted.by_occasion if occasion_id not in (AD_HOC, OTHERS)]
    parameters = _parameters(tenant_id, wanted) | {"named_ids": named_ids}
    rows = connection.execute(_statement(_LATENESS, _names(wanted)), parameters)
    return [_lateness(*row) for row in rows]


def _lateness(
    occasion_id: int, channel: str, messages: int, percentiles: Sequence[float], latest: float
) -> Lateness:
    p50, p95, p99 = percentiles
    return Lateness(occasion_id, Channel(channel), messages, p50, p95, p99, latest)


def standing(connection: Connection, tenant_id: int, *, now: datetime) -> Standing:
    """How things stand at `now`."""
    row = connection.execute(_STANDING, {"tenant_id": tenant_id, "now": now}).one()
    return Standing(row.oldest_open, row.planned_through)


def dates_of(starts: datetime, ends: datetime) -> tuple[date, date]:
    """The local dates on which messages may lie that fall due in a range."""
    return (starts - _DATES_BEHIND).date(), (ends + _DATES_AHEAD).date()


def _names(wanted: StatisticsFilter) -> tuple[str, ...]:
    return tuple(name for name in _CONDITIONS if getattr(wanted, name) is not None)


def _parameters(tenant_id: int, wanted: StatisticsFilter) -> dict[str, Any]:
    first, last = dates_of(wanted.starts, wanted.ends)
    return {
        "tenant_id": tenant_id,
        "date_first": first,
        "date_last": last,
        "starts": wanted.starts,
        "ends": wanted.ends,
        "unit": wanted.interval.value,
        "occasion_id": wanted.occasion_id,
        "channel": None if wanted.channel is None else wanted.channel.value,
    }


@cache
def _statement(template: str, names: Sequence[str]) -> TextClause:
    return text(template.format(range=" AND ".join([_RANGE, *(_CONDITIONS[name] for name in names)])))
