"""What became of messages: how many of a window ended how, and what the log knows of those that went out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from scheduler.domain.message import MessageKey, MessageState
from scheduler.domain.occasion import Channel

# A local date and the UTC date of its instant differ by one; an edit can make that three (`store/planning.py`),
# and a night adds another.
_DATE_MARGIN: Final = timedelta(days=4)

_TALLY: Final = text("""
SELECT CAST(state AS text) AS state, count(*) AS messages FROM message_log
WHERE send_at >= :starts AND send_at < :ends AND local_date BETWEEN :date_first AND :date_last
GROUP BY state""")

_FIND: Final = text("""
SELECT l.user_id, l.local_date, l.occasion_id, l.slot, CAST(l.channel AS text) AS channel, l.timezone, l.send_at,
       l.attempt
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
            CAST(:slots AS smallint[]), CAST(:channels AS channel[]))
    AS wanted (user_id, local_date, occasion_id, slot, channel)
JOIN message_log l USING (user_id, local_date, occasion_id, slot, channel)
WHERE l.local_date BETWEEN :date_first AND :date_last""")


@dataclass(frozen=True, slots=True)
class LoggedMessage:
    """Where and when a message was due, and how many attempts it took so far."""

    timezone: str
    send_at: datetime
    attempt: int


def tally(connection: Connection, starts: datetime, ends: datetime) -> Counter[MessageState]:
    """How many messages that fall due in [starts, ends) are in which state. Reads that part of the log."""
    parameters = {
        "starts": starts,
        "ends": ends,
        "date_first": starts.date() - _DATE_MARGIN,
        "date_last": ends.date() + _DATE_MARGIN,
    }
    rows = connection.execute(_TALLY, parameters)
    return Counter({MessageState(row.state): row.messages for row in rows})


def find(connection: Connection, keys: Sequence[MessageKey]) -> dict[str, LoggedMessage]:
    """The messages of `keys` that are in the log, by the text of their key; some thousands at a time."""
    if not keys:
        return {}
    local_dates: list[date] = [key.local_date for key in keys]
    rows = connection.execute(
        _FIND,
        {
            "user_ids": [key.user_id for key in keys],
            "local_dates": local_dates,
            "occasion_ids": [key.occasion_id for key in keys],
            "slots": [key.slot for key in keys],
            "channels": [key.channel.value for key in keys],
            "date_first": min(local_dates),
            "date_last": max(local_dates),
        },
    )
    return {_key(row).text: LoggedMessage(row.timezone, row.send_at, row.attempt) for row in rows}


def _key(row: Row[Any]) -> MessageKey:
    return MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel))
