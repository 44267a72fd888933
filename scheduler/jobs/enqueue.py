"""The minute's job: publish each batch when it falls due.

A run owns the time until the next tick. It wakes for each due instant, and once a second for what an
edit may have made due at once and for batches of workers that were lost: their leases lapse here, so that
nobody waits for the next recovery. Batches are committed as `enqueued` before they are published, so a
worker never hears of one it cannot lease, and finds one whose publishing fails in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from threading import Event
from typing import Final

from sqlalchemy import Engine

from scheduler.broker.port import Broker
from scheduler.clock import Clock
from scheduler.jobs.publishing import Publishing
from scheduler.store import batches
from scheduler.store.batches import BatchReference
from scheduler.store.database import in_transaction

_MOST_AT_ONCE: Final = 500
_LONGEST_REST: Final = timedelta(seconds=1)
_SHORTEST_REST: Final = timedelta(milliseconds=20)


class Enqueue:
    """Publishes due batches in the order of their instants."""

    name = "enqueue"

    def __init__(self, engine: Engine, broker: Broker, clock: Clock) -> None:
        self._engine = engine
        self._publishing = Publishing(engine, broker)
        self._clock = clock

    def run(self, now: datetime, stop: Event | None = None) -> Mapping[str, int]:
        """Publish all that is due, what lost workers held included; ends early where `stop` is set.

        `now` goes on while it works: a backlog may take minutes. Returns the batches enqueued, those of them
        that the broker was not there for, and the leases that lapsed.
        """
        total: Counter[str] = Counter(enqueued=0, unpublished=0, lapsed_leases=0)
        started = self._clock.monotonic()
        lapse_at = now + _LONGEST_REST
        while not (stop and stop.is_set()):
            moment = now + timedelta(seconds=self._clock.monotonic() - started)
            # What falls due at this instant does not wait until lost workers have been looked for.
            references = self._take_due(moment)
            is_published = self._publishing.publish(references, moment)
            total["enqueued"] += len(references)
            total["unpublished"] += 0 if is_published else len(references)
            if references and moment < lapse_at:
                continue
            lapsed = self._lapse_leases(moment)
            lapse_at = moment + _LONGEST_REST
            total["lapsed_leases"] += lapsed
            if not references and not lapsed:
                break
        return total

    def run_until(self, stop: Event, until: datetime) -> Mapping[str, int]:
        """Publish what falls due before `until`, each batch at its instant; ends early where `stop` is set."""
        total: Counter[str] = Counter(enqueued=0, unpublished=0, lapsed_leases=0)
        while not stop.is_set():
            now = self._clock.now()
            total.update(self.run(now, stop))
            if now >= until or self._clock.wait(stop, min(until, self._next_look(now))):
                break
        return total

    def _next_look(self, now: datetime) -> datetime:
        rested = now + _LONGEST_REST
        with self._engine.connect() as connection:
            due = batches.next_due(connection)
        # What is due already is in the hands of somebody else's transaction: not to be asked for without pause.
        return rested if due is None else max(now + _SHORTEST_REST, min(rested, due))

    def _lapse_leases(self, now: datetime) -> int:
        return in_transaction(self._engine, lambda connection: batches.lapse_leases(connection, now=now))

    def _take_due(self, now: datetime) -> list[BatchReference]:
        return in_transaction(
            self._engine, lambda connection: batches.enqueue_due(connection, now=now, most=_MOST_AT_ONCE)
        )
