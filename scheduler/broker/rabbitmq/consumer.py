"""Lease the batches that RabbitMQ names, and those it should have named by now.

RabbitMQ is the fast path, the log is the truth: a batch that has been `enqueued` for some seconds and that
nobody holds is taken from the log by the next thread with nothing more urgent in hand. So it matters little
where its reference is: held by a thread that is busy or whose channel is paused, purged, never published,
or out of reach with RabbitMQ itself. The reference then finds nothing to lease and is acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from scheduler.broker.rabbitmq.receiver import Arrival, Receiver
from scheduler.clock import Clock
from scheduler.domain.occasion import Channel
from scheduler.errors import DatabaseUnavailable
from scheduler.store import batches
from scheduler.store.batches import LeasedBatch
from scheduler.store.database import in_transaction

_PATIENCE: Final = timedelta(seconds=2)
"""How long a batch is left to RabbitMQ."""

_LOOK_SECONDS: Final = 1.0
"""How often the log is asked, where it had nothing the last time."""

_GRACE_SECONDS: Final = 0.1
"""How long RabbitMQ has to hand over the next reference after the last was settled."""


@dataclass(frozen=True, slots=True)
class RabbitDelivery:
    """A leased batch, to be acknowledged when it is settled."""

    batch: LeasedBatch
    acknowledge: Callable[[], None]

    def settle(self) -> None:
        """Acknowledge; harmless where the connection was lost since: the redelivery finds nothing to lease."""
        self.acknowledge()


class RabbitConsumer:
    """One worker thread's consumer, with a connection thread of its own."""

    def __init__(
        self, url: str, engine: Engine, clock: Clock, worker: str, channels: Collection[Channel]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._worker = worker
        self._channels = list(channels)
        self._look_at = clock.monotonic() + _LOOK_SECONDS
        self._receiver = Receiver(url, worker, channels, clock)
        self._receiver.start()

    def receive(
        self, lease_for: timedelta, wait: timedelta, paused: Collection[Channel] = ()
    ) -> RabbitDelivery | None:
        """See the port. Batches that need no delivery any more are acknowledged on the way.

        While RabbitMQ is away, it goes on from the log: BrokerUnavailable is never raised, the outage is logged.
        """
        until = self._clock.monotonic() + wait.total_seconds()
        while True:
            arrival = self._receiver.take(self._seconds_to_wait(until), paused)
            if delivery := self._deliver(arrival, lease_for, paused):
                return delivery
            if arrival is None and self._clock.monotonic() >= until:
                return None

    def close(self) -> None:
        """Close the connection; what was not settled is delivered again."""
        self._receiver.close()

    def _seconds_to_wait(self, until: float) -> float:
        """Until it is time to look into the log, but at least long enough for RabbitMQ to hand over the next."""
        now = self._clock.monotonic()
        grace = 0.0 if self._receiver.is_cut_off else _GRACE_SECONDS
        return max(0.0, min(until, max(self._look_at, now + grace)) - now)

    def _deliver(
        self, arrival: Arrival | None, lease_for: timedelta, paused: Collection[Channel]
    ) -> RabbitDelivery | None:
        """What the log has waiting that comes before `arrival`, or else that; None if it is settled."""
        try:
            if waiting := self._lease_waiting(arrival, lease_for, paused):
                if arrival is not None:
                    self._receiver.keep(arrival)
                return RabbitDelivery(waiting, _nothing)
            return None if arrival is None else self._lease(arrival, lease_for)
        except DBAPIError as error:
            # Kept rather than given back: RabbitMQ counts what comes back, and gives it up in the end.
            if arrival is not None:
                self._receiver.keep(arrival)
            raise DatabaseUnavailable("PostgreSQL does not answer") from error

    def _lease(self, arrival: Arrival, lease_for: timedelta) -> RabbitDelivery | None:
        def work(connection: Connection) -> LeasedBatch | None:
            expires_at = self._clock.now() + lease_for
            return batches.lease(connection, arrival.batch_id, worker=self._worker, expires_at=expires_at)

        acknowledge = partial(self._receiver.acknowledge, arrival)
        leased = in_transaction(self._engine, work)
        if leased is None:
            acknowledge()
            return None
        return RabbitDelivery(leased, acknowledge)

    def _lease_waiting(
        self, arrival: Arrival | None, lease_for: timedelta, paused: Collection[Channel]
    ) -> LeasedBatch | None:
        """Lease what RabbitMQ should have named by now; while there is such, at every call.

        With an arrival in hand that is whatever comes before it, however short its wait: a batch that was handed
        back stands at the end of its queue, though it is due before all others.
        """
        if self._clock.monotonic() < self._look_at:
            return None
        channels = [channel for channel in self._channels if channel not in paused]

        def work(connection: Connection) -> LeasedBatch | None:
            now = self._clock.now()
            lease = partial(batches.lease_waiting, enqueued_before=now - _PATIENCE)
            if arrival is not None:
                lease = partial(batches.lease_ahead, than=arrival.batch_id, now=now)
            return lease(connection, channels, worker=self._worker, expires_at=now + lease_for)

        leased = in_transaction(self._engine, work)
        if leased is None:
            self._look_at = self._clock.monotonic() + _LOOK_SECONDS
        return leased


def _nothing() -> None:
    """Nothing to acknowledge: the reference, if there is one, is acknowledged by whoever holds it."""
