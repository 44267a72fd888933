"""The scheduler's jobs as callers see them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from scheduler.store.job_runs import Trigger


class JobRunAnswer(BaseModel):
    """A run. One that is `running` for long belongs to a process that has died, unless it is still at it."""

    state: Literal["running", "succeeded", "failed"]
    trigger: Trigger
    planned_at: datetime
    started_at: datetime
    finished_at: datetime | None
    counts: dict[str, int]
    error: str | None
    host: str


class JobAnswer(BaseModel):
    """A job: when it runs next, and its newest finished run (the one that runs, where none has finished)."""

    name: str
    cron: str
    next_run_at: datetime
    last_run: JobRunAnswer | None


class JobListAnswer(BaseModel):
    """All jobs."""

    jobs: list[JobAnswer]


class JobRunWithIdAnswer(JobRunAnswer):
    """A run of the history."""

    id: int


class JobHistoryAnswer(JobAnswer):
    """A job with a page of its runs, the newest first."""

    runs: list[JobRunWithIdAnswer]


class OneJobAnswer(BaseModel):
    """A job and its history."""

    job: JobHistoryAnswer
    next_cursor: str | None


class StartedJobAnswer(BaseModel):
    """A run that has begun; its end is in the job's history."""

    job: str
    started_at: datetime
