"""What an occasion that pauses has not sent meanwhile, and what of a user is planned already.

A held batch is a claim ticket: only the messages that a worker would claim with it are part of the backlog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.message import MessageKey, MessageState
from scheduler.domain.occasion import Channel

_BACKLOG: Final = text(f"""
SELECT count(*) AS due, count(*) FILTER (WHERE l.send_at >= :sent_from) AS within_limit, min(l.send_at) AS oldest_at
FROM (
    SELECT local_date, occasion_id, slot, channel, send_at, unnest(user_ids) AS user_id
    FROM batches WHERE occasion_id = :occasion_id AND held AND send_at <= :now AND attempt = 0
) AS b
JOIN message_log l USING (user_id, local_date, occasion_id, slot, channel)
WHERE l.state = '{MessageState.SCHEDULED}' AND l.send_at = b.send_at""")

_STATES: Final = text("""
SELECT occasion_id, user_id, local_date, slot, CAST(channel AS text) AS channel, CAST(state AS text) AS state
FROM message_log
WHERE tenant_id = :tenant_id AND user_id = :user_id AND local_date BETWEEN :date_first AND :date_last""")


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages that fell due in a pause. `within_limit` of them may still be sent; the others are too late."""

    due: int = 0
    within_limit: int = 0
    oldest_at: datetime | None = None

    @property
    def too_late(self) -> int:
        """How many may not be sent any more."""
        return self.due - self.within_limit


def backlog(connection: Connection, occasion_id: int, *, now: datetime, lateness_limit: timedelta) -> Backlog:
    """What an occasion that pauses would have sent by `now`."""
    row = connection.execute(
        _BACKLOG, {"occasion_id": occasion_id, "now": now, "sent_from": now - lateness_limit}
    ).one()
    return Backlog(row.due, row.within_limit, row.oldest_at)


def states_of_user(
    connection: Connection, tenant_id: int, user_id: int, *, date_first: date, date_last: date
) -> Mapping[MessageKey, MessageState]:
    """The messages of a user on these local dates that are in the log, with their states."""
    rows = connection.execute(
        _STATES,
        {"tenant_id": tenant_id, "user_id": user_id, "date_first": date_first, "date_last": date_last},
    )
    return {
        MessageKey(
            row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel)
        ): MessageState(row.state)
        for row in rows
    }
