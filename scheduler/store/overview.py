"""What goes on, for a page that is looked at all the time: what went out, what comes next, and how much.

Cheap at any size: a read goes through `batches` by its indexes, as far as the page shows and no further, and
finds message rows by their keys. The log is never scanned, counts come from counters of batches.

Limits: the newest messages are looked for in the last `_MOST_FINISHED` batches; counts of users and of dead
letters are exact up to `COUNTED_EXACTLY` only. People are shown by first name and initial, which is all that
is read of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.message import MessageKey, MessageState
from scheduler.domain.occasion import Channel
from scheduler.domain.zones import zone

COUNTED_EXACTLY: Final = 10_000
"""Up to here users and dead letters are counted one by one."""

_MOST_FINISHED: Final = 1_000
_MOST_PENDING: Final = 500
_MOST_RECIPIENTS: Final = 1_000
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)

_KEY_OF_BATCH: Final = """
    l.user_id = ANY(b.user_ids) AND l.local_date = b.local_date AND l.occasion_id = b.occasion_id
    AND l.slot = b.slot AND l.channel = b.channel"""

# As many of the newest batches as it takes to fill the page, by their own counters; then their messages.
_NEWEST_SENT: Final = text(f"""
WITH finished AS MATERIALIZED (
    SELECT id, finished_at, occasion_id, local_date, slot, channel, send_at, sent_count, user_ids
    FROM batches WHERE tenant_id = :tenant_id AND state = 'done'
    ORDER BY finished_at DESC LIMIT {_MOST_FINISHED}
),
counted AS (
    SELECT *, sum(sent_count) OVER (ORDER BY finished_at DESC, id DESC) - sent_count AS sent_later
    FROM finished WHERE sent_count > 0
)
SELECT b.occasion_id, l.user_id, b.local_date, b.slot, CAST(b.channel AS text) AS channel, b.send_at,
       l.accepted_at, l.attempt, l.timezone, o.key AS occasion, o.name, o.subject,
       u.first_name, left(u.last_name, 1) AS initial
FROM counted b
CROSS JOIN LATERAL (
    SELECT l.user_id, l.accepted_at, l.attempt, l.timezone FROM message_log l
    WHERE {_KEY_OF_BATCH} AND l.batch_id = b.id AND l.accepted_at IS NOT NULL
    LIMIT :most
) AS l
JOIN occasions o ON o.id = b.occasion_id
LEFT JOIN users u ON u.id = l.user_id
WHERE b.sent_later < :most
ORDER BY l.accepted_at DESC, l.user_id, b.occasion_id LIMIT :most""")

# A batch is a claim ticket: only the messages that a worker would claim with it are still to come.
_NEXT_TO_COME: Final = text(f"""
WITH pending AS MATERIALIZED (
    SELECT id, due_at, occasion_id, local_date, slot, channel, send_at, attempt, message_count, user_ids
    FROM batches WHERE tenant_id = :tenant_id AND state = 'pending' AND NOT held
    ORDER BY due_at LIMIT {_MOST_PENDING}
),
counted AS (
    SELECT *, sum(message_count) OVER (ORDER BY due_at, id) - message_count AS earlier FROM pending
)
SELECT b.due_at, l.timezone, o.key AS occasion, o.name, o.subject, CAST(b.channel AS text) AS channel,
       b.attempt > 0 AS is_retry, count(*) AS messages
FROM counted b
CROSS JOIN LATERAL (
    SELECT l.timezone FROM message_log l
    WHERE {_KEY_OF_BATCH} AND CASE l.state
        WHEN '{MessageState.SCHEDULED}' THEN b.attempt = 0 AND l.send_at = b.send_at
        WHEN '{MessageState.RETRYING}' THEN l.attempt = b.attempt AND l.send_at <= b.send_at
        ELSE false END
) AS l
JOIN occasions o ON o.id = b.occasion_id
WHERE b.earlier < {_MOST_RECIPIENTS}
GROUP BY b.due_at, l.timezone, o.id, b.channel, is_retry
ORDER BY b.due_at, messages DESC, l.timezone, o.id, b.channel LIMIT :most""")

_SENT_COUNTS: Final = text("""
SELECT coalesce(sum(sent_count) FILTER (WHERE finished_at >= :hour_ago), 0) AS last_hour,
       coalesce(sum(sent_count), 0) AS last_day
FROM batches WHERE tenant_id = :tenant_id AND state = 'done' AND finished_at >= :day_ago AND finished_at <= :now""")

_OPEN_COUNTS: Final = text("""
SELECT coalesce(sum(messages) FILTER (WHERE is_due), 0) AS waiting,
       coalesce(sum(messages) FILTER (WHERE attempt > 0), 0) AS retrying,
       coalesce(sum(messages) FILTER (WHERE NOT is_due AND attempt = 0), 0) AS due_next_hour
