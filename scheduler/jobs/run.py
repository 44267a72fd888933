"""Run a job once: by one scheduler at a time, and with a record of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from loguru import logger
from sqlalchemy import Engine

from scheduler.clock import Clock
from scheduler.domain.access import Actor
from scheduler.store import audit, job_runs, locks
from scheduler.store.job_runs import Trigger

JOBS = ("precalculate", "enqueue", "recover")
"""The jobs by name, in the order they are shown."""

CONNECTIONS_OF_A_RUN = 2
"""Database connections that one run holds at the same time: its lock's and its work's."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that took place, with what it counted."""

    job: str
    counts: Mapping[str, int]


class JobRunner:
    """Runs jobs under their locks and records each run."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._host = socket.gethostname()

    def run(
        self,
        job: str,
        work: Callable[[], Mapping[str, int]],
        trigger: Trigger,
        planned_at: datetime | None = None,
        *,
        actor: Actor | None = None,
    ) -> Ran | None:
        """Run `work` as `job`; None where another scheduler is running it.

        Where somebody has asked for it, `actor` says who: the audit log knows of it from its beginning. What
        `work` raises is recorded, then raised.
        """
        with locks.job_lock(self._engine, job) as held:
            if not held:
                return None
            run_id = self._begin(job, trigger, planned_at, actor)
            try:
                counts = work()
            except Exception as error:
                self._finish(run_id, {}, error)
                raise
            self._finish(run_id, counts, None)
        logger.bind(job=job, trigger=trigger.value, **counts).info("job_ran")
        return Ran(job, counts)

    def _begin(self, job: str, trigger: Trigger, planned_at: datetime | None, actor: Actor | None) -> int:
        started_at = self._clock.now()
        with self._engine.begin() as connection:
            if actor is not None:
                after = {"trigger": trigger.value}
                audit.add(connection, actor, "run", "job", job, None, after, now=started_at)
            return job_runs.begin(
                connection,
                job,
                trigger,
                planned_at=planned_at or started_at,
                started_at=started_at,
                host=self._host,
            )

    def _finish(self, run_id: int, counts: Mapping[str, int], error: Exception | None) -> None:
        described = None if error is None else _described(error)
        with self._engine.begin() as connection:
            job_runs.finish(connection, run_id, counts, finished_at=self._clock.now(), error=described)


def _described(error: Exception) -> str:
    """The first line: drivers put rows, and with them people, into the others, and all tenants may read it."""
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}"
