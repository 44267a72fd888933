"""How the system is, as probes and people ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api.models.answer import Answer


class AliveAnswer(Answer):
    """It is well."""

    status: Literal["ok"]


class SchemaAnswer(Answer):
    """The database's schema."""

    revision: str | None


class JobHealthAnswer(Answer):
    """The last run of a job; `finished_at` is null while it runs, or for ever where its process died."""

    state: str
    trigger: str
    planned_at: datetime
    started_at: datetime
    finished_at: datetime | None
    counts: Mapping[str, int]
    """What it did, in messages and batches."""


class HealthAnswer(AliveAnswer):
    """It is well: the database, its schema, and the last run of each job."""

    database: Literal["ok"]
    schema_: Annotated[SchemaAnswer, Field(alias="schema")]
    jobs: Mapping[str, JobHealthAnswer | None]
