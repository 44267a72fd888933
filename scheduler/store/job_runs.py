"""A record of each run of each job: when it was due, when it ran, what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, text

_BEGIN: Final = text("""
INSERT INTO job_runs (job, trigger, planned_at, started_at, state, counts, host)
VALUES (:job, :trigger, :planned_at, :started_at, 'running', '{}', :host) RETURNING id""")

_FINISH: Final = text("""
UPDATE job_runs SET state = CASE WHEN CAST(:error AS text) IS NULL THEN 'succeeded' ELSE 'failed' END,
    finished_at = :finished_at, counts = CAST(:counts AS jsonb), error = CAST(:error AS text)
WHERE id = :id AND state = 'running'""")

# One look-up for each job: runs are kept by the million.
_LATEST: Final = text("""
SELECT run.job, run.trigger, run.planned_at, run.started_at, run.finished_at, run.state, run.counts, run.error, run.host
FROM unnest(CAST(:jobs AS text[])) AS wanted (job)
CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT * FROM job_runs WHERE job = wanted.job AND state <> 'running'
         ORDER BY started_at DESC, id DESC LIMIT 1)
        UNION ALL
        (SELECT * FROM job_runs WHERE job = wanted.job ORDER BY started_at DESC, id DESC LIMIT 1)
    ) AS newest ORDER BY state = 'running' LIMIT 1
) AS run""")

_PAGE: Final = text("""
SELECT id, job, trigger, planned_at, started_at, finished_at, state, counts, error, host FROM job_runs
WHERE job = :job AND (started_at, id) < (CAST(:before_instant AS timestamptz), CAST(:before_id AS bigint))
ORDER BY started_at DESC, id DESC LIMIT :most""")

_ERROR_LENGTH: Final = 2_000


class Trigger(StrEnum):
    """What made a job run."""

    CRON = "cron"
    START = "start"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run as recorded; `finished_at` is None while it runs, or for ever where its process died."""

    job: str
    trigger: Trigger
    planned_at: datetime
    started_at: datetime
    finished_at: datetime | None
    state: str
    counts: Mapping[str, int]
    error: str | None
    host: str


def begin(
    connection: Connection,
    job: str,
    trigger: Trigger,
    *,
    planned_at: datetime,
    started_at: datetime,
    host: str,
) -> int:
    """Record that a run has begun; returns its id."""
    parameters = {
        "job": job,
        "trigger": trigger.value,
        "planned_at": planned_at,
        "started_at": started_at,
        "host": host,
    }
    return int(connection.execute(_BEGIN, parameters).scalar_one())


def finish(
    connection: Connection,
    run_id: int,
    counts: Mapping[str, int],
    *,
    finished_at: datetime,
    error: str | None = None,
) -> None:
    """Record how a run ended; `error` None means it succeeded."""
    parameters = {
        "id": run_id,
        "counts": json.dumps(dict(counts)),
        "finished_at": finished_at,
        "error": None if error is None else error[:_ERROR_LENGTH],
    }
    connection.execute(_FINISH, parameters)


def latest(connection: Connection, jobs: list[str]) -> dict[str, JobRun]:
    """The newest finished run of each of `jobs`, or the one that runs where none ever finished."""
    rows = connection.execute(_LATEST, {"jobs": jobs}).mappings()
    return {row["job"]: _job_run(dict(row)) for row in rows}


def page(
    connection: Connection, job: str, *, before: tuple[datetime, int], most: int
) -> list[tuple[int, JobRun]]:
    """Up to `most` runs of a job, each with its id, the newest first: those begun before an instant and id."""
    parameters = {"job": job, "before_instant": before[0], "before_id": before[1], "most": most}
    rows = [dict(row) for row in connection.execute(_PAGE, parameters).mappings()]
    return [(row.pop("id"), _job_run(row)) for row in rows]


def _job_run(row: dict[str, Any]) -> JobRun:
    return JobRun(**(row | {"trigger": Trigger(row["trigger"])}))
