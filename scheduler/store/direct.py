"""Statements handed to the driver as they are: for requests, where SQLAlchemy's part costs more than PostgreSQL's.

A statement is written as everywhere, and turned into the driver's form once. `answers` sends several without waiting
for the answers in between: one round trip, and the server runs them in order, each with a snapshot of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory, namedtuple_row, tuple_row
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import DBAPIError

Result = TypeVar("Result")
Parameters = Mapping[str, Any]

# Of the dialects, asyncpg's is the one whose parameters are numbered as PostgreSQL numbers them.
NUMBERED: Final = asyncpg.dialect()  # type: ignore[no-untyped-call]


class Direct:
    """A statement for the driver."""

    def __init__(self, statement: TextClause | str) -> None:
        self.statement = text(statement) if isinstance(statement, str) else statement
        compiled: Any = self.statement.compile(dialect=NUMBERED)
        # Without its indentation, which would be sent each time.
        self._text: str = " ".join(str(compiled).split())
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())

    def one_or_none(self, connection: Connection, parameters: Parameters) -> Any:
        """The only row; None: there is none."""
        rows = self.rows(connection, parameters)
        assert len(rows) < 2
        return rows[0] if rows else None

    def rows(self, connection: Connection, parameters: Parameters) -> list[Any]:
        """The rows. Raises what SQLAlchemy raises."""
        return _driven(connection, lambda driver: self.send(driver, parameters).fetchall())

    def tuples(self, connection: Connection, parameters: Parameters) -> list[tuple[Any, ...]]:
        """The rows without names, for those who read many. Raises what SQLAlchemy raises."""
        return _driven(connection, lambda driver: self.send(driver, parameters, tuple_row).fetchall())

    def count(self, connection: Connection, parameters: Parameters) -> int:
        """How many rows it changed. Raises what SQLAlchemy raises."""
        return _driven(connection, lambda driver: self.send(driver, parameters).rowcount)

    def at_once(self, connection: Connection, parameters: Parameters) -> Any:
        """The only row; None: there is none. Where no transaction is under way the statement is one of its own:
        committed in one round trip instead of three. Raises what SQLAlchemy raises.
        """

        def run(driver: psycopg.Connection[Any]) -> Any:
            if driver.info.transaction_status is not TransactionStatus.IDLE:
                return self.send(driver, parameters).fetchone()
            driver.autocommit = True
            try:
                return self.send(driver, parameters).fetchone()
            finally:
                if not driver.closed:
                    driver.autocommit = False

        return _driven(connection, run)

    def send(
        self,
        driver: psycopg.Connection[Any],
        parameters: Parameters,
        row_factory: RowFactory[Any] = namedtuple_row,
    ) -> RawCursor[Any]:
        """Have the driver execute it, or in a pipeline send it."""
        cursor: RawCursor[Any] = RawCursor(driver, row_factory=row_factory)
        cursor.execute(self._text, [parameters[name] for name in self._names])
        return cursor


class Call(NamedTuple):
    """A statement and what it is called with, to be sent in company."""

    statement: Direct
    parameters: Parameters
    is_named: bool = False
    """Whether its rows are to have names; those who read many do without."""


class Answer(NamedTuple):
    """What one of several statements has done."""

    changed: int
    """How many rows it changed, or found."""
    rows: list[Any]
    """Empty where it returns none."""


def answers(connection: Connection, calls: Sequence[Call]) -> list[Answer]:
    """What each statement has done, in one round trip; where one fails, those after it do nothing.

    Raises what SQLAlchemy raises.
    """

    def run(driver: psycopg.Connection[Any]) -> list[Answer]:
        with driver.pipeline():
            cursors = [
                call.statement.send(driver, call.parameters, namedtuple_row if call.is_named else tuple_row)
                for call in calls
            ]
        return [
            # Unlike `description`, which says the same, it does not look each column up.
            Answer(cursor.rowcount, [] if cursor.rownumber is None else cursor.fetchall())
            for cursor in cursors
        ]

    return _driven(connection, run) if calls else []


def _driven(connection: Connection, work: Callable[[psycopg.Connection[Any]], Result]) -> Result:
    driver: Any = connection.connection.driver_connection
    try:
        return work(driver)
    except psycopg.Error as error:
        is_lost = bool(driver.closed)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, psycopg.Error, connection_invalidated=is_lost, dialect=connection.dialect
        ) from error
