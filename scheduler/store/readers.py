"""Reads of one row at the price of the row: a kept connection, a statement that the server knows, one round trip.

SQLAlchemy's part of such a read, and the driver's, cost several times what PostgreSQL does. So a connection is
borrowed from the engine's pool and kept: each read takes one that lies idle, names the tenant where it named
another (`tenants`), and executes the statement by the name under which the connection prepared it. Nothing is asked
before: where a kept connection turns out to be lost, the read, which changes nothing, is made again on another. The
error tree is SQLAlchemy's.

At most half of the pool is kept, so that no transaction waits for a connection that reads; whoever reads beyond that
gives theirs back at once. Limit: for statements that only read and stand for themselves.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy import Engine, PoolProxiedConnection, QueuePool, TextClause, event
from sqlalchemy.exc import DBAPIError, DisconnectionError

from scheduler.store.direct import NUMBERED, SESSION
from scheduler.store.tenants import name_tenant


class SingleRow:
    """A statement of parameters that are whole numbers or texts, which returns one row or none."""

    def __init__(self, name: str, statement: TextClause) -> None:
        compiled: Any = statement.compile(dialect=NUMBERED)
        self.name: bytes = f"daybreak_{name}".encode()
        self.text: bytes = " ".join(str(compiled).split()).encode()
        self.parameters: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._row: Callable[[Any], Any] | None = None

    def row(self, values: tuple[Any, ...], result: Any) -> Any:
        """A named tuple of what was found."""
        if self._row is None:
            names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
            made: Any = namedtuple("Row", names)  # type: ignore[misc]  # they are the statement's
            self._row = made._make
        return self._row(values)


class Readers:
    """The connections of one engine that only read. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        pool = engine.pool
        self._most_kept = pool.size() // 2 if isinstance(pool, QueuePool) else 0
        self._kept: list[PoolProxiedConnection] = []
        event.listen(engine, "engine_disposed", self._close)

    def one_or_none(self, statement: SingleRow, tenant_id: int, **parameters: int | str) -> Any:
        """The row that a tenant's connection finds; None: there is none. Raises what SQLAlchemy raises.

        `tenant_id` is a parameter of the statement as well, if it names it.
        """
        values = [
            str(tenant_id if name == "tenant_id" else parameters[name]).encode()
            for name in statement.parameters
        ]
        while True:
            lent, was_kept = self._lend()
            try:
                name_tenant(_driver(lent), lent.info, tenant_id)
                found = _execute(lent, statement, values)
            except (psycopg.Error, DisconnectionError) as error:
                # Whatever it was: what the connection has prepared may be no more, as after a migration.
                is_lost = _driver(lent).broken
                lent.invalidate(error)
                if not (was_kept and is_lost):
                    raise self._as_raised(error) from error
            else:
                self._take_back(lent)
                return found

    def _lend(self) -> tuple[PoolProxiedConnection, bool]:
        """A connection, and whether it was kept: then it may have been lost meanwhile."""
        try:
            return self._kept.pop(), True
        except IndexError:
            return self._engine.raw_connection(), False

    def _take_back(self, lent: PoolProxiedConnection) -> None:
        if len(self._kept) < self._most_kept:
            self._kept.append(lent)
        else:
            lent.close()

    def _as_raised(self, error: psycopg.Error | DisconnectionError) -> Exception:
        cause = error.__cause__ if isinstance(error, DisconnectionError) else error
        assert isinstance(cause, psycopg.Error), "a connection is lost by the driver's word alone"
        return DBAPIError.instance(
            None, None, cause, psycopg.Error, connection_invalidated=True, dialect=self._engine.dialect
        )

    def _close(self, _engine: Engine) -> None:
        while self._kept:
            self._kept.pop().invalidate()


def _driver(lent: PoolProxiedConnection) -> psycopg.Connection[Any]:
    driver: Any = lent.driver_connection
    return driver  # type: ignore[no-any-return]


def _execute(lent: PoolProxiedConnection, statement: SingleRow, values: list[bytes]) -> Any:
    driver = _driver(lent)
    transformers: dict[bytes, Any] = lent.info[SESSION].of_readers
    transformer = transformers.get(statement.name)
    if transformer is None:
        _expect(driver, driver.pgconn.prepare(statement.name, statement.text), ExecStatus.COMMAND_OK)
        transformer = transformers[statement.name] = Transformer(driver)
    result = driver.pgconn.exec_prepared(statement.name, values)
    _expect(driver, result, ExecStatus.TUPLES_OK)
    if result.ntuples == 0:
        return None
    assert result.ntuples == 1, "it returns one row"
    transformer.set_pgresult(result)
    return statement.row(transformer.load_row(0, tuple), result)


def _expect(driver: psycopg.Connection[Any], result: Any, status: ExecStatus) -> None:
    if result.status != status:
        raise error_from_result(result, encoding=driver.info.encoding)
