"""What waits and since when: questions about batches that change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.occasion import Channel, Priority
from scheduler.store.batches import BatchReference, Queue, references

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
