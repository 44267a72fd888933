"""A provider that accepts everything and remembers it: what a simulation is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from scheduler.clock import Clock
from worker.channels.port import Accepted, DeliveryControl, NotAttempted, Outcome, OutgoingMessage


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One message taken over: its idempotency key, whose it is and when."""

    id: str
    external_id: str
    occasion: str
    at: datetime


class LedgerProvider:
    """Keeps an entry for each message it is given, in order.

    It honours no idempotency keys, so that a message sent twice shows. Limit: the ledger is in memory, some
    300 bytes an entry.
    """

    name = "ledger"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.acceptances: list[Acceptance] = []

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Accept each message now, unless told to start no more."""
        return [NotAttempted() if control.start_no_more() else self._accept(message) for message in messages]

    def close(self) -> None:
        """Nothing is open."""

    def _accept(self, message: OutgoingMessage) -> Outcome:
        now = self._clock.now()
        fields = message.fields
        self.acceptances.append(Acceptance(message.id, fields["external_id"], fields["occasion"], now))
        return Accepted(now)
