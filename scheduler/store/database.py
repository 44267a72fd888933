"""Connections to PostgreSQL: how they are made, and how a transaction is run.

Connections outlive neither a dead server nor a dead network: keepalives and `tcp_user_timeout` end
what no statement timeout can (TRAPS: a stopped server answers nothing), and the pool checks each
connection before lending it. The other way round, the server ends a session that falls silent in the
middle of a transaction: its locks must not outlast a process that stands still or cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from psycopg.errors import DeadlockDetected, SerializationFailure
from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError

Result = TypeVar("Result")

_TRANSACTION_TRIES: Final = 5
_CONNECT_TIMEOUT_SECONDS: Final = 5
_UNACKNOWLEDGED_TIMEOUT_MILLISECONDS: Final = 30_000
_SILENT_TRANSACTION_SECONDS: Final = 60


def create_database_engine(url: str, *, pool_size: int, application_name: str) -> Engine:
    """An engine for `url`, as libpq or SQLAlchemy write it, with at most `pool_size` connections.

    Opens nothing: the first use does.
    """
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": _UNACKNOWLEDGED_TIMEOUT_MILLISECONDS,
            # JIT compiles for longer than our statements run; plans for few rows gain nothing from helpers.
            "options": "-c timezone=UTC -c jit=off -c max_parallel_workers_per_gather=0"
            f" -c idle_in_transaction_session_timeout={_SILENT_TRANSACTION_SECONDS}s",
        },
    )


def in_transaction(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """Run `work` in a transaction and commit it; run it anew where PostgreSQL broke a deadlock.

    `work` must be repeatable: it may run up to five times. Any other error is raised as it is.
    """
    for tries_left in reversed(range(_TRANSACTION_TRIES)):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if not tries_left or not isinstance(error.orig, DeadlockDetected | SerializationFailure):
                raise
    raise AssertionError("unreachable: the last try returns or raises")
