"""Take in what providers report of messages after they accepted them.

Each event is kept once, whatever a provider repeats. The message moves to `delivered` or `bounced`, out of
`retrying` and out of the dead letters as well where nobody knew whether it had been accepted: now somebody
does. A bounce for good and a complaint put the address on the suppression list, an unsubscription is noted
for the user's channel.

A provider is believed about the channels that it delivers, and about no other: whoever learns the secret of one cannot
report on what went another way. Limit: an event that comes after its provider was taken off the channel's list is
ignored; one that is put on hold instead is still believed.

An event that is earlier than the worker's own word waits until that is written (`store/delivery_events.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.domain.suppression import SuppressionReason
from scheduler.provider_settings import ProviderPlan
from scheduler.store import delivery_events, failures, messages, preferences, users
from scheduler.store.database import in_transaction
from scheduler.store.delivery_events import WaitingEvent
from scheduler.store.messages import Report

_MOST_AT_ONCE: Final = 1_000
_GIVEN_UP_AFTER: Final = timedelta(days=1)
"""No message is on its way that long: its event says nothing that the log could take in."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of the events of one request.

    `ignored`: known before, of messages the log does not know, or of channels that are not the provider's.
    """

    recorded: int
    ignored: int
    applied: int


class Callbacks:
    """Records events and applies them to the message log."""

    def __init__(self, engine: Engine, clock: Clock, plan: ProviderPlan) -> None:
        self._engine = engine
        self._clock = clock
        self._plan = plan

    def record(self, provider: str, told: Sequence[DeliveryEvent]) -> Recorded:
        """Keep the events of `provider` that are new, and apply them and what waits from before."""
        channels = self._plan.channels_of(provider)
        events = [event for event in told if event.key.channel in channels]
        if len(events) < len(told):
            logger.bind(provider=provider, events=len(told) - len(events)).warning("events_of_other_channels")

        def work(connection: Connection) -> int:
            now = self._clock.now()
            new = delivery_events.add(connection, provider, events, now=now)
            for event in events:
                if event.event_id in new:
                    _respect(connection, new[event.event_id], provider, event, now)
            return len(new)

        recorded = in_transaction(self._engine, work)
        applied = self.apply_waiting()
        ignored = len(told) - recorded
        logger.bind(provider=provider, recorded=recorded, ignored=ignored, applied=applied).info(
            "events_recorded"
        )
        return Recorded(recorded, ignored, applied)

    def apply_waiting(self) -> int:
        """Apply events whose messages are on their way no more; returns how many. Harmless to repeat."""
        return in_transaction(self._engine, lambda connection: apply_waiting(connection, self._clock.now()))


def apply_waiting(connection: Connection, now: datetime) -> int:
    """Apply up to a thousand waiting events in the caller's transaction; returns how many."""
    given_up_before = now - _GIVEN_UP_AFTER
    waiting = delivery_events.take_waiting(
        connection, now=now, given_up_before=given_up_before, most=_MOST_AT_ONCE
    )
    settled = messages.lock_settled(connection, [_report(event) for event in waiting])
    ready = [event for event in waiting if event.key in settled or event.received_at < given_up_before]
    bounced = [event for event in ready if event.kind is DeliveryEventKind.BOUNCED]
    arrived = [event for event in ready if event.kind is not DeliveryEventKind.BOUNCED]
    changed = messages.confirm(connection, [_report(event) for event in arrived])
    changed += messages.bounce(connection, [_report(event) for event in bounced])
    failures.withdraw_dead_letters(connection, changed)
    delivery_events.mark_applied(connection, ready, now=now)
    return len(ready)


def _report(event: WaitingEvent) -> Report:
    return Report(event.key, event.occurred_at, event.kind.value)


def _respect(
    connection: Connection, tenant_id: int, provider: str, event: DeliveryEvent, now: datetime
) -> None:
    """Write no more to whom that was asked for, or where nothing can arrive."""
    user_id, channel = event.key.user_id, event.key.channel
    if event.kind is DeliveryEventKind.UNSUBSCRIBED:
        preferences.unsubscribe(connection, tenant_id, user_id, channel, None, provider, now)
        return
    reason = _suppression_reason(event)
    address = event.address or _present_address(connection, event) if reason is not None else None
    if reason is not None and address is not None:
        preferences.suppress(connection, tenant_id, channel, address, reason, provider, now)


def _suppression_reason(event: DeliveryEvent) -> SuppressionReason | None:
    if event.kind is DeliveryEventKind.COMPLAINED:
        return SuppressionReason.COMPLAINED
    return SuppressionReason.BOUNCED if event.is_permanent else None


def _present_address(connection: Connection, event: DeliveryEvent) -> str | None:
    """Where such a message would go now; None: the user is gone, or has no address any more."""
    recipient = users.recipients(connection, [event.key.user_id]).get(event.key.user_id)
    return None if recipient is None else recipient.address(event.key.channel)
