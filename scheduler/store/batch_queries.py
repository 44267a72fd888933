"""What waits and since when: questions about batches that change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.occasion import Channel, Priority
from scheduler.store.batches import BatchReference, LeasedBatch, Queue, references

BOUND_WITHIN: Final = timedelta(hours=1)
"""How soon at the latest what waits for a provider that is away is due to be tried again."""

_IS_FINISHED: Final = text("""
SELECT 1 FROM batches WHERE id = :id AND lease_token = :lease_token AND state = 'done'""")

_NEXT_LAPSE: Final = text("""
SELECT least(
    (SELECT min(lease_expires_at) FROM batches WHERE state = 'leased'),
    (SELECT min(greatest(b.due_at, b.send_at + coalesce(o.lateness_limit, :lateness_limit)))
     FROM batches b JOIN occasions o ON o.id = b.occasion_id
     WHERE (b.state = 'pending' AND NOT b.held OR b.state = 'enqueued') AND b.lease_token = 0))""")

_OLDEST_OPEN: Final = text(
    "SELECT min(send_at) FROM batches WHERE state IN ('enqueued', 'leased') OR state = 'pending' AND NOT held"
)

_ENQUEUED_SINCE: Final = text("""
SELECT id, CAST(channel AS text) AS channel, CAST(priority AS text) AS priority, send_at
FROM batches WHERE state = 'enqueued' AND enqueued_at >= :since ORDER BY enqueued_at, id LIMIT :most""")

_COUNT_WAITING: Final = text("""
SELECT CAST(channel AS text) AS channel, CAST(priority AS text) AS priority, count(*) AS waiting
FROM batches WHERE state = 'enqueued' AND enqueued_at < :enqueued_before GROUP BY 1, 2""")

# What a lapsed lease left behind, what was handed back to be given to one only, and retries of unknown outcome.
_COUNT_BOUND: Final = text("""
SELECT provider, sum(greatest(0, message_count - sent_count - retried_count - dead_count - expired_count
                                 - cancelled_count)) AS messages
FROM batches
WHERE (state = 'pending' AND NOT held AND due_at <= :due_by OR state = 'enqueued') AND provider IS NOT NULL
GROUP BY provider""")


def is_finished(connection: Connection, batch: LeasedBatch) -> bool:
    """Whether the batch was closed under this very lease, by a COMMIT that seemed to fail."""
    parameters = {"id": batch.id, "lease_token": batch.lease_token}
    return connection.execute(_IS_FINISHED, parameters).one_or_none() is not None


def next_lapse(connection: Connection, *, lateness_limit: timedelta) -> datetime | None:
    """The instant after which the first lease lapses or batch expires, as things are; None if none ever will."""
    lapse: datetime | None = connection.execute(_NEXT_LAPSE, {"lateness_limit": lateness_limit}).scalar_one()
    return lapse


def oldest_open(connection: Connection) -> datetime | None:
    """The earliest send time among batches that are not done; None if all are."""
    oldest: datetime | None = connection.execute(_OLDEST_OPEN).scalar_one()
    return oldest


def enqueued_since(connection: Connection, *, since: datetime, most: int) -> list[BatchReference]:
    """Up to `most` batches that were enqueued at `since` or later and nobody has leased yet, in that order."""
    return references(connection.execute(_ENQUEUED_SINCE, {"since": since, "most": most}))


def count_waiting(connection: Connection, *, enqueued_before: datetime) -> Mapping[Queue, int]:
    """How many batches enqueued before an instant nobody has leased yet, by queue; only queues with some."""
    rows = connection.execute(_COUNT_WAITING, {"enqueued_before": enqueued_before})
    return {Queue(Channel(row.channel), Priority(row.priority)): row.waiting for row in rows}


def count_bound(connection: Connection, *, due_by: datetime) -> Mapping[str, int]:
    """By provider: about how many messages due by then wait for it alone, as it may have accepted them already."""
    return {row.provider: int(row.messages) for row in connection.execute(_COUNT_BOUND, {"due_by": due_by})}
