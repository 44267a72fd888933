"""Whether the process lives, whether it can serve, and how the system is.

`/health/live` asks nothing of anybody: a process that answers it must not be restarted because the
database is away. `/health/ready` and `/health` answer 503 while they could not serve a request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.answers import json_answer
from api.endpoint import endpoint
from api.models.health import AliveAnswer, HealthAnswer
from api.problems import RETRY_AFTER_SECONDS, Problem, Refused
from api.services import services
from scheduler.jobs.run import JOBS
from scheduler.store import job_runs
from scheduler.store.job_runs import JobRun
from scheduler.store.migrate import SchemaStatus, status

health = Blueprint("health", __name__, url_prefix="/health")

_NO_DATABASE: Final = "the database does not answer"
_OLD_SCHEMA: Final = "the database's schema is not that of this release: run `daybreak db upgrade`"


@health.get("/live")
@endpoint(None, answers={200: AliveAnswer})
def live() -> Response:
    """The process answers."""
    return json_answer({"status": "ok"})


@health.get("/ready")
@endpoint(None, answers={200: AliveAnswer}, errors=(HTTPStatus.SERVICE_UNAVAILABLE,))
def ready() -> Response:
    """The database answers and has this release's schema."""
    _require_schema()
    return json_answer({"status": "ok"})


@health.get("")
@endpoint(None, answers={200: HealthAnswer}, errors=(HTTPStatus.SERVICE_UNAVAILABLE,))
def summary() -> Response:
    """The database, its schema, and the last run of each job."""
    schema = _require_schema()
    with services().reading() as connection:
        jobs = _jobs(connection)
    return json_answer(
        {"status": "ok", "database": "ok", "schema": {"revision": schema.current}, "jobs": jobs}
    )


def _require_schema() -> SchemaStatus:
    """The schema's status where it is up to date; otherwise answers why it is not known to be."""
    try:
        schema = status(services().engine)
    except (DBAPIError, PoolTimeout):
        raise _not_ready(_NO_DATABASE, database="unavailable") from None
    if not schema.up_to_date:
        raise _not_ready(
            _OLD_SCHEMA, database="ok", schema={"revision": schema.current, "newest": schema.newest}
        )
    return schema


def _not_ready(detail: str, **members: Any) -> Refused:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Refused(
        Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Not ready", detail, "/problems/not-ready", members, headers)
    )


def _jobs(connection: Connection) -> dict[str, Any]:
    latest = job_runs.latest(connection, list(JOBS))
    return {job: _job_as_json(latest[job]) if job in latest else None for job in JOBS}


def _job_as_json(run: JobRun) -> dict[str, Any]:
    """Without the error's text: that is for the operator, and this answers anybody."""
    return {
        "state": run.state,
        "trigger": run.trigger,
        "planned_at": run.planned_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "counts": dict(run.counts),
    }
