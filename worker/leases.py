"""Keep the leases of batches under delivery alive, and tell a delivery when to stop.

One thread renews all leases of a process every third of their length. A delivery trusts its own
monotonic clock, not the renewal: once the time it was given is over it starts nothing more, so a
process that was paused does not go on sending what others may be sending by now.
"""

from __future__ import annotations

from datetime import timedelta
from threading import Event, Lock, Thread

from loguru import logger
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from scheduler.clock import Clock
from scheduler.errors import LeaseLost
from scheduler.store import batches
from scheduler.store.batches import LeasedBatch
from worker.channels.port import Outcome


class Shutdown:
    """That the process is to stop: at once for what has not begun, by a deadline for what has.

    The deadline counts from when a delivery first sees that `requested` is set.
    """

    def __init__(self, requested: Event, clock: Clock, deadline: timedelta) -> None:
        self.requested = requested
        self._clock = clock
        self._deadline_seconds = deadline.total_seconds()
        self._abandon_at: float | None = None

    def is_requested(self) -> bool:
        """Whether nothing more may begin."""
        if self.requested.is_set() and self._abandon_at is None:
            self._abandon_at = self._clock.monotonic() + self._deadline_seconds
        return self.requested.is_set()

    def is_overdue(self) -> bool:
        """Whether what has begun is to be given up."""
        self.is_requested()
        return self._abandon_at is not None and self._clock.monotonic() >= self._abandon_at


class HeldLease:
    """A delivery's right to go on: what providers ask before they begin anything."""

    def __init__(self, batch: LeasedBatch, shutdown: Shutdown, clock: Clock, length: timedelta) -> None:
        self.batch = batch
        self._shutdown = shutdown
        self._clock = clock
        self._lost = False
        self._ends = clock.monotonic() + _remaining(batch, clock, length).total_seconds()

    def prolong(self, length: timedelta, asked_at: float) -> None:
        """The lease was renewed for `length`, counted from the monotonic time at which that was asked for."""
        self._ends = asked_at + length.total_seconds()

    def lose(self) -> None:
        """Somebody else has the batch by now."""
        self._lost = True

    def start_no_more(self) -> bool:
        """Whether nothing more may be sent under this lease."""
        return self._shutdown.is_requested() or self._gone()

    def abandon(self) -> bool:
        """Whether what is in flight is to be given up."""
        return self._shutdown.is_overdue() or self._gone()

    def note(self, outcome: Outcome, began_at: float) -> None:
        """A lease learns nothing from outcomes: see the port for who does."""

    def _gone(self) -> bool:
        return self._lost or self._clock.monotonic() >= self._ends


def _remaining(batch: LeasedBatch, clock: Clock, length: timedelta) -> timedelta:
    """What is left of a lease: less than its length where the process was paused since it was given."""
    if batch.lease_expires_at is None:
        return length
    return min(length, batch.lease_expires_at - clock.now())


class LeaseKeeper:
    """Renews the leases held by this process until they are let go."""

    def __init__(self, engine: Engine, clock: Clock, length: timedelta) -> None:
        self._engine = engine
        self._clock = clock
        self._length = length
        self._lock = Lock()
        self._held: set[HeldLease] = set()
        self._closed = Event()
        self._thread = Thread(target=self._keep, name="lease-keeper", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def close(self) -> None:
        """Renew no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def hold(self, batch: LeasedBatch, shutdown: Shutdown) -> HeldLease:
        """Keep a lease that was given just now until it is released."""
        held = HeldLease(batch, shutdown, self._clock, self._length)
        with self._lock:
            self._held.add(held)
        return held

    def release(self, held: HeldLease) -> None:
        """Keep it no longer."""
        with self._lock:
            self._held.discard(held)

    def renew_all(self) -> None:
        """Renew every lease that is held; one that was lost stops its delivery."""
        with self._lock:
            held = list(self._held)
        for lease in held:
            self._renew(lease)

    def _keep(self) -> None:
        while not self._closed.wait(self._length.total_seconds() / 3):
            self.renew_all()

    def _renew(self, lease: HeldLease) -> None:
        # Taken before the renewal: a pause in the middle of it must not make the lease look longer than it is.
        asked_at, expires_at = self._clock.monotonic(), self._clock.now() + self._length
        try:
            with self._engine.begin() as connection:
                batches.renew(connection, lease.batch, expires_at=expires_at)
            lease.prolong(self._length, asked_at)
        except LeaseLost:
            lease.lose()
            # A batch finished a moment ago has no lease either. A delivery that did lose it says so itself.
            logger.bind(batch_id=lease.batch.id).debug("lease_gone")
        except SQLAlchemyError:
            logger.bind(batch_id=lease.batch.id).warning("lease_not_renewed")
