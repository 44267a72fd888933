"""Statements on dead letters and inboxes read what they show or move, however much there is besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, text

from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel
from scheduler.store import dead_letters, inbox, messages
from scheduler.store.database import create_database_engine
from scheduler.store.dead_letters import DeadLetter, DeadLetterFilter, Place, Spread
from scheduler.store.inbox import NewEntry
from scheduler.store.partitions import Partitions
from tests.fixtures.databases import DatabaseCopies
from tests.fixtures.pipeline import NINE, TENANT
from tests.fixtures.statements import executed, nodes, plan_of

Work = Callable[[Connection], object]

ALL: Final = DeadLetterFilter()
_KEY_INDEX: Final = "dead_letters_user_id_local_date_occasion_id_slot_channel_key"
_FILL: Final = (
    """
    INSERT INTO message_log (user_id, send_at, batch_id, occasion_id, local_date, channel, tenant_id, state,
                             user_version, date_rule, time_rule, slot, attempt, year, timezone, reason)
    SELECT n, :nine, 1, CASE WHEN n % 2000 = 5 THEN 2 ELSE 1 END, date '2027-03-31' - CAST(n % 90 AS integer),
           CAST(CASE WHEN n % 5000 = 5 THEN 'sms' ELSE 'email' END AS channel), 1,
           CAST(CASE WHEN n % 5 = 0 THEN 'dead' ELSE 'expired' END AS message_state), 1, 'exact', 'exact', 0, 5,
           2027, 'UTC', 'http_503'
    FROM generate_series(1, 250000) n""",
    """
    INSERT INTO dead_letters (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt, provider,
                              category, detail, discarded_at, discard_reason)
    SELECT user_id, send_at + user_id * interval '1 second', occasion_id, local_date, channel, 1, 0, 5,
           CASE WHEN user_id % 2500 = 10 THEN 'other' ELSE 'http' END,
           CASE WHEN user_id % 500 = 0 THEN 'rare' ELSE 'http_503' END, 'x',
           CASE WHEN user_id % 3 = 0 THEN send_at END, CASE WHEN user_id % 3 = 0 THEN 'over' END
    FROM message_log WHERE state = 'dead' ORDER BY user_id""",
    """
    INSERT INTO users (id, tenant_id, external_id, first_name, last_name, timezone, locale, attributes, version,
                       created_at, updated_at)
    SELECT n, 1, 'p' || n, 'Ann', 'Lee', 'UTC', 'en', '{}', 1, :nine, :nine FROM generate_series(1, 30000) n""",
    """
    INSERT INTO inbox_messages (user_id, created_at, occasion_id, local_date, tenant_id, slot, subject, body)
    SELECT n % 1000 + 1, :nine, 1, date '2020-01-01' + CAST(n / 1000 AS integer), 1, 0, 'Hey', 'Hey'
    FROM generate_series(1, 50000) n""",
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def filled(database_copies: DatabaseCopies) -> Iterator[Engine]:
    """250,000 messages in three partitions, 50,000 dead letters of which 33,000 are open, 50,000 inbox entries."""
    with database_copies.copy() as url:
        engine = create_database_engine(url, pool_size=2, application_name="daybreak-tests")
        with engine.begin() as connection:
            Partitions().ensure(
                connection, (NINE - timedelta(days=90)).date(), (NINE + timedelta(days=30)).date()
            )
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in _FILL:
                connection.execute(text(statement), {"nine": NINE})
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


def reads(plan: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Each table with the index it is read by, or with `all of it`."""
    return {
        (node["Relation Name"], node.get("Index Name", "all of it"))
        for node in plan
        if "Scan" in node["Node Type"] and "Relation Name" in node
    }


