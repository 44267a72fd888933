"""Delivering a message updates its row twice and no index: both updates are heap-only (HOT)."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import Engine

from scheduler.clock import SettableClock
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import ScriptedProvider
from tests.fixtures.waiting import wait_until

PEOPLE: Final = 20_000
LEAST_HOT: Final = 0.95

_COUNTS: Final = """
SELECT CAST(sum(n_tup_upd) AS bigint) AS updated, CAST(sum(n_tup_hot_upd) AS bigint) AS hot
FROM pg_stat_user_tables WHERE relname LIKE 'message\\_log\\_%'"""

_INDEXED: Final = """
SELECT DISTINCT a.attname AS name
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
JOIN pg_attribute a ON a.attrelid = i.indrelid AND (a.attnum = d.refobjsubid OR a.attnum = ANY(i.indkey))
WHERE c.relname LIKE 'message\\_log%'"""


def test_outcome_updates_are_hot(engine: Engine) -> None:
    pipeline = Pipeline(engine, SettableClock(NINE))
    pipeline.add_people(PEOPLE, timezone="Atlantic/Reykjavik")  # UTC by a name of ordinary length
    pipeline.plan(NINE - timedelta(hours=1))
    deliverer = pipeline.deliverer(ScriptedProvider())
    for _ in range(pipeline.enqueue()):
        deliverer.deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"sent": PEOPLE}
    engine.dispose()  # a session that ends hands in its counts
    wait_until(lambda: pipeline.rows(_COUNTS)[0].updated == 2 * PEOPLE, "two updates a message are counted")
    [counts] = pipeline.rows(_COUNTS)
    assert counts.hot / counts.updated >= LEAST_HOT


def test_no_index_or_predicate_of_the_log_names_what_delivery_changes(engine: Engine) -> None:
    pipeline = Pipeline(engine, SettableClock(NINE))
    pipeline.planner.create_partitions(NINE)
    indexed = {row.name for row in pipeline.rows(_INDEXED)}
    # The send time changes only where quiet hours put a message off.
    assert indexed == {"user_id", "local_date", "occasion_id", "slot", "channel", "send_at"}
