"""Statements that go past SQLAlchemy: what they raise, and what they leave behind."""

from __future__ import annotations

import pytest
from psycopg.errors import DivisionByZero
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
