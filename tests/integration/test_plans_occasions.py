"""What an occasion that pauses holds is found by its own index, and costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

import pytest
from sqlalchemy import Connection, Engine, text

from scheduler.domain.occasion import Priority
from scheduler.store import backlogs, batch_holds, batches, occasions
from scheduler.store.database import create_database_engine
from scheduler.store.partitions import Partitions
from tests.fixtures.databases import DatabaseCopies
from tests.fixtures.pipeline import NINE
from tests.fixtures.statements import executed, nodes, plan_of

_FILL: Final = (
    # 15,000 held batches that were due, 500 that wait, 30,000 that are done.
    """
    INSERT INTO batches (send_at, due_at, finished_at, created_at, tenant_id, occasion_id, local_date, channel,
                         priority, state, lease_token, sent_count, retried_count, dead_count, expired_count,
                         cancelled_count, slot, attempt, user_ids, held)
    SELECT at, at, CASE WHEN n > 15500 THEN at END, :nine, 1, n % 2 + 1, date '2027-03-01', 'email', 'normal',
           CAST(CASE WHEN n > 15500 THEN 'done' ELSE 'pending' END AS batch_state), 0, 0, 0, 0, 0, 0, 0, 0,
           ARRAY[n, n + 1], n <= 15000
    FROM (
        SELECT n, CAST(:nine AS timestamptz) - n * interval '1 second' AS at FROM generate_series(1, 45500) n
    ) AS b""",
    """
    INSERT INTO message_log (user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version,
                             date_rule, time_rule, slot, attempt, timezone)
    SELECT n, :nine, 1, date '2027-03-01', 'email', 1, 'scheduled', 1, 'exact', 'exact', 0, 0, 'UTC'
    FROM generate_series(1, 100000) n""",
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def filled(database_copies: DatabaseCopies) -> Iterator[Engine]:
    with database_copies.copy() as url:
        engine = create_database_engine(url, pool_size=2, application_name="daybreak-tests")
        with engine.begin() as connection:
            Partitions().ensure(connection, NINE.date(), NINE.date())
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in _FILL:
                connection.execute(text(statement), {"nine": NINE})
        yield engine
        engine.dispose()


@pytest.fixture
def connection(filled: Engine) -> Iterator[Connection]:
    with filled.connect() as connection:
        yield connection


def batch_indexes(connection: Connection, work: Callable[[Connection], object]) -> set[str]:
    """How the batches are read, by the names of indexes; a scan of all of them by its own name."""
    found = set()
    for statement, values in executed(connection, work):
        for node in nodes(plan_of(connection, statement, values)):
            if node.get("Relation Name") == "batches" and node["Node Type"] != "ModifyTable":
                found.add(node.get("Index Name", node["Node Type"]))
            elif node["Node Type"] == "Bitmap Index Scan":
                found.add(node["Index Name"])
    return found - {"Bitmap Heap Scan"}


def test_held_batches_are_out_of_the_way_of_what_is_due(connection: Connection) -> None:
    assert batch_indexes(connection, lambda c: batches.enqueue_due(c, now=NINE, most=500)) == {
        "batches_pending",
        "batches_pkey",
    }
    assert batch_indexes(connection, batches.next_due) == {"batches_pending"}
    [statement] = [each for each, _ in executed(connection, batches.next_due)]
    explained = connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}")).scalar_one()
    assert '"Rows Removed by Filter"' not in str(explained)


@pytest.mark.parametrize(
    "work",
    [
        lambda c: batch_holds.held_due(c, 1, now=NINE, most=50),
        lambda c: batch_holds.release_one(c, 1),
        lambda c: batch_holds.release(c, 3),
        lambda c: batch_holds.reprioritise(c, 3, Priority.BULK),
        lambda c: backlogs.backlog(c, 3, now=NINE, lateness_limit=timedelta(hours=25)),
        lambda c: occasions.has_planned(c, 3),
        lambda c: batch_holds.hold(c, 3),
    ],
    ids=["held_due", "release_one", "release", "reprioritise", "backlog", "has_planned", "hold"],
)
def test_no_question_about_one_occasion_reads_all_batches(
    connection: Connection, work: Callable[[Connection], object]
) -> None:
    assert "Seq Scan" not in batch_indexes(connection, work)
