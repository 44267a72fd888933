"""`daybreak jobs run | status`: the scheduler's three jobs, by hand and in view."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import click

from deploy.commands.session import COMMAND, begin_command, say
from deploy.commands.table import table
from deploy.database import engine_on, usable_database
from scheduler import connections
from scheduler.clock import Clock, SystemClock
from scheduler.cron import next_tick
from scheduler.jobs.run import JOBS, JobRunner, Ran
from scheduler.service import jobs_for
from scheduler.settings import Settings
from scheduler.store import job_runs
from scheduler.store.job_runs import JobRun, Trigger

BUSY_EXIT: Final = 75
"""Exit code where another process runs the job just now (sysexits.h: EX_TEMPFAIL)."""


@click.group()
def jobs() -> None:
    """Run a job now, or see when they ran and run next."""


@jobs.command()
@click.argument("job", type=click.Choice(JOBS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def run(context: click.Context, job: str, as_json: bool) -> None:
    """Run a job once, now. It is always safe: what is done already is not done twice.

    Where a scheduler runs it at this moment nothing is done, and the exit code is 75.
    """
    with usable_database(begin_command(), say) as settings:
        ran = _run_now(settings, job)
    if as_json:
        click.echo(
            json.dumps({"job": job, "ran": ran is not None, "counts": dict(ran.counts) if ran else {}})
        )
    elif ran is not None:
        click.echo(f"{job}: {_counts(ran.counts)}")
    else:
        click.echo(f"{job}: nothing done, a scheduler is running it at this moment")
    context.exit(0 if ran else BUSY_EXIT)


def _run_now(settings: Settings, job: str) -> Ran | None:
    clock = SystemClock()
    with engine_on(settings, "command", least_connections=connections.of_a_job(settings)) as engine:
        built = jobs_for(settings, engine, clock)
        work: Mapping[str, Callable[[datetime], Mapping[str, int]]] = {
            "precalculate": built.precalculate.run,
            "enqueue": built.enqueue.run,
            "recover": built.recover.run,
        }
        try:
            runner = JobRunner(engine, clock)
            return runner.run(job, lambda: work[job](clock.now()), Trigger.MANUAL, actor=COMMAND)
        finally:
            built.broker.close()


@jobs.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show for each job when it runs next, and how its last run went."""
    clock = SystemClock()
    with (
        usable_database(begin_command(), say, create=False) as settings,
        engine_on(settings, "command") as engine,
    ):
        with engine.connect() as connection:
            latest = job_runs.latest(connection, list(JOBS))
        states = [_state(settings, job, latest.get(job), clock) for job in JOBS]
    if as_json:
        click.echo(json.dumps([state.fields() for state in states]))
        return
    headings = ("JOB", "CRON (UTC)", "NEXT RUN", "LAST RUN", "BY", "TOOK", "RESULT")
    click.echo(table(headings, [state.cells(clock.now()) for state in states]))


@dataclass(frozen=True, slots=True)
class _JobState:
    """One job: when it is to run, and its last run if it ever ran."""

    job: str
    cron: str
    next_run_at: datetime
    last: JobRun | None

    def fields(self) -> dict[str, Any]:
        """For a program: instants in RFC 3339, durations in seconds."""
        return {
            "job": self.job,
            "cron": self.cron,
            "next_run_at": self.next_run_at.isoformat(),
            "last_run": None if self.last is None else _run_fields(self.last),
        }

    def cells(self, now: datetime) -> tuple[str, ...]:
        """For people: one line of the table."""
        until = f"in {_rough(self.next_run_at - now)}"
        if self.last is None:
            return self.job, self.cron, until, "never", "", "", ""
        return (
            self.job,
            self.cron,
            until,
            f"{_rough(now - self.last.started_at)} ago",
            self.last.trigger.value,
            _took(self.last),
            _result(self.last),
        )


def _state(settings: Settings, job: str, last: JobRun | None, clock: Clock) -> _JobState:
    cron = str(getattr(settings, f"{job}_cron"))
    return _JobState(job, cron, next_tick(cron, clock.now()), last)


def _run_fields(run: JobRun) -> dict[str, Any]:
    took = None if run.finished_at is None else (run.finished_at - run.started_at).total_seconds()
    return {
        "trigger": run.trigger.value,
        "planned_at": run.planned_at.isoformat(),
        "started_at": run.started_at.isoformat(),
        "took_seconds": took,
        "state": run.state,
        "counts": dict(run.counts),
        "error": run.error,
        "host": run.host,
    }


def _took(run: JobRun) -> str:
    if run.finished_at is None:
        return "running"
    return f"{(run.finished_at - run.started_at).total_seconds():.1f} s"


def _result(run: JobRun) -> str:
    if run.error is not None:
        return click.style(f"failed: {run.error.splitlines()[0]}", fg="red")
    return "" if run.finished_at is None else _counts(run.counts)


def _counts(counts: Mapping[str, int]) -> str:
    """What a run counted, without what there was none of."""
    found = [f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number]
    return ", ".join(found) or "nothing to do"


def _rough(duration: timedelta) -> str:
    """A duration in its largest two units."""
    seconds = max(0, round(duration.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"
