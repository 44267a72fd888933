"""What providers reported, each event once, and whether the log has heard of it yet.

An event may come before the worker has written that the provider accepted the message. It then waits here
until the message has left `sending`; the next callback, or recovery, applies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel

_DETAIL_LENGTH: Final = 500

# Events of messages that the log does not know are left out: they are another system's, or too old.
_ADD: Final = text("""
INSERT INTO delivery_events
    (user_id, occurred_at, received_at, occasion_id, local_date, channel, tenant_id, slot, provider, event_id, kind,
     detail)
SELECT l.user_id, e.occurred_at, :now, l.occasion_id, l.local_date, l.channel, l.tenant_id, l.slot, :provider,
       e.event_id, e.kind, e.detail
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
            CAST(:slots AS smallint[]), CAST(:channels AS channel[]), CAST(:occurred_ats AS timestamptz[]),
            CAST(:event_ids AS text[]), CAST(:kinds AS text[]), CAST(:details AS text[]))
    AS e (user_id, local_date, occasion_id, slot, channel, occurred_at, event_id, kind, detail)
JOIN message_log l USING (user_id, local_date, occasion_id, slot, channel)
WHERE l.local_date BETWEEN :date_first AND :date_last
ORDER BY e.event_id
ON CONFLICT (provider, event_id) DO NOTHING
RETURNING event_id, tenant_id""")

_WAITING: Final = text("""
SELECT e.id, e.user_id, e.local_date, e.occasion_id, e.slot, CAST(e.channel AS text) AS channel, e.kind,
       e.occurred_at, e.received_at, e.detail
FROM delivery_events e
WHERE e.applied_at IS NULL AND e.received_at <= :now AND (e.received_at < :given_up_before OR NOT EXISTS (
    SELECT FROM message_log l
    WHERE l.user_id = e.user_id AND l.local_date = e.local_date AND l.occasion_id = e.occasion_id
      AND l.slot = e.slot AND l.channel = e.channel AND l.state IN ('scheduled', 'sending')
))
ORDER BY e.received_at, e.id LIMIT :most FOR UPDATE OF e SKIP LOCKED""")

_MARK_APPLIED: Final = text("""
UPDATE delivery_events SET applied_at = :now WHERE id = ANY(CAST(:ids AS bigint[])) AND applied_at IS NULL""")


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """A stored event that the log has not heard of yet."""

    id: int
    key: MessageKey
    kind: DeliveryEventKind
    occurred_at: datetime
    received_at: datetime
    detail: str


def add(
    connection: Connection, provider: str, events: Sequence[DeliveryEvent], *, now: datetime
) -> dict[str, int]:
    """Keep events; returns the tenant of each that is new and whose message is in the log, by its id."""
    if not events:
        return {}
    local_dates = [event.key.local_date for event in events]
    rows = connection.execute(
        _ADD,
        {
            "provider": provider,
            "now": now,
            "user_ids": [event.key.user_id for event in events],
            "local_dates": local_dates,
            "occasion_ids": [event.key.occasion_id for event in events],
            "slots": [event.key.slot for event in events],
            "channels": [event.key.channel.value for event in events],
            "occurred_ats": [event.occurred_at for event in events],
            "event_ids": [event.event_id for event in events],
            "kinds": [event.kind.value for event in events],
            "details": [event.detail[:_DETAIL_LENGTH] for event in events],
            "date_first": min(local_dates),
            "date_last": max(local_dates),
        },
    )
    return {row.event_id: row.tenant_id for row in rows}


def take_waiting(
    connection: Connection, *, now: datetime, given_up_before: datetime, most: int
) -> list[WaitingEvent]:
    """Up to `most` events that can be applied, oldest first; nobody else gets them until the commit.

    Left out are those whose message is still on its way, unless they came before `given_up_before`.
    """
    rows = connection.execute(_WAITING, {"now": now, "given_up_before": given_up_before, "most": most})
    return [
        WaitingEvent(
            row.id,
            MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel)),
            DeliveryEventKind(row.kind),
            row.occurred_at,
            row.received_at,
            row.detail,
        )
        for row in rows
    ]


def mark_applied(connection: Connection, events: Sequence[WaitingEvent], *, now: datetime) -> None:
    """Note that the log has heard of these."""
    if events:
        connection.execute(_MARK_APPLIED, {"ids": [event.id for event in events], "now": now})
