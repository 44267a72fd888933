"""What the live page reads: the newest messages, the next ones, and counts, without ever scanning the log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import time, timedelta

import pytest
from sqlalchemy import Connection, Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.store import overview
from scheduler.store.overview import COUNTED_EXACTLY
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import AT, ScriptedProvider, failed
from tests.fixtures.statements import executed, nodes, plan_of
from worker.channels.port import Accepted, FailureKind

OTHER_TENANT = 2
HOUR = timedelta(hours=1)
EMPTY_PARTITIONS = {"message_log_2027_02", "message_log_2027_04", "message_log_2027_05"}


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, retry=RetryPolicy(max_attempts=2, base_seconds=2.0, cap_seconds=2.0))


def deliver_due(pipeline: Pipeline, provider: ScriptedProvider | None = None) -> None:
    for _ in range(pipeline.enqueue()):
        pipeline.deliverer(provider or ScriptedProvider()).deliver(pipeline.lease(), Signal())


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def test_what_was_sent_names_people_by_first_name_and_initial(
    pipeline: Pipeline, connection: Connection
) -> None:
    [user_id] = pipeline.add_due_people(
        1, first_name="Ann", last_name="Krüger", timezone="Europe/Berlin", preferred_time=time(10)
    )
    deliver_due(pipeline)
    [sent] = overview.newest_sent(connection, TENANT, most=10)
    assert sent.key == MessageKey(1, user_id, NINE.date(), 0, Channel.EMAIL)
    assert (sent.person, sent.greeting, sent.timezone) == ("Ann K.", "Happy birthday", "Europe/Berlin")
    assert (sent.accepted_at, sent.lateness, sent.attempt) == (AT, AT - NINE, 1)
    assert f"{sent.local_time:%H:%M}" == "10:00"


def test_somebody_without_a_last_name_or_deleted_since_is_shown_all_the_same(
    pipeline: Pipeline, connection: Connection
) -> None:
    [gone] = pipeline.add_people(1)
    pipeline.add_due_people(1, first=1, first_name="Sukarno", last_name="")
    deliver_due(pipeline)
    pipeline.registry.delete(TENANT, gone)
    assert {sent.person for sent in overview.newest_sent(connection, TENANT, most=10)} == {"Sukarno", None}


def test_the_newest_come_first_and_no_more_than_asked_for(
    pipeline: Pipeline, connection: Connection, clock: SettableClock
) -> None:
    pipeline.add_people(1, first_name="Early")
    pipeline.add_due_people(40, first=1, first_name="Late", preferred_time=time(9, 1))
    deliver_due(pipeline, ScriptedProvider())
    clock.advance(timedelta(minutes=1))
    deliver_due(pipeline, ScriptedProvider(answer=lambda _: Accepted(AT + timedelta(minutes=1))))
    assert [sent.person for sent in overview.newest_sent(connection, TENANT, most=3)] == ["Late L."] * 3
    everything = overview.newest_sent(connection, TENANT, most=100)
    assert [sent.person for sent in everything] == ["Late L."] * 40 + ["Early L."]


def test_what_comes_next_is_counted_by_instant_and_zone(pipeline: Pipeline, connection: Connection) -> None:
    pipeline.add_people(3)
    pipeline.add_people(2, first=3, timezone="Europe/Berlin", preferred_time=time(10))
    pipeline.add_due_people(1, first=5, preferred_time=time(9, 30))
    coming = overview.next_to_come(connection, TENANT, most=10)
    assert [(each.due_at, each.timezone, f"{each.local_time:%H:%M}", each.messages) for each in coming] == [
        (NINE, "UTC", "09:00", 3),
        (NINE, "Europe/Berlin", "10:00", 2),
        (NINE + HOUR / 2, "UTC", "09:30", 1),
    ]
    assert overview.next_to_come(connection, TENANT, most=1) == coming[:1]


def test_a_message_that_moved_on_from_its_batch_is_not_to_come(
    pipeline: Pipeline, connection: Connection
) -> None:
    [_, deleted] = pipeline.add_due_people(2)
    pipeline.registry.delete(TENANT, deleted)
    assert [each.messages for each in overview.next_to_come(connection, TENANT, most=10)] == [1]


def test_a_retry_is_to_come_and_a_dead_letter_is_counted(
    pipeline: Pipeline, connection: Connection, clock: SettableClock
) -> None:
    pipeline.add_due_people(2)
    deliver_due(pipeline, ScriptedProvider(answer=lambda _: failed()))
    assert overview.totals(connection, TENANT, now=clock.now()).retrying == 2
    assert [(each.is_retry, each.messages) for each in overview.next_to_come(connection, TENANT, most=9)] in (
        [(True, 2)],
        [(True, 1), (True, 1)],
    )
    clock.advance(timedelta(minutes=1))
    deliver_due(pipeline, ScriptedProvider(answer=lambda _: failed(FailureKind.PERMANENT)))
    totals = overview.totals(connection, TENANT, now=clock.now())
    assert (totals.retrying, totals.waiting, totals.dead_letters, totals.sent_last_hour) == (0, 0, 2, 0)


def test_totals_follow_messages_from_planned_to_sent(
    pipeline: Pipeline, connection: Connection, clock: SettableClock
) -> None:
    clock.set(NINE - HOUR / 2)
    pipeline.add_due_people(5)
    totals = overview.totals(connection, TENANT, now=clock.now())
    assert (totals.users, totals.due_next_hour, totals.waiting, totals.sent_last_hour) == (5, 5, 0, 0)
    clock.set(NINE)
    pipeline.enqueue()
    totals = overview.totals(connection, TENANT, now=clock.now())
    assert (totals.due_next_hour, totals.waiting) == (0, 5)
    pipeline.deliverer(ScriptedProvider()).deliver(pipeline.lease(), Signal())
    totals = overview.totals(connection, TENANT, now=clock.now())
    assert (totals.waiting, totals.sent_last_hour, totals.sent_last_day) == (0, 5, 5)
    totals = overview.totals(connection, TENANT, now=clock.now() + 2 * HOUR)
    assert (totals.sent_last_hour, totals.sent_last_day) == (0, 5)


def test_zones_are_those_that_users_live_in(pipeline: Pipeline, connection: Connection) -> None:
    assert overview.zones(connection, TENANT) == []
    pipeline.add_people(2)
    pipeline.add_people(2, first=2, timezone="Asia/Tokyo", preferred_time=time(7))
    assert overview.zones(connection, TENANT) == ["Asia/Tokyo", "UTC"]


def test_another_tenant_sees_nothing_of_it(pipeline: Pipeline, connection: Connection) -> None:
    pipeline.add_people(1)
    pipeline.add_due_people(1, first=1, preferred_time=time(9, 30))
    deliver_due(pipeline)
    assert overview.newest_sent(connection, OTHER_TENANT, most=10) == []
    assert overview.next_to_come(connection, OTHER_TENANT, most=10) == []
    assert overview.zones(connection, OTHER_TENANT) == []
    totals = overview.totals(connection, OTHER_TENANT, now=NINE)
    assert (totals.users, totals.due_next_hour, totals.sent_last_day) == (0, 0, 0)


def test_counting_users_ends_somewhere(pipeline: Pipeline, connection: Connection) -> None:
    pipeline.add_people(COUNTED_EXACTLY + 1)
    assert overview.totals(connection, TENANT, now=NINE).users == COUNTED_EXACTLY


# What 30,000 people were sent over a month, each in a batch of one; 5,000 of them are still to come.
_FILL = (
    """
    INSERT INTO message_log (user_id, send_at, accepted_at, batch_id, occasion_id, local_date, channel, tenant_id,
                             state, user_version, date_rule, time_rule, slot, attempt, year, timezone)
    SELECT n, :nine, :nine, n, 1, date '2027-03-01' + n / 1000, 'email', 1, 'sent', 1, 'exact', 'exact', 0, 1, 2027,
           'UTC'
    FROM generate_series(1, 30000) n""",
    """
    INSERT INTO batches (send_at, due_at, enqueued_at, finished_at, created_at, tenant_id, occasion_id, local_date,
                         channel, priority, state, lease_token, sent_count, retried_count, dead_count, expired_count,
                         cancelled_count, slot, attempt, user_ids)
    SELECT at, at, CASE WHEN n > 5000 THEN at END, CASE WHEN n > 5000 THEN at END, :nine, 1, 1,
           date '2027-03-01' + n / 1000, 'email', 'normal',
           CAST(CASE WHEN n > 5000 THEN 'done' ELSE 'pending' END AS batch_state), 1,
           CASE WHEN n > 5000 THEN 1 ELSE 0 END, 0, 0, 0, 0, 0, 0, ARRAY[CAST(n AS bigint)]
    FROM (SELECT n, CAST(:nine AS timestamptz) + (5000 - n) * interval '5 minutes' AS at
          FROM generate_series(1, 30000) n) AS spread""",
    "ANALYZE",
)


def test_no_read_scans_a_table_that_grows(pipeline: Pipeline) -> None:
    pipeline.planner.create_partitions(NINE)
    pipeline.add_people(20_000)
    for statement in _FILL:
        pipeline.execute(statement, **({"nine": NINE} if ":nine" in statement else {}))

    def read(connection: Connection) -> None:
        assert overview.newest_sent(connection, TENANT, most=60)
        overview.next_to_come(connection, TENANT, most=60)
        overview.totals(connection, TENANT, now=NINE)
        overview.zones(connection, TENANT)

    with pipeline.engine.connect() as connection:
        plans = [plan_of(connection, statement, values) for statement, values in executed(connection, read)]
    read_whole = {
        node["Relation Name"] for plan in plans for node in nodes(plan) if node["Node Type"] == "Seq Scan"
    }
    # Counting users stops after so many, in whatever order they lie.
    assert not read_whole & {"batches", "message_log_2027_03"}
    assert read_whole <= {"users", "occasions", "dead_letters", *EMPTY_PARTITIONS}
