"""Tells others how this process's circuits are: the database for people to look at, and people when refused.

A thread of its own writes all circuits whenever one has changed and every `PERIOD` besides, so that a process which
has died shows by its silence. It looks, too, whether batches wait for a channel that has no provider. Nothing of a
delivery waits for any of this, and a database that does not answer is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from scheduler.clock import Clock
from scheduler.domain.occasion import Channel
from scheduler.store import circuits
from scheduler.store.circuits import StoredCircuit
from worker.alerts import Alerts
from worker.breaker import Circuit, CircuitListener, CircuitReport, Refusal

PERIOD: Final = timedelta(seconds=30)
FORGET_AFTER: Final = timedelta(minutes=10)

_REST_AFTER_FAILURE: Final = timedelta(seconds=5)
_LONGEST_STOP: Final = timedelta(seconds=5)
_WAITS_FOR_NOBODY: Final = timedelta(minutes=1)


class Signals(CircuitListener):
    """Where circuits leave word, in their locks, for the thread that passes it on."""

    def __init__(self, process: str, alerts: Alerts) -> None:
        self.woken = Event()
        self._process = process
        self._alerts = alerts

    def changed(self) -> None:
        """Have the circuits written."""
        self.woken.set()

    def refused(self, refusal: Refusal) -> None:
        """Have people told."""
        self._alerts.tell(
            f"Daybreak: provider {refusal.provider} refuses us ({refusal.category}); nothing is sent through it "
            f"until that is put right. It said: {refusal.detail} [{self._process}]"
        )


class CircuitReporter:
    """Writes `reported` under the name `process` until it is closed."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        process: str,
        reported: Sequence[Circuit],
        channels_without: Sequence[Channel],
        signals: Signals,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._process = process
        self._reported = reported
        self._channels_without = channels_without
        self._waiting: frozenset[Channel] = frozenset()
        self._signals = signals
        self._closed = False
        self._thread = Thread(target=self._report_until_closed, name="circuit-reporter", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def close(self) -> None:
        """End, and forget the circuits of this process."""
        self._closed = True
        self._signals.woken.set()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_STOP.total_seconds())

    def report(self) -> bool:
        """Write how the circuits are now; whether the database took it."""
        now = self._clock.now()
        told = [_stored(circuit.report(), self._process, now) for circuit in self._reported]
        try:
            with self._engine.begin() as connection:
                circuits.tell(connection, told, process=self._process, now=now)
                circuits.forget_silent(connection, before=now - FORGET_AFTER)
                self._look_for_waiting(connection, now)
        except SQLAlchemyError as error:
            logger.bind(cause=type(error).__name__).debug("circuits_not_reported")
            return False
        return True

    def forget(self) -> None:
        """Remove the circuits of this process, as it stops."""
        try:
            with self._engine.begin() as connection:
                circuits.forget_process(connection, self._process)
        except SQLAlchemyError as error:
            logger.bind(cause=type(error).__name__).debug("circuits_not_forgotten")

    def _look_for_waiting(self, connection: Connection, now: datetime) -> None:
        """Say so, once, when batches begin to wait for a channel that has no provider, here or elsewhere."""
        waiting = frozenset(
            circuits.waiting_channels(
                connection, self._channels_without, enqueued_before=now - _WAITS_FOR_NOBODY
            )
        )
        for channel in sorted(waiting - self._waiting):
            logger.bind(channel=channel.value).error("channel_without_provider")
        self._waiting = waiting

    def _report_until_closed(self) -> None:
        while True:
            self._signals.woken.clear()
            if self._closed:
                break
            rest = PERIOD if self.report() else _REST_AFTER_FAILURE
            self._clock.wait(self._signals.woken, self._clock.now() + rest)
        self.forget()


def _stored(report: CircuitReport, process: str, now: datetime) -> StoredCircuit:
    return StoredCircuit(
        process, report.provider, report.state.value, report.since, now, report.openings, report.category
    )
