"""Statements that go past SQLAlchemy: what they raise, and what they leave behind."""

from __future__ import annotations

import pytest
from psycopg.errors import AdminShutdown, DivisionByZero
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from scheduler.store.direct import Answer, Call, Direct, answers

ONE = Direct("SELECT CAST(:number AS integer)")
BROKEN = Direct("SELECT 1 / CAST(:number AS integer)")
ADD = Direct("INSERT INTO tenants (name) VALUES (:name)")


def test_answers_of_several_statements_in_their_order(engine: Engine) -> None:
    with engine.begin() as connection:
        assert answers(connection, []) == []
        both = answers(connection, [Call(ADD, {"name": "along"}), Call(ONE, {"number": 7})])
    assert both == [Answer(1, []), Answer(1, [(7,)])]


def test_the_first_that_fails_is_what_is_raised_and_its_transaction_can_be_given_up(engine: Engine) -> None:
    calls = [Call(ADD, {"name": "undone"}), Call(BROKEN, {"number": 0}), Call(ONE, {"number": 7})]
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        answers(connection, calls)
    assert isinstance(caught.value.orig, DivisionByZero)
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM tenants WHERE name = 'undone'")).scalar_one() == 0
        )


def test_at_once_commits_by_itself_unless_a_transaction_is_under_way(engine: Engine) -> None:
    adding = Direct(f"{ADD.statement.text} RETURNING name")
    with engine.connect() as connection:
        assert adding.at_once(connection, {"name": "alone"}) == ("alone",)
        connection.rollback()
        connection.execute(text("SELECT 1"))
        assert adding.at_once(connection, {"name": "in_company"}) == ("in_company",)
        connection.rollback()
        with pytest.raises(DBAPIError):
            BROKEN.at_once(connection, {"number": 0})
        keys = connection.execute(text("SELECT name FROM tenants WHERE name IN ('alone', 'in_company')"))
        assert keys.scalars().all() == ["alone"]


def names(engine: Engine, *, like: str) -> list[str]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT name FROM tenants WHERE name LIKE :like"), {"like": like})
        return list(found.scalars())


def test_what_is_committed_along_stays_unless_one_of_them_fails(engine: Engine) -> None:
    adding = [Call(ADD, {"name": "kept"}), Call(ONE, {"number": 7}, is_named=True)]
    failing = [Call(ADD, {"name": "kept not"}), Call(BROKEN, {"number": 0})]
    with engine.connect() as connection:
        assert answers(connection, adding, commits=True)[1].rows[0].int4 == 7
        with pytest.raises(DBAPIError) as caught, connection.begin():
            answers(connection, failing, commits=True)
        assert isinstance(caught.value.orig, DivisionByZero)
        assert ONE.rows(connection, {"number": 8}) == [(8,)]
    assert names(engine, like="kept%") == ["kept"]


def test_what_the_driver_throws_away_is_prepared_anew(engine: Engine) -> None:
    prepared = text("SELECT count(*) FROM pg_prepared_statements")
    look = Direct("SELECT * FROM changing")
    with engine.connect() as connection:
        with connection.begin() as transaction:
            for number in range(10):
                connection.execute(text("SELECT CAST(:number AS integer)"), {"number": number})
            assert ONE.one_or_none(connection, {"number": 7}) == (7,)
            assert connection.execute(prepared).scalar_one() > 1
            transaction.rollback()
        with connection.begin():
            assert connection.execute(prepared).scalar_one() == 0
            assert ONE.one_or_none(connection, {"number": 8}) == (8,)
            connection.execute(text("CREATE TEMPORARY TABLE changing AS SELECT 1 AS one"))
            assert look.rows(connection, {}) == [(1,)]
            connection.exec_driver_sql("DO 'BEGIN ALTER TABLE changing ADD COLUMN two integer; END'")
        # As after a migration: it fails once.
        with pytest.raises(DBAPIError), connection.begin():
            look.rows(connection, {})
        with connection.begin():
            assert look.tuples(connection, {}) == [(1, None)]


def test_more_than_fits_into_a_socket_comes_and_goes(engine: Engine) -> None:
    echo = Direct("SELECT CAST(:long AS text)")
    several = [Call(echo, {"long": letter * 3_000_000}) for letter in "abc"]
    with engine.connect() as connection:
        assert [each.rows[0][0] for each in answers(connection, several)] == [
            each.parameters["long"] for each in several
        ]


def test_a_session_that_the_server_ends_is_given_up(engine: Engine) -> None:
    ending = Direct("SELECT pg_terminate_backend(pg_backend_pid())")
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught, connection.begin():
            answers(connection, [Call(ONE, {"number": 7}), Call(ending, {}), Call(ADD, {"name": "late"})])
        assert isinstance(caught.value.orig, AdminShutdown)
        assert caught.value.connection_invalidated
        assert ONE.rows(connection, {"number": 8}) == [(8,)]
    assert names(engine, like="late") == []
