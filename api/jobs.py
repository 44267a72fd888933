"""The scheduler's jobs: when they ran and run next, and running one now.

Jobs are the installation's, not a tenant's. Running one is always safe: what is done already is not done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

from flask import Blueprint, Response
from loguru import logger
from sqlalchemy import Connection

from api.access import current_actor
from api.answers import json_answer
from api.endpoint import endpoint
from api.models.jobs import JobListAnswer, OneJobAnswer, StartedJobAnswer
from api.queries import NoQuery, PageQuery, from_cursor, read_query, to_cursor, unknown_cursor
from api.services import Services, services
from scheduler.clock import as_utc
from scheduler.cron import next_tick
from scheduler.domain.access import Actor, Scope
from scheduler.errors import Conflict, NotFound
from scheduler.jobs.run import JOBS, JobRunner
from scheduler.service import Jobs, jobs_for, planning_in_turn
from scheduler.store import job_runs
from scheduler.store.job_runs import JobRun, Trigger

jobs = Blueprint("jobs", __name__, url_prefix="/api/v1/jobs")

_CURSOR_KIND: Final = "job-run"
_LARGEST_ID: Final = 2**63 - 1

Begun = datetime | Exception | None
"""When a run began; None: another process is at it."""


@jobs.get("")
@endpoint(Scope.OPERATIONS_READ, query=NoQuery, answers={200: JobListAnswer})
def list_jobs() -> Response:
    """All jobs, each with its newest run and when it runs next."""
    read_query(NoQuery)
    with services().reading() as connection:
        shown = [job_as_json(connection, job) for job in JOBS]
    return json_answer({"jobs": shown})


@jobs.get("/<name>")
@endpoint(
    Scope.OPERATIONS_READ,
    query=PageQuery,
    answers={200: OneJobAnswer},
    errors=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
)
def read_job(name: str) -> Response:
    """A job and a page of its runs, the newest first."""
    job = _known(name)
    query = read_query(PageQuery)
    before = _before(query.cursor)
    with services().reading() as connection:
        found = job_runs.page(connection, job, before=before, most=query.limit + 1)
        shown = found[: query.limit]
        body = job_as_json(connection, job) | {
            "runs": [{"id": run_id} | _run_as_json(run) for run_id, run in shown]
        }
    next_cursor = None
    if len(found) > query.limit:
        last_id, last = shown[-1]
        next_cursor = to_cursor(_CURSOR_KIND, f"{last.started_at.isoformat()}/{last_id}")
    return json_answer({"job": body, "next_cursor": next_cursor})


@jobs.post("/<name>/run")
@endpoint(
    Scope.OPERATIONS_RUN,
    is_of_installation=True,
    query=NoQuery,
    answers={202: StartedJobAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def run_job(name: str) -> Response:
    """Run a job now; answered as soon as it has begun. 409 while another process runs it: a scheduler runs the
    enqueue job all the time.
    """
    job = _known(name)
    read_query(NoQuery)
    begun = _begin(services(), current_actor(), job)
    if isinstance(begun, Exception):
        raise begun
    if begun is None:
        raise Conflict(f"job {job!r} is being run by another process at this moment")
    return json_answer({"job": job, "started_at": begun}, HTTPStatus.ACCEPTED)


def _begin(here: Services, actor: Actor, job: str) -> Begun:
    """Run a job in a thread of its own, and wait until it has begun, or has found that it cannot."""
    begun: SimpleQueue[Begun] = SimpleQueue()
    Thread(target=_run, args=(here, actor, job, begun), name=f"job-{job}").start()
    return begun.get()


def _run(here: Services, actor: Actor, job: str, begun: SimpleQueue[Begun]) -> None:
    """Run a job to its end. Says at once whether it has begun; what becomes of it is on record."""
    is_told = False

    def work(built: Jobs) -> Mapping[str, int]:
        nonlocal is_told
        now = here.clock.now()
        is_told = True
        begun.put(now)
        return _work(built, job)(now)

    try:
        # The connections are the requests', and threads of threads could not be ended with the process.
        built = jobs_for(planning_in_turn(here.settings), here.engine, here.clock)
        try:
            ran = JobRunner(here.engine, here.clock).run(
                job, lambda: work(built), Trigger.MANUAL, actor=actor
            )
        finally:
            built.broker.close()
        if ran is None:
            begun.put(None)
    except Exception as error:
        if not is_told:
            begun.put(error)
        logger.bind(job=job, cause=type(error).__name__).error("job_run_by_hand_failed")


def _work(built: Jobs, job: str) -> Callable[[datetime], Mapping[str, int]]:
    work: Mapping[str, Callable[[datetime], Mapping[str, int]]] = {
        "precalculate": built.precalculate.run,
        "enqueue": built.enqueue.run,
        "recover": built.recover.run,
    }
    return work[job]


def _known(name: str) -> str:
    if name not in JOBS:
        raise NotFound("job", name)
    return name


def _before(cursor: str | None) -> tuple[datetime, int]:
    """The instant and id that a page ends before; beyond all runs where there is no cursor."""
    if cursor is None:
        return datetime.max.replace(tzinfo=services().clock.now().tzinfo), _LARGEST_ID
    instant, _, run_id = from_cursor(_CURSOR_KIND, cursor).partition("/")
    try:
        before = as_utc(datetime.fromisoformat(instant)), int(run_id)
    except (ValueError, OverflowError):
        raise unknown_cursor() from None
    if not 0 < before[1] <= _LARGEST_ID:
        raise unknown_cursor()
    return before


def job_as_json(connection: Connection, job: str) -> dict[str, Any]:
    """A job as lists show it."""
    here = services()
    cron = str(getattr(here.settings, f"{job}_cron"))
    last = job_runs.latest(connection, [job]).get(job)
    return {
        "name": job,
        "cron": cron,
        "next_run_at": next_tick(cron, here.clock.now()),
        "last_run": None if last is None else _run_as_json(last),
    }


def _run_as_json(run: JobRun) -> dict[str, Any]:
    return {
        "state": run.state,
        "trigger": run.trigger,
        "planned_at": run.planned_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "counts": dict(run.counts),
        "error": run.error,
        "host": run.host,
    }
