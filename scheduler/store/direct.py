"""Statements handed to the driver as they are: for requests, where SQLAlchemy's part costs more than PostgreSQL's.

A statement is written as everywhere, and turned into the driver's form once. `answers` sends several without waiting
for the answers in between: one round trip, and the server runs them in order, each with a snapshot of its own. The
first of a transaction takes BEGIN along (`sessions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import DBAPIError

from scheduler.store.sessions import Answer, Call, Parameters, Session, Statement

__all__ = ["NUMBERED", "SESSION", "Answer", "Call", "Direct", "Parameters", "answers"]

# Of the dialects, asyncpg's is the one whose parameters are numbered as PostgreSQL numbers them.
NUMBERED: Final = asyncpg.dialect()  # type: ignore[no-untyped-call]

SESSION: Final = "daybreak_session"
"""Under this name the pool notes the `Session` of each of its connections."""


class Direct(Statement):
    """A statement for the driver."""

    def __init__(self, statement: TextClause | str) -> None:
        self.statement = text(statement) if isinstance(statement, str) else statement
        compiled: Any = self.statement.compile(dialect=NUMBERED)
        # Without its indentation, which would be sent with it.
        super().__init__(" ".join(str(compiled).split()), compiled.positiontup or ())

    def one_or_none(self, connection: Connection, parameters: Parameters) -> Any:
        """The only row; None: there is none."""
        rows = self.rows(connection, parameters)
        assert len(rows) < 2
        return rows[0] if rows else None

    def rows(self, connection: Connection, parameters: Parameters) -> list[Any]:
        """The rows. Raises what SQLAlchemy raises."""
        return self._answer(connection, parameters, is_named=True).rows

    def tuples(self, connection: Connection, parameters: Parameters) -> list[tuple[Any, ...]]:
        """The rows without names, for those who read many. Raises what SQLAlchemy raises."""
        return self._answer(connection, parameters).rows

    def count(self, connection: Connection, parameters: Parameters) -> int:
        """How many rows it changed. Raises what SQLAlchemy raises."""
        return self._answer(connection, parameters).changed

    def at_once(self, connection: Connection, parameters: Parameters) -> Any:
        """The only row; None: there is none. Where no transaction is under way the statement is one of its own:
        committed in one round trip instead of three. Raises what SQLAlchemy raises.
        """
        rows = self._answer(connection, parameters, is_named=True, begins=False).rows
        return rows[0] if rows else None

    def _answer(
        self, connection: Connection, parameters: Parameters, *, is_named: bool = False, begins: bool = True
    ) -> Answer:
        [answer] = _exchanged(connection, [Call(self, parameters, is_named)], begins=begins)
        return answer


def answers(connection: Connection, calls: Sequence[Call], *, commits: bool = False) -> list[Answer]:
    """What each statement has done, in one round trip; where one fails, those after it do nothing.

    Where this `commits`, the transaction has ended by then; if none of the statements fails. Raises what SQLAlchemy
    raises.
    """
    return _exchanged(connection, calls, commits=commits) if calls else []


def _exchanged(
    connection: Connection, calls: Sequence[Call], *, begins: bool = True, commits: bool = False
) -> list[Answer]:
    lent = connection.connection
    session: Session = lent.info[SESSION]
    try:
        return session.exchange(calls, begins=begins, commits=commits)
    except psycopg.Error as error:
        driver: Any = lent.driver_connection
        is_lost = bool(driver.closed)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None, None, error, psycopg.Error, connection_invalidated=is_lost, dialect=connection.dialect
        ) from error
