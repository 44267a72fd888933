"""The hot statements take the way they were written for, on tables large enough for the planner to care.

Each is executed for real, rolled back, and explained with the values it was executed with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.batch import first_queue
from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import Channel, Priority
from scheduler.edited_users import EditedUsers
from scheduler.store import batch_queries, batches, circuits, contact_rules, failures, messages, users
from scheduler.store.batches import Counts, LeasedBatch, Queue
from scheduler.store.contact_rules import GroupLimit
from scheduler.store.database import create_database_engine
from scheduler.store.direct import answers
from scheduler.store.partitions import Partitions
from tests.fixtures.databases import DatabaseCopies
from tests.fixtures.pipeline import ENQUEUE_DEADLINE, LATENESS_LIMIT, LEASE, NINE, TENANT, Pipeline
from tests.fixtures.statements import executed, nodes, plan_of

Work = Callable[[Connection], object]

PARTITION: Final = "message_log_2027_03"
_USERS: Final = 100_000
_FILL: Final = (
    """
    INSERT INTO users (tenant_id, external_id, first_name, last_name, email, timezone, locale, preferred_time,
                       attributes, version, created_at, updated_at)
    SELECT 1, 'p' || n, 'Ann', 'Lee', 'ann' || n || '@example.org', 'Zone/' || n % 400, 'en',
           CASE WHEN n % 10 = 0 THEN make_time(n % 24, 0, 0) END, '{}', 1, :nine, :nine
    FROM generate_series(1, :users) n""",
    """
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT id, 'birthday', 1, date '1990-01-01' + CAST(id % 365 AS integer) FROM users""",
    """
    INSERT INTO message_log (user_id, send_at, accepted_at, batch_id, occasion_id, local_date, channel, tenant_id,
                             state, user_version, date_rule, time_rule, slot, attempt, year, timezone)
    SELECT n % :users + 1, :nine, :nine, n / 500, 1, date '2026-12-05' + n / 2000, 'email', 1,
           'sent', 1, 'exact', 'exact', 0, 1, 2027, 'UTC'
    FROM generate_series(1, 200000) n""",
    """
    INSERT INTO batches (send_at, due_at, enqueued_at, lease_expires_at, finished_at, leased_by, created_at, tenant_id,
                         occasion_id, local_date, channel, priority, state, lease_token, sent_count, retried_count,
                         dead_count, expired_count, cancelled_count, slot, attempt, user_ids)
    SELECT send_at, send_at, CASE WHEN state <> 'pending' THEN send_at END,
           CASE WHEN state = 'leased' THEN send_at + interval '1 minute' END,
           CASE WHEN state = 'done' THEN send_at END, CASE WHEN state = 'leased' THEN 'w' END, :nine, 1, 1,
           date '2027-03-01', 'email', 'normal', CAST(state AS batch_state),
           CASE WHEN state IN ('leased', 'done') THEN 1 ELSE 0 END, 0, 0, 0, 0, 0, 0, 0,
           ARRAY(SELECT generate_series(n, n + CASE state WHEN 'done' THEN 0 ELSE 499 END))
    FROM (SELECT n, CASE WHEN n <= 50 THEN 'enqueued' WHEN n <= 100 THEN 'leased' WHEN n <= 1000 THEN 'pending'
                    ELSE 'done' END AS state,
                 CASE WHEN n > 150 AND n <= 1000 THEN :nine + n * interval '1 minute'
                      ELSE :nine - n * interval '1 second' END AS send_at
          FROM generate_series(1, 50000) n) AS planned""",
    """
    INSERT INTO suppressions (tenant_id, channel, address, reason, source, created_at)
    SELECT 1, 'email', 'gone' || n || '@example.org', 'bounced', 'test', :nine FROM generate_series(1, 20000) n""",
    """
    INSERT INTO unsubscribes (user_id, channel, occasion_id, tenant_id, source, created_at)
    SELECT n * 5, 'email', n % 2, 1, 'test', :nine FROM generate_series(1, 20000) n""",
    """
    INSERT INTO delivery_attempts (user_id, batch_id, failed_at, occasion_id, local_date, channel, tenant_id, slot,
                                   attempt, provider, kind, category, detail)
    SELECT n, 1, :nine, 1, date '2027-03-01', 'email', 1, 0, 1, 'http', 'retryable', 'http_503', ''
    FROM generate_series(1, 20000) n""",
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def filled(database_copies: DatabaseCopies) -> Iterator[Engine]:
    """100,000 users, 200,000 messages over four months, 50,000 batches of which 1,000 are open."""
    with database_copies.copy() as url:
        engine = create_database_engine(url, pool_size=2, application_name="daybreak-tests")
        with engine.begin() as connection:
            Partitions().ensure(
                connection, (NINE - timedelta(days=90)).date(), (NINE + timedelta(days=62)).date()
            )
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in _FILL:
                connection.execute(text(statement), {"nine": NINE, "users": _USERS})
        yield engine
        engine.dispose()


@pytest.fixture
def connection(filled: Engine) -> Iterator[Connection]:
    with filled.connect() as connection:
        yield connection


def plans(connection: Connection, work: Work) -> list[dict[str, Any]]:
    """The nodes of the plans of every statement that `work` executes."""
    statements = executed(connection, work)
    assert statements
    found = [
        node for statement, values in statements for node in nodes(plan_of(connection, statement, values))
    ]
    connection.rollback()
    return found


def scanned(plan: list[dict[str, Any]]) -> dict[str, set[str]]:
    """By table: the indexes it is read by, `Seq Scan` among them where it is read as a whole."""
    found: dict[str, set[str]] = {}
    bitmaps = {node["Index Name"] for node in plan if node["Node Type"] == "Bitmap Index Scan"}
    for node in plan:
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            indexes = (
                bitmaps if node["Node Type"] == "Bitmap Heap Scan" else {node.get("Index Name", "Seq Scan")}
            )
            found.setdefault(node["Relation Name"], set()).update(indexes)
    return found


def conditions(plan: list[dict[str, Any]], index: str) -> list[str]:
    """By what an index is entered and left, for each scan of it."""
    return [node.get("Index Cond", "") for node in plan if node.get("Index Name") == index]


def kinds(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Node Type"] for node in plan}


def a_batch(connection: Connection) -> LeasedBatch:
    """An enqueued batch of 500, leased and rolled back."""
    batch = batches.lease_oldest(connection, Channel.EMAIL, worker="w", expires_at=NINE + LEASE)
    connection.rollback()
    assert batch is not None
    return batch


def test_enqueueing_reads_the_pending_batches_that_are_due(connection: Connection) -> None:
    plan = plans(connection, lambda connection: batches.enqueue_due(connection, now=NINE, most=500))
    assert scanned(plan) == {"batches": {"batches_pending", "batches_pkey"}}


def test_the_next_due_instant_is_the_first_entry_of_an_index(connection: Connection) -> None:
    plan = plans(connection, batches.next_due)
    assert scanned(plan) == {"batches": {"batches_pending"}}
    assert "Limit" in kinds(plan)


def test_the_most_urgent_batch_is_the_first_entry_of_an_index(connection: Connection) -> None:
    def lease(connection: Connection) -> object:
        return batches.lease_oldest(connection, Channel.EMAIL, worker="w", expires_at=NINE + LEASE)

    plan = plans(connection, lease)
    assert scanned(plan) == {"batches": {"batches_enqueued", "batches_pkey"}}
    assert not kinds(plan) & {"Sort", "Incremental Sort"}
    assert conditions(plan, "batches_enqueued") == ["((queue >= '0'::smallint) AND (queue <= 9))"]


def test_every_channel_and_priority_has_its_queue(connection: Connection) -> None:
    """What the database makes of them is what leases ask for."""
    for channel in Channel:
        numbers = [
            connection.execute(
                text("SELECT queue_of(CAST(:channel AS channel), CAST(:priority AS priority))"),
                {"channel": channel.value, "priority": priority.value},
            ).scalar_one()
            for priority in Priority
        ]
        assert numbers == [first_queue(channel) + place for place in range(len(Priority))]


BATCH_BY_ID: Final[dict[str, Callable[[Connection, LeasedBatch], object]]] = {
    "lease": lambda c, batch: batches.lease(c, batch.id, worker="w", expires_at=NINE),
    "count": lambda c, batch: batches.count(c, batch.id, Counts(expired=1)),
}
HELD_BATCH: Final[dict[str, Callable[[Connection, LeasedBatch], object]]] = {
    "renew": lambda c, batch: batches.renew(c, batch, expires_at=NINE),
    "fence": lambda c, batch: batches.fence(c, batch, provider="http"),
    "is_finished": batch_queries.is_finished,
    "finish": lambda c, batch: batches.finish(c, batch, Counts(sent=1), now=NINE),
    "hand_back": lambda c, batch: batches.hand_back(c, batch, Counts(), due_at=NINE),
}


@pytest.mark.parametrize("name", BATCH_BY_ID)
def test_a_batch_is_found_by_its_id(connection: Connection, name: str) -> None:
    batch = a_batch(connection)
    plan = plans(connection, lambda connection: BATCH_BY_ID[name](connection, batch))
    assert scanned(plan) == {"batches": {"batches_pkey"}}


@pytest.mark.parametrize("name", HELD_BATCH)
def test_a_leased_batch_is_found_by_its_id(connection: Connection, name: str) -> None:
    def lease_and_work(connection: Connection) -> None:
        leased = batches.lease_oldest(connection, Channel.EMAIL, worker="w", expires_at=NINE)
        assert leased is not None
        HELD_BATCH[name](connection, leased)

    [*_, (statement, values)] = executed(connection, lease_and_work)
    plan = list(nodes(plan_of(connection, statement, values)))
    assert scanned(plan) == {"batches": {"batches_pkey"}}


def test_what_was_enqueued_during_an_outage_is_found_by_its_instant(connection: Connection) -> None:
    since = NINE - timedelta(seconds=5)
    plan = plans(
        connection, lambda connection: batch_queries.enqueued_since(connection, since=since, most=10_000)
    )
    assert scanned(plan) == {"batches": {"batches_enqueue_deadline"}}


def test_what_waits_is_the_first_entry_of_an_index_for_each_channel(connection: Connection) -> None:
    def lease(connection: Connection) -> object:
        return batches.lease_waiting(
            connection, list(Channel), worker="w", expires_at=NINE + LEASE, enqueued_before=NINE
        )

    plan = plans(connection, lease)
    assert scanned(plan) == {"batches": {"batches_enqueued", "batches_pkey"}}
    [condition] = conditions(plan, "batches_enqueued")
    assert "queue >= wanted.queue" in condition
    assert "queue <= (wanted.queue + 9)" in condition


def test_what_comes_before_a_batch_is_looked_for_among_the_enqueued(connection: Connection) -> None:
    def lease(connection: Connection) -> object:
        return batches.lease_ahead(
            connection, list(Channel), worker="w", expires_at=NINE + LEASE, than=25, now=NINE
        )

    plan = plans(connection, lease)
    assert scanned(plan) == {"batches": {"batches_enqueued", "batches_pkey"}}
    # An entry of the index is read only if it comes before the one in hand.
    [condition] = conditions(plan, "batches_enqueued")
    assert "queue >= wanted.queue" in condition
    assert "ROW(queue, send_at, id) < ROW((wanted.queue + hand.place), hand.send_at, hand.id)" in condition


def _accept(connection: Connection, batch: LeasedBatch) -> object:
    return answers(connection, messages.accepting(batch, dict.fromkeys(batch.user_ids, NINE)))


def _accept_each(connection: Connection, batch: LeasedBatch) -> object:
    at = {user_id: NINE + timedelta(seconds=place) for place, user_id in enumerate(batch.user_ids)}
    return answers(connection, messages.accepting(batch, at))


MESSAGE_UPDATES: Final[dict[str, Callable[[Connection, LeasedBatch], object]]] = {
    "claim": lambda connection, batch: answers(connection, [messages.claiming(batch)]),
    "accept": _accept,
    "accept_each": _accept_each,
    "retry": lambda c, batch: messages.retry(c, batch, batch.user_ids),
    "bury": lambda c, batch: messages.bury(c, batch, batch.user_ids, category="http_503"),
    "cancel": lambda c, batch: messages.cancel(c, batch, batch.user_ids, reason=NotSentReason.NO_ADDRESS),
    "hand_back": lambda c, batch: messages.hand_back(c, batch, batch.user_ids),
    "expire": messages.expire,
    "defer": lambda c, batch: messages.defer(c, batch, batch.user_ids, until=NINE),
    "bury_left_sending": lambda c, batch: messages.bury_left_sending(c, batch, from_attempt=1),
}


@pytest.mark.parametrize("name", MESSAGE_UPDATES)
def test_messages_of_a_batch_are_found_by_their_keys_in_one_partition(
    connection: Connection, name: str
) -> None:
    batch = a_batch(connection)
    assert len(batch.user_ids) == 500
    plan = plans(connection, lambda connection: MESSAGE_UPDATES[name](connection, batch))
    read = scanned(plan)
    # Whoever says what was accepted looks whether the batch is closed as well.
    assert read.pop("batches", {"batches_pkey"}) == {"batches_pkey"}
    assert read == {PARTITION: {f"{PARTITION}_pkey"}}


def test_retries_that_may_have_been_accepted_are_found_by_their_keys(connection: Connection) -> None:
    batch = a_batch(connection)
    plan = plans(connection, lambda connection: messages.bury_maybe_accepted(connection, batch))
    assert scanned(plan) == {
        PARTITION: {f"{PARTITION}_pkey"},
        "delivery_attempts": {"delivery_attempts_by_message"},
    }


def test_the_provider_that_may_have_a_message_is_found_by_its_key(connection: Connection) -> None:
    batch = a_batch(connection)
    plan = plans(
        connection, lambda connection: failures.last_unknown(connection, batch, list(batch.user_ids))
    )
    assert scanned(plan) == {"delivery_attempts": {"delivery_attempts_by_message"}}


def test_channels_without_provider_are_looked_up_in_the_queue(connection: Connection) -> None:
    plan = plans(
        connection,
        lambda connection: circuits.waiting_channels(
            connection, [Channel.SMS, Channel.PUSH], enqueued_before=NINE
        ),
    )
    assert scanned(plan)["batches"] <= {"batches_enqueued", "batches_enqueue_deadline"}


def test_who_must_not_be_written_to_is_looked_up_by_key(connection: Connection) -> None:
    batch = a_batch(connection)
    addresses = {user_id: f"ann{user_id}@example.org" for user_id in batch.user_ids}
    plan = plans(connection, lambda connection: contact_rules.barred(connection, batch, addresses))
    assert scanned(plan) == {"suppressions": {"suppressions_pkey"}, "unsubscribes": {"unsubscribes_pkey"}}


def test_a_cap_reads_its_users_messages_of_the_days_that_count(connection: Connection) -> None:
    batch = a_batch(connection)
    limit = GroupLimit(3, timedelta(days=7), (1, 2, 3), LATENESS_LIMIT)
    plan = plans(
        connection,
        lambda connection: contact_rules.capped(connection, batch, batch.user_ids, limit, now=NINE),
    )
    assert scanned(plan) == {
        table: {f"{table}_pkey"} for table in ("message_log_2027_02", "message_log_2027_03")
    }


def test_recipients_are_found_by_their_ids(connection: Connection) -> None:
    plan = plans(connection, lambda connection: users.recipients(connection, range(1, 501)))
    assert scanned(plan) == {"users": {"users_pkey"}}


def test_their_dates_are_found_by_their_ids(connection: Connection) -> None:
    plan = plans(
        connection, lambda connection: users.recipients(connection, range(1, 501), with_details=True)
    )
    assert scanned(plan) == {"users": {"users_pkey"}, "user_dates": {"user_dates_pkey"}}


def test_one_user_is_replanned_without_reading_anybody_elses_rows(
    filled: Engine, connection: Connection
) -> None:
    pipeline = Pipeline(filled, SettableClock(NINE))
    plan = plans(
        connection,
        lambda connection: pipeline.planner.replan_edited(
            connection, TENANT, EditedUsers([7], ZONES), now=NINE
        ),
    )
    read = scanned(plan)
    assert read["users"] == {"users_pkey"}
    assert read["user_dates"] <= {"user_dates_pkey", "user_dates_by_day"}
    assert read[PARTITION] == {f"{PARTITION}_pkey"}
    # The partitions from April on are empty, and read as a whole at no cost.
    filled_ones = {table for table in read if "message_log_2026_12" <= table <= PARTITION}
    assert {table: read[table] for table in filled_ones} == {
        table: {f"{table}_pkey"} for table in filled_ones
    }


ZONES: Final = [("Europe/Berlin", None), ("America/New_York", None)]


def test_zones_are_counted_by_skipping_through_an_index(connection: Connection) -> None:
    plan = plans(connection, lambda connection: users.zone_times(connection, TENANT))
    assert scanned(plan)["users"] == {"users_by_zone"}
    assert not kinds(plan) & {"Sort", "Incremental Sort", "HashAggregate"}
    # What an index finds and a filter then refuses would be read again for each time of day. The policy that keeps
    # tenants apart refuses nothing here.
    filters = [node.get("Filter", "") for node in plan if node["Node Type"] == "Index Only Scan"]
    assert not [each for each in filters if "timezone" in each or "preferred_time" in each]
    loose = users.zone_times(connection, TENANT)
    assert len(loose) == len(set(loose))
    plain = connection.execute(text("SELECT DISTINCT timezone, preferred_time FROM users"))
    assert set(loose) == {(row.timezone, row.preferred_time) for row in plain}


def test_lapsed_leases_are_found_by_their_deadline(connection: Connection) -> None:
    plan = plans(connection, lambda connection: batches.lapse_leases(connection, now=NINE))
    assert scanned(plan) == {"batches": {"batches_lease_deadline", "batches_pkey"}}


def test_forgotten_batches_are_found_by_their_deadline(connection: Connection) -> None:
    plan = plans(
        connection,
        lambda connection: batches.lapse_enqueued(
            connection, Queue(Channel.EMAIL, Priority.NORMAL), now=NINE, deadline=ENQUEUE_DEADLINE
        ),
    )
    assert scanned(plan)["batches"] <= {"batches_enqueue_deadline", "batches_enqueued", "batches_pkey"}


def test_overdue_batches_are_looked_for_among_the_waiting_ones(connection: Connection) -> None:
    plan = plans(
        connection,
        lambda connection: batches.expire_overdue(
            connection, now=NINE, lateness_limit=LATENESS_LIMIT, most=200
        ),
    )
    assert "Seq Scan" not in scanned(plan)["batches"]
    assert {"batches_pending", "batches_pkey"} < scanned(plan)["batches"]
