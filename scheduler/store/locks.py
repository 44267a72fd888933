"""Advisory locks: who may plan beside whom, and which scheduler runs a job.

Locks of a transaction end with it, so they are safe behind a transaction pooler. A job outlives a
transaction: its lock sits on one connection of its own and ends with that connection, so a scheduler
that dies frees it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Engine, text

_PLANNING_CLASS: Final = 20_260_102
_JOB_CLASS: Final = 20_260_103
_PARTITIONS: Final = (20_260_104, 1)

SHARE: Final = text("SELECT pg_advisory_xact_lock_shared(:class, :object)")
_EXCLUDE: Final = text("SELECT pg_advisory_xact_lock(:class, :object)")
_TRY: Final = text("SELECT pg_try_advisory_lock(:class, hashtext(:job))")
_RELEASE: Final = text("SELECT pg_advisory_unlock(:class, hashtext(:job))")


def share_planning(connection: Connection, tenant_id: int) -> None:
    """Plan or replan users of a tenant: waits only while one of its occasions is being edited."""
    connection.execute(SHARE, planning_of(tenant_id))


def planning_of(tenant_id: int) -> dict[str, int]:
    """What `SHARE` is given to share the planning of a tenant."""
    return {"class": _PLANNING_CLASS, "object": tenant_id}


def exclude_planning(connection: Connection, tenant_id: int) -> None:
    """Edit an occasion of a tenant: nobody plans for it until the transaction ends."""
    connection.execute(_EXCLUDE, {"class": _PLANNING_CLASS, "object": tenant_id})


def exclude_partition_creation(connection: Connection) -> None:
    """Create partitions: one session at a time."""
    lock_class, lock_object = _PARTITIONS
    connection.execute(_EXCLUDE, {"class": lock_class, "object": lock_object})


@contextmanager
def job_lock(engine: Engine, job: str) -> Iterator[bool]:
    """Whether this process may run `job` now; the right lasts as long as the context."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        held = bool(connection.execute(_TRY, {"class": _JOB_CLASS, "job": job}).scalar_one())
        try:
            yield held
        finally:
            if held and not connection.invalidated:
                connection.execute(_RELEASE, {"class": _JOB_CLASS, "job": job})
