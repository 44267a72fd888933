"""Migrations from nothing, statements that fit the schema, and partitions wherever a plan needs one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
from sqlalchemy import Connection, Engine, TextClause, text

from deploy.embedded import EmbeddedServer
from scheduler.clock import SettableClock
from scheduler.domain.user import UserPatch
from scheduler.store.database import create_database_engine
from scheduler.store.migrate import status, upgrade
from scheduler.store.partitions import Partitions
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.statements import prepare, stored_statements
from tests.fixtures.waiting import wait_until_blocked

# What the SQL around a parameter does not tell; the driver sends these types.
TYPES: Final = {
    "now": "timestamptz",
    "starts": "timestamptz",
    "ends": "timestamptz",
    "never": "timestamptz",
    "year_first": "date",
    "year_last": "date",
    "date_first": "date",
    "date_last": "date",
    "lateness_limit": "interval",
    "batch_size": "integer",
    "after": "bigint",
    "most": "bigint",
    "class": "integer",
    "object": "integer",
    "job": "text",
}
ROOT: Final = Path(__file__).resolve().parents[2]
STATEMENTS: Final = dict(stored_statements())


@pytest.fixture
def empty(database_server: EmbeddedServer) -> Iterator[Engine]:
    """A database without a schema."""
    engine = create_database_engine(
        database_server.create_database("test_empty"), pool_size=5, application_name="daybreak-tests"
    )
    yield engine
    engine.dispose()
    database_server.drop_database("test_empty")


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def test_an_empty_database_is_migrated_and_a_second_time_does_no_harm(empty: Engine) -> None:
    before = status(empty)
    assert (before.current, before.up_to_date) == (None, False)
    assert upgrade(empty).up_to_date
    run(empty, "INSERT INTO tenants (name) VALUES ('kept')")
    assert upgrade(empty) == status(empty)
    with empty.connect() as connection:
        assert connection.execute(text("SELECT name FROM tenants ORDER BY id")).scalars().all() == [
            "default",
            "kept",
        ]
        assert connection.execute(text("SELECT key FROM occasions ORDER BY id")).scalars().all() == [
            "birthday",
            "anniversary",
        ]


MIGRATOR: Final = """
import sys
from scheduler.store.database import create_database_engine
from scheduler.store.migrate import upgrade
engine = create_database_engine(sys.stdin.read(), pool_size=1, application_name="daybreak-tests")
sys.exit(not upgrade(engine).up_to_date)
"""


def test_migrators_at_once_take_turns(empty: Engine) -> None:
    """Processes, as two deploys are: Alembic is not made for two threads."""
    migrators = [
        subprocess.Popen([sys.executable, "-c", MIGRATOR], cwd=ROOT, stdin=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with ThreadPoolExecutor(2) as threads:
        url = empty.url.render_as_string(hide_password=False)
        list(threads.map(lambda migrator: migrator.communicate(url, timeout=60), migrators))
    assert [migrator.returncode for migrator in migrators] == [0, 0]
    with empty.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1


def test_a_failed_migration_leaves_nothing_behind(empty: Engine) -> None:
    run(empty, "CREATE TABLE job_runs ()")
    with pytest.raises(Exception, match="job_runs"):
        upgrade(empty)
    assert status(empty).current is None
    with empty.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('users')")).scalar_one() is None


def test_a_migrator_waits_for_another(empty: Engine) -> None:
    with ThreadPoolExecutor(1) as threads, empty.begin() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(20260101, 1)"))
        second = threads.submit(upgrade, empty)
        wait_until_blocked(empty, second)
        holder.rollback()
        assert second.result(timeout=30).up_to_date


def test_a_migration_does_not_wait_long_for_a_table(empty: Engine) -> None:
    upgrade(empty)
    with empty.begin() as holder:
        holder.execute(text("LOCK TABLE alembic_version"))
        with pytest.raises(Exception, match="lock timeout"):
            upgrade(empty)


def test_the_status_of_an_older_database_names_both_revisions(engine: Engine) -> None:
    newest = status(engine).newest
    run(engine, "UPDATE alembic_version SET version_num = '0000'")
    older = status(engine)
    assert (older.current, older.newest, older.up_to_date) == ("0000", newest, False)


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_fits_the_schema(name: str, shared: Connection) -> None:
    prepare(shared, STATEMENTS[name], TYPES)


@pytest.fixture(scope="module")
def shared(database_server: EmbeddedServer) -> Iterator[Connection]:
    """A connection to one migrated database for all statements; nothing is executed on it."""
    url = database_server.create_database("test_statements")
    engine = create_database_engine(url, pool_size=1, application_name="daybreak-tests")
    upgrade(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection
    engine.dispose()
    database_server.drop_database("test_statements")


def test_a_statement_with_an_unknown_column_is_found(shared: Connection) -> None:
    with pytest.raises(Exception, match="no_such_column"):
        prepare(shared, TextClause("SELECT no_such_column FROM users WHERE id = :id"), TYPES)


def partition_names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT relname FROM pg_class JOIN pg_inherits ON oid = inhrelid"
                " WHERE inhparent = 'message_log'::regclass AND relkind = 'r' ORDER BY relname"
            )
        )
        return list(found.scalars())


def test_partitions_cover_every_month_asked_for(engine: Engine) -> None:
    partitions = Partitions()
    with engine.begin() as connection:
        assert partitions.ensure(connection, date(2026, 12, 31), date(2027, 3, 1)) == 4
    with engine.begin() as connection:
        assert partitions.ensure(connection, date(2027, 1, 1), date(2027, 2, 28)) == 0
        assert Partitions().ensure(connection, date(2027, 2, 1), date(2027, 4, 1)) == 1
    assert partition_names(engine) == [f"message_log_{month}" for month in MONTHS]


MONTHS: Final = ["2026_12", "2027_01", "2027_02", "2027_03", "2027_04"]


def test_a_partition_leaves_room_for_updates_and_has_the_key(engine: Engine) -> None:
    with engine.begin() as connection:
        Partitions().ensure(connection, NINE.date(), NINE.date())
        [options] = connection.execute(
            text("SELECT reloptions FROM pg_class WHERE relname = 'message_log_2027_03'")
        ).scalars()
        indexes = connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE tablename = 'message_log_2027_03' ORDER BY indexname")
        ).scalars()
        assert options == ["fillfactor=44"]
        key, send_times = indexes
        assert "UNIQUE INDEX" in key
        assert "(user_id, local_date, occasion_id, slot, channel)" in key
        assert "USING brin (send_at)" in send_times


def test_partitions_made_at_once_are_made_once(engine: Engine) -> None:
    """Several planners in one process share what is known; those of other processes do not."""
    start, common = Barrier(8), Partitions()

    def make(number: int) -> int:
        partitions = common if number % 2 else Partitions()
        start.wait(timeout=30)
        with engine.begin() as connection:
            return partitions.ensure(connection, date(2027, 1, 1), date(2027, 12, 31))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(make, range(8))) == 12


def test_a_partition_that_was_rolled_back_is_made_again(engine: Engine) -> None:
    partitions = Partitions()
    with engine.connect() as connection:
        assert partitions.ensure(connection, NINE.date(), NINE.date()) == 1
        assert partitions.ensure(connection, NINE.date(), NINE.date()) == 0
        connection.rollback()
        assert partitions.ensure(connection, NINE.date(), NINE.date()) == 1


@pytest.mark.parametrize("year", [1971, 2027, 2399])
def test_planning_never_fails_for_lack_of_a_partition(engine: Engine, year: int) -> None:
    """No job has run before: the plan itself makes what it writes to."""
    pipeline = Pipeline(engine, SettableClock(datetime(year, 12, 31, 12, tzinfo=UTC)))
    pipeline.add_people(3, dates={"birthday": date(1960, 1, 1)})
    now = pipeline.clock.now()
    assert pipeline.plan(now) == 3
    assert pipeline.planner.create_partitions(now) > 0


def test_replanning_makes_the_partitions_it_writes_to(engine: Engine) -> None:
    clock = SettableClock(datetime(2027, 12, 31, 23, 30, tzinfo=UTC))
    pipeline = Pipeline(engine, clock)
    [user_id] = pipeline.add_people(1, dates={"birthday": date(1960, 1, 1)})
    moved = pipeline.registry.patch(TENANT, user_id, UserPatch(timezone="Pacific/Kiritimati"))
    assert moved.replanned.planned == 1


def test_a_year_of_downtime_is_planned_through(engine: Engine) -> None:
    clock = SettableClock(NINE)
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(2)
    clock.advance(timedelta(days=370))
    pipeline.plan(clock.now())
    assert pipeline.states() == {"scheduled": 4}