FROM (
    SELECT message_count AS messages, attempt, due_at <= :now AS is_due
    FROM batches WHERE tenant_id = :tenant_id AND state = 'pending' AND NOT held AND due_at < :in_an_hour
    UNION ALL
    SELECT message_count, attempt, true FROM batches WHERE tenant_id = :tenant_id AND state = 'enqueued'
    UNION ALL
    SELECT message_count, attempt, true FROM batches WHERE tenant_id = :tenant_id AND state = 'leased'
) AS open""")

_DEAD_COUNT: Final = text(f"""
SELECT count(*) FROM (
    SELECT FROM dead_letters WHERE tenant_id = :tenant_id AND discarded_at IS NULL LIMIT {COUNTED_EXACTLY}
) AS dead""")

_USER_COUNT: Final = text(f"""
SELECT count(*) FROM (SELECT FROM users WHERE tenant_id = :tenant_id LIMIT {COUNTED_EXACTLY}) AS counted""")

# A loose index scan: one look-up for each zone, however many users live in it.
_ZONES: Final = text("""
WITH RECURSIVE found AS (
    (SELECT timezone FROM users WHERE tenant_id = :tenant_id ORDER BY timezone LIMIT 1)
    UNION ALL
    SELECT (SELECT u.timezone FROM users u WHERE u.tenant_id = :tenant_id AND u.timezone > found.timezone
            ORDER BY u.timezone LIMIT 1)
    FROM found WHERE found.timezone IS NOT NULL
)
SELECT timezone FROM found WHERE timezone IS NOT NULL ORDER BY timezone""")


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message that a provider accepted. `person` is None where the user has been deleted since."""

    key: MessageKey
    person: str | None
    timezone: str
    occasion: str
    greeting: str
    attempt: int
    send_at: datetime
    accepted_at: datetime

    @property
    def local_time(self) -> datetime:
        """When it was accepted, by the user's clock."""
        return self.accepted_at.astimezone(zone(self.timezone))

    @property
    def lateness(self) -> timedelta:
        """How long after it fell due it was accepted."""
        return self.accepted_at - self.send_at


@dataclass(frozen=True, slots=True)
class ComingMessages:
    """Messages that fall due at one instant in one zone, for one occasion on one channel."""

    due_at: datetime
    timezone: str
    occasion: str
    greeting: str
    channel: Channel
    is_retry: bool
    messages: int

    @property
    def local_time(self) -> datetime:
        """When they fall due, by the clocks of the zone."""
        return self.due_at.astimezone(zone(self.timezone))


@dataclass(frozen=True, slots=True)
class Totals:
    """How many messages and users there are.

    `waiting` are due and not yet out, `retrying` failed and are tried again within the hour, `due_next_hour` fall
    due in it. `users` and `dead_letters` may be more where they are `COUNTED_EXACTLY`.
    """

    sent_last_hour: int
    sent_last_day: int
    waiting: int
    retrying: int
    due_next_hour: int
    dead_letters: int
    users: int


def newest_sent(connection: Connection, tenant_id: int, *, most: int) -> list[SentMessage]:
    """Up to `most` messages that went out last, newest first."""
    rows = connection.execute(_NEWEST_SENT, {"tenant_id": tenant_id, "most": most})
    return [
        SentMessage(
            key=MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel)),
            person=_person(row.first_name, row.initial),
            timezone=row.timezone,
            occasion=row.occasion,
            greeting=_greeting(row.name, row.subject),
            attempt=row.attempt,
            send_at=row.send_at,
            accepted_at=row.accepted_at,
        )
        for row in rows
    ]


def next_to_come(connection: Connection, tenant_id: int, *, most: int) -> list[ComingMessages]:
    """What falls due next, soonest first, in up to `most` groups; the last may count too few."""
    rows = connection.execute(_NEXT_TO_COME, {"tenant_id": tenant_id, "most": most})
    return [
        ComingMessages(
            due_at=row.due_at,
            timezone=row.timezone,
            occasion=row.occasion,
            greeting=_greeting(row.name, row.subject),
            channel=Channel(row.channel),
            is_retry=row.is_retry,
            messages=row.messages,
        )
        for row in rows
    ]


def totals(connection: Connection, tenant_id: int, *, now: datetime) -> Totals:
    """The counts at `now`."""
    parameters = {
        "tenant_id": tenant_id,
        "now": now,
        "hour_ago": now - _HOUR,
        "day_ago": now - _DAY,
        "in_an_hour": now + _HOUR,
    }
    sent = connection.execute(_SENT_COUNTS, parameters).one()
    open_now = connection.execute(_OPEN_COUNTS, parameters).one()
    return Totals(
        sent_last_hour=sent.last_hour,
        sent_last_day=sent.last_day,
        waiting=open_now.waiting,
        retrying=open_now.retrying,
        due_next_hour=open_now.due_next_hour,
        dead_letters=_count(connection, _DEAD_COUNT, tenant_id),
        users=_count(connection, _USER_COUNT, tenant_id),
    )


def zones(connection: Connection, tenant_id: int) -> Sequence[str]:
    """The time zones that a tenant's users live in, by name."""
    return connection.execute(_ZONES, {"tenant_id": tenant_id}).scalars().all()


def _count(connection: Connection, statement: Any, tenant_id: int) -> int:
    return int(connection.execute(statement, {"tenant_id": tenant_id}).scalar_one())


def _person(first_name: str | None, initial: str | None) -> str | None:
    if first_name is None:
        return None
    return f"{first_name} {initial}." if initial else first_name


def _greeting(name: str, subject: str) -> str:
    """The subject, where it is the same for everyone; else what the occasion is called."""
    return name if not subject or "{" in subject else subject
