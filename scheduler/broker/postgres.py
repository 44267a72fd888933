"""PostgreSQL as the broker: the enqueued batches are the queue, NOTIFY is the bell.

Nothing is lost on a restart and no other server is needed. Workers take the most urgent batch with
SKIP LOCKED, so they never wait for each other. Limits: one UPDATE a batch, so tens of thousands of
messages a second; a bell that is missed costs at most the wait of `receive`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from scheduler.clock import Clock
from scheduler.domain.occasion import Channel
from scheduler.errors import BrokerUnavailable, DatabaseUnavailable
from scheduler.store import batches
from scheduler.store.batches import BatchReference, LeasedBatch
from scheduler.store.database import in_transaction

_BELL: Final = "daybreak_batches"
_RING: Final = text("SELECT pg_notify(:bell, '')")


class PostgresBroker:
    """The broker port on the message log's own database."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def publish(self, batches: Sequence[BatchReference]) -> None:
        """Wake the workers: what is committed as `enqueued` is published already."""
        if not batches:
            return
        try:
            with self._engine.begin() as connection:
                connection.execute(_RING, {"bell": _BELL})
        except DBAPIError as error:
            raise BrokerUnavailable("PostgreSQL did not take the notification") from error

    def holding(self) -> None:
        """Nothing is held besides the log, so nothing can be lost there."""

    def consumer(self, worker: str, channels: Collection[Channel]) -> PostgresConsumer:
        """A consumer that takes turns between `channels`."""
        return PostgresConsumer(self._engine, self._clock, worker, channels)

    def close(self) -> None:
        """Nothing to let go of: the engine is not the broker's."""


@dataclass(frozen=True, slots=True)
class PostgresDelivery:
    """A leased batch; the lease is all there is to settle, and the outcomes close it."""

    batch: LeasedBatch

    def settle(self) -> None:
        """Nothing to tell: the batch's state is the queue's."""


class PostgresConsumer:
    """Leases enqueued batches, channel by channel in turn, most urgent first within each."""

    def __init__(self, engine: Engine, clock: Clock, worker: str, channels: Collection[Channel]) -> None:
        self._engine = engine
        self._clock = clock
        self._worker = worker
        self._channels = deque(channels)
        self._listening: Connection | None = None

    def receive(
        self, lease_for: timedelta, wait: timedelta, paused: Collection[Channel] = ()
    ) -> PostgresDelivery | None:
        """See the port. One round of look-ups, and one more after the bell has rung."""
        try:
            listening = self._listen()
            found = self._lease_next(lease_for, paused)
            if found is None and wait > timedelta() and _bell_rings(listening, wait):
                found = self._lease_next(lease_for, paused)
        except (DBAPIError, psycopg.Error) as error:  # the bell is heard by the driver itself
            self.close()
            raise DatabaseUnavailable("PostgreSQL does not answer") from error
        return None if found is None else PostgresDelivery(found)

    def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.invalidate()
            self._listening.close()
            self._listening = None

    def _lease_next(self, lease_for: timedelta, paused: Collection[Channel]) -> LeasedBatch | None:
        for _ in range(len(self._channels)):
            channel = self._channels[0]
            self._channels.rotate(-1)
            if channel not in paused and (leased := self._lease(channel, lease_for)):
                return leased
        return None

    def _lease(self, channel: Channel, lease_for: timedelta) -> LeasedBatch | None:
        def work(connection: Connection) -> LeasedBatch | None:
            expires_at = self._clock.now() + lease_for
            return batches.lease_oldest(connection, channel, worker=self._worker, expires_at=expires_at)

        return in_transaction(self._engine, work)

    def _listen(self) -> Connection:
        """Listen before looking, so that a bell between the two is heard."""
        if self._listening is None:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(f"LISTEN {_BELL}"))
            self._listening = connection
        return self._listening


def _bell_rings(listening: Connection, wait: timedelta) -> bool:
    driver: psycopg.Connection[Any] = cast("Any", listening.connection.driver_connection)
    with closing(driver.notifies(timeout=wait.total_seconds(), stop_after=1)) as bells:
        return any(True for _ in bells)
