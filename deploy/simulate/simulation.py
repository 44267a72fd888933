"""Run the real scheduler and worker on a clock that jumps from one event to the next.

Nothing sleeps, and nothing that could matter is left out:

- A batch is enqueued and delivered at the very instant it falls due, retries included.
- The daily job runs at every tick of its cron expression.
- The recovery runs at start, and at the first of its ticks at which it would find something: a gap before
  the horizon, a lapsed lease or enqueue deadline, a batch past its lateness limit. Ticks that would find
  nothing are left out, as are minutes with nothing due; so a quiet hour costs two small queries.

In a downtime neither scheduler nor worker runs; when it ends both start anew, the scheduler with its
recovery at start. Scheduled actions (an edit of a user, say) happen all the same, before anything else of
their instant: the register belongs to other processes.

Limits: one scheduler and one worker, in the caller's thread, and deliveries take no simulated time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from threading import Event
from typing import Final

from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.cron import next_tick
from scheduler.domain.occasion import Channel
from scheduler.jobs.run import JobRunner
from scheduler.registry import Registry
from scheduler.service import broker_for, jobs_for, planner_for, planning_in_turn
from scheduler.settings import Settings
from scheduler.store import batch_queries, batches, watermarks
from scheduler.store.job_runs import Trigger
from worker.channels.port import Provider
from worker.consumer import DeliveryLoop
from worker.delivery import Deliverer
from worker.leases import LeaseKeeper, Shutdown
from worker.service import delivery_policy

_WORKER: Final = "simulation"
_ONE_MICROSECOND: Final = timedelta(microseconds=1)
"""The resolution of the clock; waiting that long for the broker's bell empties what has rung already."""


@dataclass(frozen=True, slots=True)
class Downtime:
    """Nothing runs from `starts` on; at `ends` everything starts again. Raises ValueError if it never does."""

    starts: datetime
    ends: datetime

    def __post_init__(self) -> None:
        if self.ends <= self.starts:
            raise ValueError("a downtime ends after it starts")

    def covers(self, instant: datetime) -> bool:
        """Whether nothing runs at `instant`."""
        return self.starts <= instant < self.ends


