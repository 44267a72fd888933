"""Statements that a session is sent together: one way there, one way back, and nothing asked in between.

The driver's pipeline sends each statement by itself, waits for BEGIN, and prepares a statement after five times; its
cursors cost several times what PostgreSQL does for a statement of ours. Here libpq is driven directly.
What has been sent is executed in its order, each statement with a snapshot of its own, BEGIN before the first of a
transaction and, if asked for, COMMIT after the last. Where one fails, those after it do nothing, COMMIT neither.

A statement is prepared as it is first sent. Both the driver's names and ours are the session's: when the driver throws
away all (after a ROLLBACK), ours are forgotten as well.
"""

from __future__ import annotations

import select
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg._preparing import PrepareManager
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import FeatureNotSupported, InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

Parameters = Mapping[str, Any]

_BEGIN: Final = b"BEGIN"
_COMMIT: Final = b"COMMIT"
_FAILED: Final = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)

_Key = tuple["Statement", tuple[int, ...]]
"""What is prepared: a statement for parameters of these types."""


class Statement:
    """A statement with numbered parameters."""

    def __init__(self, statement_text: str, parameters: Sequence[str]) -> None:
        self.text: bytes = statement_text.encode()
        self.parameters = tuple(parameters)
        self.formats = [PyFormat.AUTO] * len(self.parameters)
        self._named: Callable[[Any], Any] | None = None

    def named(self, result: PGresult) -> Callable[[Any], Any]:
        """What makes a named tuple of a row."""
        if self._named is None:
            names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
            made: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # they are the statement's
            self._named = made._make
        return self._named


class Call(NamedTuple):
    """A statement and what it is called with."""

    statement: Statement
    parameters: Parameters
    is_named: bool = False
    """Whether its rows are to have names; those who read many do without."""


class Answer(NamedTuple):
    """What one of several statements has done."""

    changed: int
    """How many rows it changed, or found."""
    rows: list[Any]
    """Empty where it returns none."""


class _Names(PrepareManager):
    """What a session knows by a name. The driver's part of it says when all are thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.ours: dict[_Key, bytes] = {}
        self.of_readers: dict[bytes, Any] = {}
        self._made = 0

    def clear(self) -> bool:
        """Forget all; whether they will be thrown away."""
        is_thrown_away = super().clear()
        if is_thrown_away:
            self.ours.clear()
            self.of_readers.clear()
        return is_thrown_away

    def another(self) -> bytes:
        """A name that was never used."""
        self._made += 1
        return b"daybreak_%d" % self._made


class _Packed(NamedTuple):
    """What the driver made of a call."""

    key: _Key
    values: Any
    formats: Any


class Session:
    """One connection of the driver. Not to be used by two threads at a time."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver = driver
        self._names = _Names()
        # The driver has no other way of telling that it throws away what is prepared.
        driver._prepared = self._names  # noqa: SLF001
        self._dumper, self._loader = Transformer(driver), Transformer(driver)
        self._news = select.poll()
        self._news.register(driver.fileno(), select.POLLIN)

    @property
    def of_readers(self) -> dict[bytes, Any]:
        """What readers have prepared, under their names, and what they keep of it; empty once it is thrown away."""
        return self._names.of_readers

    def exchange(self, calls: Sequence[Call], *, begins: bool = True, commits: bool = False) -> list[Answer]:
        """What each has done. Where no transaction is under way one is begun, unless the connection commits by itself
        or it is not to (`begins`): then all of them are one. Raises what the driver raises: the first error.
        """
        connection = self._driver.pgconn
        packed = [self._packed(each) for each in calls]
        names = self._names.ours
        fresh = {each.key: self._names.another() for each in packed if each.key not in names}
        is_idle = connection.transaction_status == TransactionStatus.IDLE
        before = [_BEGIN] if begins and is_idle and not self._driver.autocommit else []
        try:
            connection.enter_pipeline_mode()
            for (statement, types), name in fresh.items():
                connection.send_prepare(name, statement.text, param_types=types)
            for command in before:
                connection.send_query_params(command, None)
            for key, values, formats in packed:
                name = names.get(key) or fresh[key]
                connection.send_query_prepared(name, values, param_formats=formats)
            if commits:
                connection.send_query_params(_COMMIT, None)
            connection.pipeline_sync()
            self._flush()
            results = self._received(len(fresh) + len(before) + len(packed) + commits)
            connection.exit_pipeline_mode()
        except BaseException:
            # Nobody knows what would still come.
            self._driver.close()
            raise
        self._check(results, fresh)
        first = len(fresh) + len(before)
        executed = results[first : first + len(calls)]
        return [self._answer(*each) for each in zip(calls, executed, strict=True)]

    def _packed(self, call: Call) -> _Packed:
        statement, parameters, _ = call
        values = self._dumper.dump_sequence(
            [parameters[name] for name in statement.parameters], statement.formats
        )
        return _Packed((statement, tuple(self._dumper.types or ())), values, self._dumper.formats)

    def _flush(self) -> None:
        """Send all. What comes meanwhile is taken in: a server that cannot get rid of its answers reads no further."""
        connection = self._driver.pgconn
        if not connection.flush():
            return
        poll = select.poll()
        poll.register(connection.socket, select.POLLIN | select.POLLOUT)
        while connection.flush():
            if any(events & ~select.POLLOUT for _, events in poll.poll()):
                connection.consume_input()

    def _received(self, count: int) -> list[PGresult]:
        """The results of as many commands, up to the end of what was sent."""
        results: list[PGresult] = []
        try:
            for _ in range(count):
                result = self._next()
                if result is None:
                    raise psycopg.OperationalError("the connection is lost")
                results.append(result)
                # Each ends with an empty one.
                self._next()
            self._next()
        except psycopg.OperationalError as error:
            # What the server said before it hung up tells more.
            self._raise_for(results, cause=error)
            raise
        return results

    def _next(self) -> PGresult | None:
        connection = self._driver.pgconn
        while connection.is_busy():
            self._news.poll()
            connection.consume_input()
        return connection.get_result()

    def _check(self, results: Sequence[PGresult], fresh: Mapping[_Key, bytes]) -> None:
        """Keep what has been prepared, and raise the first error."""
        for (key, name), result in zip(fresh.items(), results, strict=False):
            if result.status == ExecStatus.COMMAND_OK:
                self._names.ours[key] = name
        try:
            self._raise_for(results)
        except (FeatureNotSupported, InvalidSqlStatementName):
            # A table is no longer what it was as they were prepared.
            self._names.ours.clear()
            raise

    def _raise_for(self, results: Sequence[PGresult], cause: Exception | None = None) -> None:
        for result in results:
            if result.status in _FAILED:
                raise error_from_result(result, encoding=self._driver.info.encoding) from cause

    def _answer(self, call: Call, result: PGresult) -> Answer:
        if result.status != ExecStatus.TUPLES_OK:
            return Answer(result.command_tuples or 0, [])
        self._loader.set_pgresult(result)
        make = call.statement.named(result) if call.is_named else tuple
        rows = self._loader.load_rows(0, result.ntuples, make)
        return Answer(len(rows) if result.command_tuples is None else result.command_tuples, rows)
