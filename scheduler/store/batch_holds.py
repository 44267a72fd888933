"""What an occasion does to the batches that wait for it: hold them while it pauses, or change their priority.

None of this is a change of state: a batch that is held is pending and is not looked at.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.occasion import Priority
from scheduler.store.batches import LEASED_COLUMNS, LeasedBatch, leased_batch

_HOLD: Final = text("""
UPDATE batches SET held = true WHERE occasion_id = :occasion_id AND state = 'pending' AND NOT held""")
_RELEASE: Final = text("UPDATE batches SET held = false WHERE occasion_id = :occasion_id AND held")
_RELEASE_ONE: Final = text("UPDATE batches SET held = false WHERE id = :id AND held")

_HELD_DUE: Final = text(f"""
SELECT {LEASED_COLUMNS} FROM batches b WHERE occasion_id = :occasion_id AND held AND send_at <= :now
ORDER BY send_at LIMIT :most FOR UPDATE""")

_REPRIORITISE: Final = text("""
UPDATE batches SET priority = CAST(:priority AS priority) WHERE occasion_id = :occasion_id AND state = 'pending'""")


def hold(connection: Connection, occasion_id: int) -> int:
    """Hold the pending batches of an occasion that pauses: they are not enqueued until released; how many more."""
    return connection.execute(_HOLD, {"occasion_id": occasion_id}).rowcount


def release(connection: Connection, occasion_id: int) -> int:
    """Let all held batches of an occasion go their way; what was due meanwhile is due now. Returns how many."""
    return connection.execute(_RELEASE, {"occasion_id": occasion_id}).rowcount


def release_one(connection: Connection, batch_id: int) -> None:
    """Let one held batch go its way."""
    connection.execute(_RELEASE_ONE, {"id": batch_id})


def held_due(connection: Connection, occasion_id: int, *, now: datetime, most: int) -> list[LeasedBatch]:
    """Up to `most` held batches of an occasion that were due by `now`, oldest first; locked."""
    parameters = {"occasion_id": occasion_id, "now": now, "most": most}
    return [batch for row in connection.execute(_HELD_DUE, parameters) if (batch := leased_batch(row))]


def reprioritise(connection: Connection, occasion_id: int, priority: Priority) -> None:
    """Let what is pending of an occasion wait in another queue from its enqueuing on."""
    connection.execute(_REPRIORITISE, {"occasion_id": occasion_id, "priority": priority.value})
