"""Batches and their leases: the only place where a batch changes its state.

Every change names the state it expects. A lease has a token that grows with each lease of the
batch; whoever writes under a lease names the token, so a worker that wakes after its lease has
lapsed changes nothing (a fencing token; Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import date, datetime, timedelta
from operator import add
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, text

from scheduler.domain.batch import BATCH_TRANSITIONS, BatchEvent, first_queue
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import LeaseLost
from scheduler.store.direct import Answer, Call, Direct, answers


def _move(event: BatchEvent) -> tuple[str, str]:
    """The target state and the guard of an event, as SQL."""
    transition = BATCH_TRANSITIONS[event]
    sources = ", ".join(f"'{source}'" for source in transition.sources)
    return f"state = '{transition.target}'", f"state IN ({sources})"


_TO_ENQUEUED, _MAY_ENQUEUE = _move(BatchEvent.ENQUEUE)
_TO_LEASED, _MAY_LEASE = _move(BatchEvent.LEASE)
_TO_DONE, _MAY_FINISH = _move(BatchEvent.FINISH)
_TO_PENDING, _MAY_HAND_BACK = _move(BatchEvent.HAND_BACK)
_TO_LAPSED, _ = _move(BatchEvent.LAPSE)
_TO_EXPIRED, _ = _move(BatchEvent.EXPIRE)

LEASED_COLUMNS: Final = """
    b.id, b.lease_token, b.lease_expires_at, b.tenant_id, b.occasion_id, b.local_date, b.slot,
    CAST(b.channel AS text) AS channel, CAST(b.priority AS text) AS priority, b.send_at, b.due_at, b.attempt,
    b.max_attempts, b.provider, b.user_ids"""

_LEASE: Final = f"""
    {_TO_LEASED}, lease_token = lease_token + 1, lease_expires_at = :expires_at, leased_by = :worker"""

_ENQUEUE_DUE: Final = text(f"""
WITH due AS MATERIALIZED (
    SELECT id FROM batches WHERE {_MAY_ENQUEUE} AND NOT held AND due_at <= :now
    ORDER BY due_at, id LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE batches b SET {_TO_ENQUEUED}, enqueued_at = :now FROM due WHERE b.id = due.id
RETURNING b.id, CAST(b.channel AS text) AS channel, CAST(b.priority AS text) AS priority, b.send_at""")

_NEXT_DUE: Final = text(f"SELECT min(due_at) FROM batches WHERE {_MAY_ENQUEUE} AND NOT held")

_LEASE_OLDEST: Final = Direct(f"""
WITH oldest AS MATERIALIZED (
    SELECT id FROM batches WHERE {_MAY_LEASE} AND queue BETWEEN :queue AND :queue + 9
    ORDER BY queue, send_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE batches b SET {_LEASE} FROM oldest WHERE b.id = oldest.id
RETURNING {LEASED_COLUMNS}""")

# The first of each channel, and of those the most urgent: an index has the former, nothing the latter.
_LEASE_WAITING: Final = text(f"""
WITH waiting AS MATERIALIZED (
    SELECT first.id
    FROM unnest(CAST(:queues AS smallint[])) AS wanted (queue)
    CROSS JOIN LATERAL (
        SELECT id, priority, send_at FROM batches
        WHERE {_MAY_LEASE} AND queue BETWEEN wanted.queue AND wanted.queue + 9 AND enqueued_at < :enqueued_before
        ORDER BY queue, send_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first
    ORDER BY first.priority, first.send_at, first.id LIMIT 1
)
UPDATE batches b SET {_LEASE} FROM waiting WHERE b.id = waiting.id
RETURNING {LEASED_COLUMNS}""")

# What comes before the batch whose reference is in hand: more urgent, or due earlier.
_LEASE_AHEAD: Final = text(f"""
WITH hand AS MATERIALIZED (
    SELECT mod(queue, CAST(10 AS smallint)) AS place, send_at, id FROM batches WHERE id = :than
),
waiting AS MATERIALIZED (
    SELECT first.id
    FROM hand CROSS JOIN unnest(CAST(:queues AS smallint[])) AS wanted (queue)
    CROSS JOIN LATERAL (
        SELECT id, priority, send_at FROM batches
        WHERE {_MAY_LEASE} AND queue >= wanted.queue AND enqueued_at <= :now
          AND (queue, send_at, id) < (wanted.queue + hand.place, hand.send_at, hand.id)
        ORDER BY queue, send_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS first
    ORDER BY first.priority, first.send_at, first.id LIMIT 1
)
UPDATE batches b SET {_LEASE} FROM waiting WHERE b.id = waiting.id
RETURNING {LEASED_COLUMNS}""")

_LEASE_ONE: Final = Direct(f"""
UPDATE batches b SET {_LEASE} WHERE id = :id AND {_MAY_LEASE}
RETURNING {LEASED_COLUMNS}""")

_RENEW: Final = text(f"""
UPDATE batches SET lease_expires_at = :expires_at
WHERE id = :id AND lease_token = :lease_token AND {_MAY_FINISH}""")

# Nobody else may change the batch until the transaction ends.
_FENCE: Final = Direct(f"""
UPDATE batches SET provider = :provider
WHERE id = :id AND lease_token = :lease_token AND {_MAY_FINISH}""")

_COUNTS: Final = """
    sent_count = sent_count + :sent, retried_count = retried_count + :retried, dead_count = dead_count + :dead,
    expired_count = expired_count + :expired, cancelled_count = cancelled_count + :cancelled"""

_FINISH: Final = Direct(f"""
UPDATE batches SET {_TO_DONE}, lease_expires_at = NULL, finished_at = :now, {_COUNTS}
WHERE id = :id AND lease_token = :lease_token AND {_MAY_FINISH}""")

_HAND_BACK: Final = text(f"""
UPDATE batches
SET {_TO_PENDING}, lease_expires_at = NULL, leased_by = NULL, enqueued_at = NULL, due_at = :due_at,
    provider = :provider, {_COUNTS}
WHERE id = :id AND lease_token = :lease_token AND {_MAY_HAND_BACK}""")


def _lapse(condition: str, due_at: str) -> str:
    """Make the batches of `condition` pending again, but for those that somebody is writing at this moment.

    A worker that stands still in the middle of a transaction must not hold up everybody else's batches.
    """
    return f"""
WITH lapsed AS MATERIALIZED (
    SELECT id FROM batches WHERE {condition} FOR UPDATE SKIP LOCKED
)
UPDATE batches b
SET {_TO_LAPSED}, lease_expires_at = NULL, leased_by = NULL, enqueued_at = NULL, due_at = {due_at}
WHERE b.id = ANY(ARRAY(SELECT id FROM lapsed))"""


_LAPSE_LEASES: Final = text(_lapse("state = 'leased' AND lease_expires_at < :now", ":now"))
_LAPSE_ENQUEUED: Final = text(
    _lapse(
        "state = 'enqueued' AND enqueued_at < :deadline"
        " AND channel = CAST(:channel AS channel) AND priority = CAST(:priority AS priority)",
        ":now",
    )
)

# Each arm of the OR has an index of its own; what is not due yet is looked at once it is.
_OVERDUE: Final = text(f"""
WITH overdue AS MATERIALIZED (
    SELECT b.id FROM batches b JOIN occasions o ON o.id = b.occasion_id
    WHERE ((b.state = 'pending' AND NOT b.held AND b.due_at <= :now) OR b.state = 'enqueued') AND b.lease_token = 0
      AND o.paused_at IS NULL
      AND b.send_at < :now - coalesce(o.lateness_limit, :lateness_limit)
    ORDER BY b.id LIMIT :most FOR UPDATE OF b SKIP LOCKED
)
UPDATE batches b SET {_TO_EXPIRED}, finished_at = :now FROM overdue WHERE b.id = overdue.id
RETURNING {LEASED_COLUMNS}""")

_COUNT: Final = text(f"UPDATE batches SET {_COUNTS} WHERE id = :id")


class Queue(NamedTuple):
    """Where a batch waits for a worker."""

    channel: Channel
    priority: Priority


@dataclass(frozen=True, slots=True)
class BatchReference:
    """What a broker carries: which batch, and which queue it belongs in. Nothing personal."""

    id: int
    channel: Channel
    priority: Priority
    send_at: datetime


@dataclass(frozen=True, slots=True)
class LeasedBatch:
    """A batch, and the right to deliver it until `lease_expires_at`."""

    id: int
    lease_token: int
    lease_expires_at: datetime | None
    tenant_id: int
    occasion_id: int
    local_date: date
    slot: int
    channel: Channel
    priority: Priority
    send_at: datetime
    due_at: datetime
    attempt: int
    max_attempts: int | None
    """None: as many as the retry policy allows; a replayed batch brings its own number."""
    provider: str | None
    """Which provider may have been given the messages that an earlier lease left behind; None: none was."""
    user_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a batch's messages under one lease."""

    sent: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*map(add, astuple(self), astuple(other)))


def references(rows: Iterable[Row[Any]]) -> list[BatchReference]:
    """Rows with the columns of a reference, as references."""
    return [BatchReference(row.id, Channel(row.channel), Priority(row.priority), row.send_at) for row in rows]


def enqueue_due(connection: Connection, *, now: datetime, most: int) -> list[BatchReference]:
    """Move up to `most` batches that are due at `now` to `enqueued`, oldest first, and name them.

    They are to be published once this is committed. One that is not, or only perhaps, is found in the log.
    """
    due = references(connection.execute(_ENQUEUE_DUE, {"now": now, "most": most}))
    return sorted(due, key=lambda reference: (reference.send_at, reference.id))


def next_due(connection: Connection) -> datetime | None:
    """When the next pending batch falls due; None if there is none."""
    due: datetime | None = connection.execute(_NEXT_DUE).scalar_one()
    return due


def lease_oldest(
    connection: Connection, channel: Channel, *, worker: str, expires_at: datetime
) -> LeasedBatch | None:
    """Lease the most urgent enqueued batch of a channel: by priority, then by send time."""
    parameters = {"queue": first_queue(channel), "worker": worker, "expires_at": expires_at}
    return leased_batch(_LEASE_OLDEST.one_or_none(connection, parameters))


def lease_waiting(
    connection: Connection,
    channels: Collection[Channel],
    *,
    worker: str,
    expires_at: datetime,
    enqueued_before: datetime,
) -> LeasedBatch | None:
    """Lease the most urgent batch of `channels` that was enqueued before an instant."""
    parameters = _waiting_parameters(channels, worker, expires_at) | {"enqueued_before": enqueued_before}
    return leased_batch(connection.execute(_LEASE_WAITING, parameters).one_or_none())


def lease_ahead(
    connection: Connection,
    channels: Collection[Channel],
    *,
    worker: str,
    expires_at: datetime,
    than: int,
    now: datetime,
) -> LeasedBatch | None:
    """Lease the first of the enqueued batches of `channels` that come before the batch `than`: by priority, then by
    send time.
    """
    parameters = _waiting_parameters(channels, worker, expires_at) | {"than": than, "now": now}
    return leased_batch(connection.execute(_LEASE_AHEAD, parameters).one_or_none())


def lease(connection: Connection, batch_id: int, *, worker: str, expires_at: datetime) -> LeasedBatch | None:
    """Lease the batch a broker named; None if it is not waiting to be leased (a redelivery, say)."""
    parameters = {"id": batch_id, "worker": worker, "expires_at": expires_at}
    return leased_batch(_LEASE_ONE.at_once(connection, parameters))


def renew(connection: Connection, batch: LeasedBatch, *, expires_at: datetime) -> None:
    """Prolong a lease; raises LeaseLost if it is no longer held."""
    parameters = _token_parameters(batch) | {"expires_at": expires_at}
    _require_lease(connection.execute(_RENEW, parameters).rowcount, batch)


def fence(
    connection: Connection, batch: LeasedBatch, *, provider: str, then: Sequence[Call] = ()
) -> list[Answer]:
    """Keep a lease from changing hands until the transaction ends, and note the provider that is to be given the
    messages: who may have accepted what a lost worker leaves. Raises LeaseLost if it is no longer held. What is to be
    called `then` goes along in the same round trip; its answers are returned.
    """
    return _fenced(connection, batch, Call(_FENCE, _token_parameters(batch) | {"provider": provider}), then)


def finish(
    connection: Connection,
    batch: LeasedBatch,
    counts: Counts,
    *,
    now: datetime,
    then: Sequence[Call] = (),
    commits: bool = False,
) -> None:
    """Close a batch whose messages all have an outcome; raises LeaseLost if the lease is no longer held.

    Called first in the transaction that writes the outcomes: it locks the lease until they are in. What is to be
    called `then` goes along in one round trip, and must change nothing where the lease is lost. Where this `commits`,
    the transaction has ended in the same round trip.
    """
    call = Call(_FINISH, _lease_parameters(batch, counts) | {"now": now})
    _fenced(connection, batch, call, then, commits=commits)


def hand_back(
    connection: Connection,
    batch: LeasedBatch,
    counts: Counts,
    *,
    due_at: datetime,
    provider: str | None = None,
) -> None:
    """Return a batch with messages still to be sent, due again at `due_at`; raises LeaseLost.

    `provider` is the one that may have accepted some of them already; None: none has.
    """
    parameters = _lease_parameters(batch, counts) | {"due_at": due_at, "provider": provider}
    _require_lease(connection.execute(_HAND_BACK, parameters).rowcount, batch)


def lapse_leases(connection: Connection, *, now: datetime) -> int:
    """Make batches pending again whose worker has not come back; returns how many."""
    return connection.execute(_LAPSE_LEASES, {"now": now}).rowcount


def lapse_enqueued(connection: Connection, queue: Queue, *, now: datetime, deadline: timedelta) -> int:
    """Make batches of a queue pending again that nobody leased within `deadline` of being enqueued."""
    parameters = {"channel": queue.channel.value, "priority": queue.priority.value}
    return connection.execute(_LAPSE_ENQUEUED, parameters | {"now": now, "deadline": now - deadline}).rowcount


def expire_overdue(
    connection: Connection, *, now: datetime, lateness_limit: timedelta, most: int
) -> list[LeasedBatch]:
    """Close up to `most` waiting batches whose messages are past their lateness limit, and return them.

    `lateness_limit` holds for occasions that set none. Their messages must be expired in the same
    transaction, and counted by `count`. A batch that a worker has held may have messages of
    unknown outcome: it is left to the next worker, who lets each message end as it must.
    """
    rows = connection.execute(_OVERDUE, {"now": now, "lateness_limit": lateness_limit, "most": most})
    return [batch for row in rows if (batch := leased_batch(row))]


def count(connection: Connection, batch_id: int, counts: Counts) -> None:
    """Add messages that ended with their batch, or at its claim, to the batch's counters."""
    if counts != Counts():
        connection.execute(_COUNT, asdict(counts) | {"id": batch_id})


def _waiting_parameters(channels: Collection[Channel], worker: str, expires_at: datetime) -> dict[str, Any]:
    queues = [first_queue(channel) for channel in channels]
    return {"queues": queues, "worker": worker, "expires_at": expires_at}


def _lease_parameters(batch: LeasedBatch, counts: Counts) -> dict[str, Any]:
    return _token_parameters(batch) | asdict(counts)


def _token_parameters(batch: LeasedBatch) -> dict[str, Any]:
    return {"id": batch.id, "lease_token": batch.lease_token}


def _fenced(
    connection: Connection, batch: LeasedBatch, first: Call, then: Sequence[Call], *, commits: bool = False
) -> list[Answer]:
    changed, *others = answers(connection, [first, *then], commits=commits)
    _require_lease(changed.changed, batch)
    return others


def _require_lease(rows: int, batch: LeasedBatch) -> None:
    if rows != 1:
        raise LeaseLost(batch.id)


def leased_batch(row: Any | None) -> LeasedBatch | None:
    """A row with `LEASED_COLUMNS` as a batch."""
    if row is None:
        return None
    made = {
        "channel": Channel(row.channel),
        "priority": Priority(row.priority),
        "user_ids": tuple(row.user_ids),
    }
    return LeasedBatch(**(row._asdict() | made))
