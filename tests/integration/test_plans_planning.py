"""Planning for people with times of their own looks each of them up once, whatever PostgreSQL knows of its tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, text

from scheduler.domain.calendar import moments
from scheduler.domain.occasion import Occasion, OnceRule
from scheduler.store import bulk_planning, occasions
from scheduler.store.partitions import Partitions
from tests.fixtures.occasions import an_occasion
from tests.fixtures.statements import executed, nodes, plan_of

NOW: Final = datetime(2027, 3, 1, tzinfo=UTC)
ZONES: Final = ("Africa/Lagos", "Asia/Tokyo")
# A time for each minute of an hour, and nobody's.
TIMES: Final = [None, *(time(9, minute) for minute in range(60))]

_USERS: Final = text("""
INSERT INTO users (tenant_id, external_id, first_name, last_name, email, timezone, locale, preferred_time, attributes,
                   version, created_at, updated_at)
SELECT 1, n, 'Ann', 'Example', 'ann@example.com', (CAST(:zones AS text[]))[1 + n % 2], 'en',
       (CAST(:times AS time[]))[1 + n / 2 % 61], '{}', 1, :now, :now
FROM generate_series(1, 24000) AS n""")


@pytest.fixture
def occasion(engine: Engine) -> Occasion:
    """One that honours preferred times, with people; no table was analysed."""
    with engine.begin() as connection:
        Partitions().ensure(connection, NOW.date(), NOW.date())
        connection.execute(_USERS, {"zones": list(ZONES), "times": TIMES, "now": NOW})
        news = an_occasion(
            key="news", rule=OnceRule(date(2027, 3, 2)), local_times=(time(9),), honours_preferred_time=True
        )
        return occasions.add(connection, news, now=NOW)


def plans(connection: Connection, occasion: Occasion, times: list[time | None]) -> list[dict[str, Any]]:
    """How it is planned, first without asking for each row and then with."""

    def work(connection: Connection) -> None:
        found = moments(
            occasion, [(zone, at) for zone in ZONES for at in times], NOW, NOW + timedelta(days=3)
        )
        bulk_planning.plan_window(connection, occasion, found, now=NOW)
        connection.execute(text("DELETE FROM batches"))
        bulk_planning.plan_window(connection, occasion, found, now=NOW)

    found = []
    for statement, values in executed(connection, work):
        if "INSERT INTO message_log" in statement.text:
            found.append(plan_of(connection, statement, values))
        elif "enable_indexscan" in statement.text:
            connection.execute(statement, values)
    connection.rollback()
    return [found[0], found[-1]]


def users_read_by(plan: dict[str, Any]) -> list[tuple[str, bool]]:
    """How users are read, and whether that is by their times; nobody is compared with what is not theirs."""
    read = []
    for node in nodes(plan):
        assert "chosen_time" not in node.get("Join Filter", "")
        if node.get("Relation Name") == "users":
            below = [each.get("Index Cond", "") for each in nodes(node)]
            read.append((node["Node Type"], any("preferred_time" in each for each in below)))
    return read


def test_each_moment_looks_up_whose_time_it_is(engine: Engine, occasion: Occasion) -> None:
    with engine.connect() as connection:
        for is_analysed in (False, True):
            if is_analysed:
                connection.execute(text("ANALYZE users"))
            unasked, asked = plans(connection, occasion, TIMES)
            for plan in (unasked, asked):
                assert [by_time for _, by_time in users_read_by(plan)] == [False, True, True]
            assert {kind for kind, _ in users_read_by(unasked)} == {"Bitmap Heap Scan"}
            [everyone] = users_read_by(
                plans(connection, replace(occasion, honours_preferred_time=False), [None])[0]
            )
            assert everyone == ("Bitmap Heap Scan", False)