class Simulation:
    """A scheduler and a worker on `clock`, which only `run` moves from now on.

    `random` decides about the jitter of retries; the default makes two equal runs equal. The engine must
    lend at least three connections at a time.
    """

    def __init__(
        self,
        engine: Engine,
        clock: SettableClock,
        settings: Settings,
        provider: Provider,
        *,
        downtimes: Iterable[Downtime] = (),
        random: Random | None = None,
    ) -> None:
        # Threads would make two equal runs differ.
        settings = planning_in_turn(settings)
        self.planner = planner_for(settings, engine)
        self.registry = Registry(engine, self.planner, clock)
        self.jobs = jobs_for(settings, engine, clock)
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._downtimes = tuple(downtimes)
        self._runner = JobRunner(engine, clock)
        self._consumer = broker_for(settings, engine, clock).consumer(_WORKER, list(Channel))
        self._loop = self._delivery_loop(provider, random or Random(0))
        self._actions: list[tuple[datetime, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._ticked_through: datetime | None = None

    def at(self, instant: datetime, action: Callable[[], object]) -> None:
        """Call `action` when the clock stands at `instant`; actions of one instant in the order given.

        Raises ValueError for an instant that is past.
        """
        if instant < self._clock.now():
            raise ValueError(f"{instant.isoformat()} is past: it is {self._clock.now().isoformat()}")
        heapq.heappush(self._actions, (instant, next(self._numbers), action))

    def run(self, until: datetime, on_progress: Callable[[datetime], object] = lambda _: None) -> None:
        """Let happen what happens before `until`, and leave the clock there; may be called again to go on.

        The scheduler starts with the first call. `on_progress` is told each instant at which something was
        done. No connection is held afterwards.
        """
        with closing(self._consumer):
            while (instant := self._next_instant()) < until:
                self._clock.set(instant)
                self._happen(instant)
                on_progress(instant)
        self._clock.set(until)

    def finish(self, due_before: datetime) -> None:
        """Go on until all that was due before `due_before` has come to its end.

        That is within its lateness limit of the end of the last downtime.
        """
        with closing(self._consumer):
            while (oldest := self._oldest_open()) is not None and oldest < due_before:
                instant = self._next_instant()
                self._clock.set(instant)
                self._happen(instant)

    def _next_instant(self) -> datetime:
        now = self._clock.now()
        candidates = [max(now, instant) for instant, _, _ in self._actions[:1]]
        if downtime := self._downtime_at(now):
            candidates.append(downtime.ends)
        elif self._ticked_through is None:
            candidates.append(now)
        else:
            candidates += [each.starts for each in self._downtimes if each.starts > now]
            candidates += self._next_runs(now, self._ticked_through)
        return min(candidates)

    def _next_runs(self, now: datetime, ticked_through: datetime) -> list[datetime]:
        """When each job next has something to do."""
        with self._engine.connect() as connection:
            due = batches.next_due(connection)
        runs = [
            next_tick(self._settings.precalculate_cron, ticked_through),
            self._next_recovery(ticked_through),
            None if due is None else max(now, due),
        ]
        return [run for run in runs if run is not None]

    def _next_recovery(self, ticked_through: datetime) -> datetime | None:
        """The first tick of the recovery at which it finds something; None where nothing will ever lapse."""
        reason = self._recovery_reason()
        return None if reason is None else next_tick(self._settings.recover_cron, max(ticked_through, reason))

    def _recovery_reason(self) -> datetime | None:
        """The instant after which, and not at which, a recovery has something to do as things are."""
        with self._engine.connect() as connection:
            watermark = watermarks.oldest(connection, never=self._clock.now())
            lapse = batch_queries.next_lapse(connection, lateness_limit=self._settings.lateness_limit)
        gap = None if watermark is None else watermark - self._settings.horizon / 2
        return min((reason for reason in (gap, lapse) if reason is not None), default=None)

    def _happen(self, now: datetime) -> None:
        """What the real processes would do at this instant."""
        while self._actions and self._actions[0][0] <= now:
            heapq.heappop(self._actions)[2]()
        if self._downtime_at(now):
            self._ticked_through = None
            return
        if self._ticked_through is None:
            self._run("recover", self.jobs.recover.run, Trigger.START)
        elif self._ticked_through < now:
            self._tick(now)
        self._ticked_through = now
        self._enqueue(now)
        while self._loop.deliver_next(_ONE_MICROSECOND):
            pass

    def _tick(self, now: datetime) -> None:
        if _is_tick(self._settings.precalculate_cron, now):
            self._run("precalculate", self.jobs.precalculate.run, Trigger.CRON)
        reason = self._recovery_reason() if _is_tick(self._settings.recover_cron, now) else None
        if reason is not None and reason < now:
            self._run("recover", self.jobs.recover.run, Trigger.CRON)

    def _enqueue(self, now: datetime) -> None:
        with self._engine.connect() as connection:
            due = batches.next_due(connection)
        if due is not None and due <= now:
            self._run("enqueue", self.jobs.enqueue.run, Trigger.CRON)

    def _run(self, job: str, work: Callable[[datetime], Mapping[str, int]], trigger: Trigger) -> None:
        self._runner.run(job, lambda: work(self._clock.now()), trigger)

    def _downtime_at(self, instant: datetime) -> Downtime | None:
        return next((downtime for downtime in self._downtimes if downtime.covers(instant)), None)

    def _oldest_open(self) -> datetime | None:
        with self._engine.connect() as connection:
            return batch_queries.oldest_open(connection)

    def _delivery_loop(self, provider: Provider, random: Random) -> DeliveryLoop:
        settings, clock = self._settings, self._clock
        lease = timedelta(seconds=settings.lease_seconds)
        deliverer = Deliverer(
            self._engine,
            self.planner,
            dict.fromkeys(Channel, provider),
            delivery_policy(settings),
            clock,
            random,
        )
        return DeliveryLoop(
            self._consumer,
            deliverer,
            LeaseKeeper(self._engine, clock, lease),
            Shutdown(Event(), clock, timedelta(seconds=settings.stop_deadline_seconds)),
            clock,
            lease,
        )


def _is_tick(expression: str, instant: datetime) -> bool:
    return next_tick(expression, instant - _ONE_MICROSECOND) == instant
