"""Connections to PostgreSQL: how they are made, and how a transaction is run.

Connections outlive neither a dead server nor a dead network: keepalives and `tcp_user_timeout` end
what no statement timeout can (TRAPS: a stopped server answers nothing), and the pool checks each
connection before lending it: one that the server has ended can be read from, which costs no round trip to
see, and one that lay idle is asked. The other way round, the server ends a session that falls silent in the
middle of a transaction: its locks must not outlast a process that stands still or cannot be reached.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson
import psycopg
from psycopg.errors import DeadlockDetected, SerializationFailure
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from scheduler.clock import SystemClock
from scheduler.store import arrays
from scheduler.store.direct import SESSION
from scheduler.store.sessions import Session

Result = TypeVar("Result")

_TRANSACTION_TRIES: Final = 5
_CONNECT_TIMEOUT_SECONDS: Final = 5
_UNACKNOWLEDGED_TIMEOUT_MILLISECONDS: Final = 30_000
_SILENT_TRANSACTION_SECONDS: Final = 60
_TRUSTED_SECONDS: Final = 5.0
_LAST_USED: Final = "daybreak_last_used"
_CLOCK: Final = SystemClock()


def create_database_engine(
    url: str, *, pool_size: int, application_name: str, statement_seconds: int = 0, plans_once: bool = False
) -> Engine:
    """An engine for `url`, as libpq or SQLAlchemy write it, with at most `pool_size` connections.

    Opens nothing: the first use does. A statement may take `statement_seconds`; 0: as long as it takes. Where it
    `plans_once`, statements that are executed often are planned without a look at their parameters: by itself
    PostgreSQL would plan each update of the partitioned log anew.
    """
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        # A session that has just worked has its plans and caches at hand.
        pool_use_lifo=True,
        json_deserializer=orjson.loads,
        connect_args={
            "application_name": application_name,
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": _UNACKNOWLEDGED_TIMEOUT_MILLISECONDS,
            # JIT compiles for longer than our statements run; plans for few rows gain nothing from helpers.
            "options": "-c timezone=UTC -c jit=off -c max_parallel_workers_per_gather=0"
            f" -c idle_in_transaction_session_timeout={_SILENT_TRANSACTION_SECONDS}s"
            f" -c statement_timeout={statement_seconds}s"
            f" -c plan_cache_mode={'force_generic_plan' if plans_once else 'auto'}",
        },
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "checkout", _check)
    event.listen(engine, "checkin", _note_use)
    return engine


def _prepare(connection: psycopg.Connection[Any], record: ConnectionPoolEntry) -> None:
    arrays.register(connection)
    record.info[SESSION] = Session(connection)


def _check(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _lent: object) -> None:
    """Raise InvalidatePoolError, upon which the pool makes new connections, unless this one is as it should be."""
    last_used = record.info.get(_LAST_USED)
    if last_used is None:
        return
    idle_seconds = _CLOCK.monotonic() - last_used
    if idle_seconds < _TRUSTED_SECONDS and not _has_news(connection):
        return
    try:
        connection.autocommit = True
        connection.execute("")
        connection.autocommit = False
    except psycopg.Error as error:
        raise InvalidatePoolError(type(error).__name__) from error


def _has_news(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has said something that nobody asked for: that it ends, or that it has ended."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _note_use(_connection: psycopg.Connection[Any] | None, record: ConnectionPoolEntry) -> None:
    record.info[_LAST_USED] = _CLOCK.monotonic()


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
