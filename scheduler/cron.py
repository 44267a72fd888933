"""Wake the jobs by cron. A tick only wakes: one that is missed, doubled or late changes nothing.

APScheduler runs in UTC, where every hour exists once; a tick that was missed runs as soon as it can
and overlapping ones are one (TRAPS: the default forgets a tick after a second).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Final

from apscheduler.schedulers.background import BackgroundScheduler
from loguru import logger
from sqlalchemy.exc import DBAPIError

from scheduler.clock import Clock
from scheduler.jobs.enqueue import Enqueue
from scheduler.jobs.precalculate import Precalculate
from scheduler.jobs.recover import Recover
from scheduler.jobs.run import JobRunner, Ran
from scheduler.setting_values import cron_trigger
from scheduler.store.job_runs import Trigger

_REST: Final = timedelta(seconds=1)

# A run of the enqueue job ends a moment before its successor's tick: one that still ran would swallow it.
_BEFORE_NEXT_TICK: Final = timedelta(milliseconds=100)


def next_tick(expression: str, after: datetime) -> datetime:
    """The first tick of a cron expression (UTC) after `after`."""
    tick: datetime | None = cron_trigger(expression).get_next_fire_time(
        None, after + timedelta(microseconds=1)
    )
    if tick is None:
        raise ValueError(f"{expression!r} has no tick after {after.isoformat()}")
    return tick.astimezone(UTC)


class Cron:
    """The three jobs on their cron expressions, until stopped."""

    def __init__(
        self,
        runner: JobRunner,
        precalculate: Precalculate,
        enqueue: Enqueue,
        recover: Recover,
        clock: Clock,
        expressions: Mapping[str, str],
    ) -> None:
        self._runner = runner
        self._precalculate = precalculate
        self._enqueue = enqueue
        self._recover = recover
        self._clock = clock
        self._expressions = expressions
        self._stop = Event()
        self._scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """Recover once, at once, and begin to tick."""
        ticks: dict[str, Callable[[], None]] = {
            "precalculate": self.precalculate_tick,
            "enqueue": self.enqueue_tick,
            "recover": self.recover_tick,
        }
        for job, tick in ticks.items():
            self._scheduler.add_job(tick, cron_trigger(self._expressions[job]), id=job)
        self._scheduler.add_job(self.recover_at_start, id="recover_at_start")
        # Without it, what falls due before the first tick would wait for that.
        self._scheduler.add_job(self.enqueue_tick, id="enqueue_at_start")
        self._scheduler.start()

    def stop(self) -> None:
        """Let running jobs come to an end, and start no more."""
        self._stop.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def precalculate_tick(self) -> None:
        """Plan ahead."""
        self._run("precalculate", self._precalculate.run, Trigger.CRON)

    def recover_tick(self) -> None:
        """Recover what downtime swallowed."""
        self._run("recover", self._recover.run, Trigger.CRON)

    def recover_at_start(self) -> None:
        """Recover what happened before this process was there."""
        self._run("recover", self._recover.run, Trigger.START)

    def enqueue_tick(self) -> None:
        """Own the time until the next tick; beyond it, too, where the work took longer than that."""
        while not self._stop.is_set():
            following = next_tick(self._expressions["enqueue"], self._clock.now())
            self._enqueue_until(following - _BEFORE_NEXT_TICK)
            if self._clock.now() < following:
                return

    def _enqueue_until(self, until: datetime) -> None:
        """Enqueue until then, or stand by for the scheduler that does."""
        while not self._stop.is_set() and self._clock.now() < until:
            ran = self._run("enqueue", lambda _: self._enqueue.run_until(self._stop, until), Trigger.CRON)
            if ran is None:
                self._clock.wait(self._stop, min(until, self._clock.now() + _REST))

    def _run(self, job: str, work: Callable[[datetime], Mapping[str, int]], trigger: Trigger) -> Ran | None:
        """Run a job at this instant; None where another scheduler does, or the database does not answer."""
        try:
            return self._runner.run(job, lambda: work(self._clock.now()), trigger)
        except DBAPIError as error:
            logger.bind(job=job, cause=type(error.orig).__name__).error("job_lost_the_database")
            return None