LAST_WEEK: Final = DeadLetterFilter(
    died_from=NINE + timedelta(seconds=50_000), died_until=NINE + timedelta(seconds=150_000)
)
PAGES: Final[dict[str, tuple[DeadLetterFilter, set[str]]]] = {
    "open": (ALL, {"dead_letters_open"}),
    "of some days": (LAST_WEEK, {"dead_letters_open"}),
    "of a category": (DeadLetterFilter(category="rare"), {"dead_letters_open_by_category"}),
    "of an occasion": (DeadLetterFilter(occasion_id=2), {"dead_letters_open_by_occasion"}),
    "of a provider": (DeadLetterFilter(provider="other"), {"dead_letters_open_by_provider"}),
    "of a user": (DeadLetterFilter(user_id=500), {_KEY_INDEX}),
    "on a channel": (DeadLetterFilter(channel=Channel.SMS), {"dead_letters_open"}),
    "discarded": (DeadLetterFilter(discarded=True), {"dead_letters_discarded"}),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_follows_an_index(connection: Connection, name: str) -> None:
    wanted, indexes = PAGES[name]
    place = Place(NINE + timedelta(seconds=200_000), 40_000)
    plan = plans(connection, lambda c: dead_letters.page(c, TENANT, wanted, before=place, most=50))
    [(_, index)] = reads(plan)
    assert index in indexes
    assert {"Bitmap Heap Scan", "Seq Scan"}.isdisjoint(
        {node["Node Type"] for node in plan}
    ) or name == "of a user"


@pytest.mark.parametrize("name", PAGES)
def test_pages_and_counts_agree_with_what_there_is(connection: Connection, name: str) -> None:
    wanted, _ = PAGES[name]
    all_there_are = dead_letters.counts(connection, TENANT, wanted)
    found: list[DeadLetter] = []
    place = None
    while place is not None or not found:
        page = dead_letters.page(connection, TENANT, wanted, before=place, most=2_000)
        found += page.letters
        place = page.next
        if place is None:
            break
    assert [letter.place for letter in found] == sorted((letter.place for letter in found), reverse=True)
    assert len({letter.id for letter in found}) == len(found) == sum(all_there_are.values()) > 0
    bounded = dead_letters.bounded_counts(connection, TENANT, wanted)
    assert bounded.are_exact == (bounded.letters == all_there_are)
    assert all(0 < letters <= all_there_are[category] for category, letters in bounded.letters.items())
    assert max(bounded.letters.values()) <= dead_letters.LETTERS_EXAMINED


def test_the_newest_letter_is_known_without_looking_for_it(connection: Connection) -> None:
    assert reads(plans(connection, dead_letters.newest)) <= {("dead_letters_id_seq", "all of it")}
    assert dead_letters.newest(connection) >= 50_000


COUNTED: Final[dict[str, tuple[DeadLetterFilter, set[str]]]] = {
    "open": (ALL, {"dead_letters_open_by_category"}),
    "of some days": (LAST_WEEK, {"dead_letters_open_by_category"}),
    "on a channel": (DeadLetterFilter(channel=Channel.SMS), {"dead_letters_open_by_category"}),
    **{name: PAGES[name] for name in PAGES if name.startswith("of a ") or name == "discarded"},
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_counted_for_a_page_is_found_by_an_index(connection: Connection, name: str) -> None:
    wanted, indexes = COUNTED[name]
    plan = plans(connection, lambda c: dead_letters.bounded_counts(c, TENANT, wanted))
    assert {index for _, index in reads(plan)} <= indexes | {"dead_letters_open"}


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        (ALL, {"dead_letters_open"}),
        (DeadLetterFilter(category="rare"), {"dead_letters_open_by_category"}),
    ],
)
def test_a_chunk_is_taken_in_the_order_of_an_index(
    connection: Connection, wanted: DeadLetterFilter, indexes: set[str]
) -> None:
    plan = plans(
        connection,
        lambda c: dead_letters.take(c, TENANT, wanted, after=Place(NINE, 1), through=10**9, most=50),
    )
    [(_, index)] = reads(plan)
    assert index in indexes
    assert "Sort" not in {node["Node Type"] for node in plan}


def test_a_replay_finds_messages_by_their_keys_one_partition_after_the_other(connection: Connection) -> None:
    def replay(c: Connection) -> None:
        letters = dead_letters.take(c, TENANT, ALL, after=None, through=10**9, most=1_000)
        replayed = messages.replay(c, [letter.key for letter in letters])
        assert len(replayed) == 1_000
        assert len({key.local_date.month for key in replayed}) == 3
        dead_letters.add_batches(c, replayed, Spread(NINE, 100.0, 0, 100), max_attempts=5, now=NINE)
        dead_letters.remove(c, letters)

    found = reads(plans(connection, replay))
    partitions = {f"message_log_2027_{month:02}" for month in (1, 2, 3)}
    assert {(table, index) for table, index in found if table.startswith("message_log")} == {
        (partition, f"{partition}_pkey") for partition in partitions
    }
    assert ("dead_letters", "all of it") not in found


def test_letters_are_discarded_by_their_ids(connection: Connection) -> None:
    def discard(c: Connection) -> None:
        letters = dead_letters.take(c, TENANT, ALL, after=None, through=10**9, most=100)
        dead_letters.discard(c, letters, reason="over", now=NINE)

    assert ("dead_letters", "all of it") not in reads(plans(connection, discard))


INBOX: Final[dict[str, Work]] = {
    "page": lambda c: inbox.page(c, TENANT, 7, before=None, most=20),
    "unread": lambda c: inbox.page(c, TENANT, 7, before=None, most=20, unread_only=True),
    "count": lambda c: inbox.unread_count(c, TENANT, 7),
    "mark": lambda c: inbox.mark_read(c, TENANT, 7, 6, now=NINE),
    "remove": lambda c: inbox.remove_all(c, 7),
}


@pytest.mark.parametrize("name", INBOX)
def test_an_inbox_is_read_without_anybody_elses(connection: Connection, name: str) -> None:
    plan = plans(connection, INBOX[name])
    indexes = {node["Index Name"] for node in plan if "Index Name" in node}
    assert indexes <= {"inbox_messages_by_user", "inbox_messages_pkey"}
    assert ("inbox_messages", "all of it") not in reads(plan) or "Bitmap Heap Scan" in {
        node["Node Type"] for node in plan
    }


def test_a_batch_of_entries_finds_its_users_by_their_ids(connection: Connection) -> None:
    entries = [
        NewEntry(MessageKey(1, user_id, NINE.date(), 0, Channel.IN_APP), TENANT, "Hey", "Hey")
        for user_id in range(1, 501)
    ]

    def add(c: Connection) -> None:
        assert inbox.add(c, entries, now=NINE) == 500

    assert reads(plans(connection, add)) == {("users", "users_pkey")}
