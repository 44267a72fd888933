"""Lists of users and the statements of an erasure read a bounded part of a large table, whatever is asked for."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any, Final

import pytest
from psycopg import ClientCursor
from sqlalchemy import Connection, Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import UserInput
from scheduler.store import (
    bulk_users,
    erasure,
    new_users,
    personal_data,
    planning,
    user_queries,
    user_writes,
    users,
)
from scheduler.store.arrays import Bigints
from scheduler.store.database import create_database_engine
from scheduler.store.direct import Direct
from scheduler.store.partitions import Partitions
from scheduler.store.user_queries import ROWS_EXAMINED, UserFilter
from scheduler.store.user_writes import NewUser
from tests.fixtures.databases import DatabaseCopies
from tests.fixtures.pipeline import NINE, TENANT, Pipeline, person
from tests.fixtures.statements import executed, nodes, plan_of

Work = Callable[[Connection], object]

# Tenant 2 is small, and its users came last: they lie behind everybody else's.
_FILL: Final = (
    "INSERT INTO tenants (name) VALUES ('small')",
    """
    INSERT INTO users (tenant_id, external_id, first_name, last_name, email, timezone, locale, attributes, version,
                       created_at, updated_at)
    SELECT 1, 'p' || n, 'Ann', 'Lee', 'ann' || n || '@example.org',
           CASE WHEN n % 2 = 0 THEN 'Europe/London' ELSE 'Zone/' || n % 400 END, 'en',
           CASE WHEN n % 5000 = 0 THEN '{"plan": "gold"}' ELSE '{}' END::jsonb, 1, :nine,
           CASE WHEN n % 10000 = 0 THEN :nine ELSE :nine - interval '1 day' END
    FROM generate_series(1, 100000) n""",
    """
    INSERT INTO users (tenant_id, external_id, first_name, last_name, timezone, locale, attributes, version,
                       created_at, updated_at)
    SELECT 2, 'p' || n, 'Ann', 'Lee', 'Europe/London', 'en', '{}', 1, :nine, :nine FROM generate_series(1, 300) n""",
    """
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT id, 'birthday', tenant_id, date '1990-01-01' + CAST(id % 365 AS integer) FROM users""",
    """
    INSERT INTO message_log (user_id, send_at, accepted_at, batch_id, occasion_id, local_date, channel, tenant_id,
                             state, user_version, date_rule, time_rule, slot, attempt, year, timezone)
    SELECT n, :nine, :nine, 1, 1, date '2026-12-20' + n % 80, 'email', 1, 'sent', 1, 'exact', 'exact', 0, 1, 2027,
           'UTC'
    FROM generate_series(1, 50000) n""",
    """
    INSERT INTO delivery_attempts (user_id, batch_id, failed_at, occasion_id, local_date, channel, tenant_id, slot,
                                   attempt, provider, kind, category, detail)
    SELECT n, 1, :nine, 1, date '2027-03-01', 'email', 1, 0, 1, 'http', 'retryable', 'http_503', 'x'
    FROM generate_series(1, 20000) n""",
    """
    INSERT INTO dead_letters (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt, category,
                              detail)
    SELECT n, :nine, 1, date '2027-03-01', 'email', 1, 0, 1, 'http_503', 'x' FROM generate_series(1, 20000) n""",
    """
    INSERT INTO delivery_events (user_id, occurred_at, received_at, occasion_id, local_date, channel, tenant_id, slot,
                                 provider, event_id, kind, detail)
    SELECT n, :nine, :nine, 1, date '2027-03-01', 'email', 1, 0, 'http', n, 'bounced', 'x'
    FROM generate_series(1, 20000) n""",
    """
    INSERT INTO inbox_messages (user_id, created_at, occasion_id, local_date, tenant_id, slot, subject, body)
    SELECT n, :nine, 1, date '2027-03-01', 1, 0, 's', 'b' FROM generate_series(1, 20000) n""",
    """
    INSERT INTO deleted_users (tenant_id, external_id, user_id, version, deleted_at)
    SELECT 1, 'gone' || n, 1000000 + n, 1, :nine FROM generate_series(1, 20000) n""",
    """
    INSERT INTO erased_users (tenant_id, external_id_hash, erased_at)
    SELECT 1, sha256(CAST('gone' || n AS bytea)), :nine FROM generate_series(1, 20000) n""",
    """
    INSERT INTO audit_log (at, tenant_id, actor, action, kind, subject, after)
    SELECT :nine, 1, 'key:1', 'create', 'user', n, '{"first_name": "Ann"}' FROM generate_series(1, 50000) n""",
    "VACUUM ANALYZE",
)


_GROWN: Final = (
    """
    INSERT INTO users (tenant_id, external_id, first_name, last_name, timezone, locale, attributes, version,
                       created_at, updated_at)
    SELECT 1, 'p' || n, 'Ann', 'Lee', 'UTC', 'en', '{}', 1, :nine, :nine FROM generate_series(1, 4000) n""",
    """
    INSERT INTO deleted_users (tenant_id, external_id, user_id, version, deleted_at)
    SELECT 1, 'gone' || n, 1000000 + n, 1, :nine FROM generate_series(1, 4000) n""",
)


@pytest.fixture(scope="module")
def filled(database_copies: DatabaseCopies) -> Iterator[Engine]:
    """100,000 users of one tenant, 300 of another, and what else is kept of them."""
    with database_copies.copy() as url:
        engine = create_database_engine(url, pool_size=2, application_name="daybreak-tests")
        with engine.begin() as connection:
            Partitions().ensure(connection, (NINE - timedelta(days=60)).date(), NINE.date())
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
    found = [
        node
        for statement, values in executed(connection, work)
        for node in nodes(plan_of(connection, statement, values))
    ]
    connection.rollback()
    return found


def read_whole(plan: list[dict[str, Any]]) -> set[str]:
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}


LISTS: Final = {
    "everybody": UserFilter(),
    "a zone that few live in": UserFilter(timezone="Zone/1"),
    "a zone that many live in": UserFilter(timezone="Europe/London"),
    "a day": UserFilter(date_name="birthday", month_day=302),
    "a date": UserFilter(date_name="birthday", on=date(1990, 3, 2)),
    "a date of any day": UserFilter(date_name="birthday"),
    "attributes": UserFilter(attributes={"plan": "gold"}),
    "changes": UserFilter(updated_since=NINE),
    "all of it": UserFilter(None, "Europe/London", "birthday", 302, None, {"plan": "gold"}, NINE),
    "an external id": UserFilter(external_id="p77"),
}


@pytest.mark.parametrize("tenant_id", [1, 2])
@pytest.mark.parametrize("name", LISTS)
def test_a_page_reads_a_bounded_part_of_the_table(connection: Connection, name: str, tenant_id: int) -> None:
    wanted = LISTS[name]
    plan = plans(
        connection, lambda connection: user_queries.page(connection, tenant_id, wanted, after=0, most=50)
    )
    assert not read_whole(plan) & {"users", "user_dates"}
    # Put in order by the index: a sort would take in all of a tenant's users first.
    sorts = [node for node in plan if "Sort" in node["Node Type"]]
    assert all(node["Plan Rows"] <= ROWS_EXAMINED + 1 for node in sorts)


@pytest.mark.parametrize("name", LISTS)
def test_pages_hold_all_who_match_once(connection: Connection, name: str) -> None:
    wanted = LISTS[name]
    conditions = [user_queries._CONDITIONS[each] for each in wanted.names]
    statement = text(" AND ".join(["SELECT id FROM users u WHERE u.tenant_id = :tenant_id", *conditions]))
    plain = connection.execute(statement, wanted.parameters | {"tenant_id": TENANT}).scalars().all()
    # Where nearly all match, the last pages stand for all.
    expected = sorted(plain)[-25_000:]
    after = 0 if len(expected) == len(plain) else expected[0] - 1
    found: list[int] = []
    pages = 0
    while True:
        page = user_queries.page(connection, TENANT, wanted, after=after, most=20_000)
        found += [user.id for user in page.users]
        pages += 1
        if page.next is None:
            break
        after = page.next
    assert found == expected
    assert pages <= 100_000 / ROWS_EXAMINED + 1


def test_the_names_of_dates_are_found_by_skipping_through_an_index(connection: Connection) -> None:
    plan = plans(connection, lambda connection: user_queries.date_names(connection, TENANT))
    assert {node.get("Index Name") for node in plan} - {None} == {"user_dates_by_day"}
    assert user_queries.date_names(connection, TENANT) == ["birthday"]


def test_all_of_a_person_is_found_by_their_id(connection: Connection) -> None:
    plan = plans(connection, lambda connection: personal_data.of_user(connection, TENANT, 77))
    # Of batches there are a few here, which are read by their ids where there are many.
    assert read_whole(plan) <= {"occasions", "unsubscribes", "batches"}


def test_an_erasure_finds_all_of_a_person_by_their_id(connection: Connection) -> None:
    def erase(connection: Connection) -> None:
        erasure.begin(connection)
        users.delete(connection, TENANT, 77, now=NINE)
        erasure.forget_deleted(connection, TENANT, 77)
        erasure.entries_about(connection, TENANT, 77)
        erasure.scrub(connection, TENANT, 77, now=NINE)

    assert read_whole(plans(connection, erase)) <= {"occasions", "unsubscribes"}


def test_whether_somebody_was_erased_is_looked_up(connection: Connection) -> None:
    tombstones = [bytes([number % 256]) * 32 for number in range(2_000)]
    for work in (
        lambda connection: erasure.among(connection, TENANT, tombstones),
        lambda connection: erasure.anybody(connection, TENANT),
        lambda connection: users.is_erased(connection, TENANT, tombstones[0]),
        lambda connection: users.is_erased(connection, TENANT, None),
    ):
        plan = plans(connection, work)
        costs = [node["Total Cost"] for node in plan if node.get("Relation Name") == "erased_users"]
        assert costs


def test_an_import_looks_for_its_users_only(connection: Connection) -> None:
    people = [UserInput(external_id=f"p{n}", first_name="Ann", timezone="UTC") for n in range(2_000)]

    def write(connection: Connection) -> None:
        known = bulk_users.stage(connection, TENANT, people)
        bulk_users.write_staged(connection, TENANT, len(people), known, (), now=NINE)

    seen = executed(connection, write)
    bulk_users.stage(connection, TENANT, people)
    plan = [node for statement, values in seen for node in nodes(plan_of(connection, statement, values))]
    connection.rollback()
    assert not read_whole(plan) & {"users", "user_dates", "deleted_users"}


def test_an_import_of_new_users_looks_for_them_only(connection: Connection) -> None:
    count = 2_000
    texts = {name: "\x01".join(["UTC"] * count) for name in new_users._TEXTS}
    values = texts | {
        "tenant_id": TENANT,
        "external_id": "\x01".join(f"new{n}" for n in range(count)),
        "count": count,
        "ids": Bigints(range(10_000_000, 10_000_000 + count)),
        "now": NINE,
    }
    for statement in (new_users.IDS.statement, new_users.ADD.statement):
        plan = list(nodes(plan_of(connection, statement, values)))
        assert "deleted_users" in {node.get("Relation Name") for node in plan}
        assert not read_whole(plan) & {"users", "user_dates", "deleted_users"}


def test_a_group_of_writes_looks_for_its_users_only(connection: Connection) -> None:
    ids = Bigints(range(70, 80))
    tenant = {"tenant_id": TENANT}
    people = [
        UserInput(external_id=f"p{n}", first_name="Ann", timezone="UTC", dates={"birthday": NINE.date()})
        for n in ids
    ]
    new = user_writes._new_as_json([NewUser(each, SYSTEM, bytes(32)) for each in people])
    changed = user_writes._changed_as_json(dict(zip(ids, people, strict=True)))
    names = [each.external_id for each in people]
    plan = [
        node
        for statement, values in (
            (user_writes._LOCK, {"user_ids": ids}),
            (user_writes._LOCK_EXTERNAL, {"external_ids": names}),
            (user_writes._READ, {"user_ids": ids}),
            (user_writes._READ_EXTERNAL, {"external_ids": names}),
            (user_writes._CREATE, {"users": new, "external_ids": names, "now": NINE}),
            (user_writes._CHANGE, {"users": changed, "user_ids": ids, "now": NINE}),
            (users.DELETE, {"user_ids": ids, "now": NINE}),
            (
                planning._LOCK_SCHEDULED,
                {"user_ids": ids, "date_first": NINE.date(), "occasion_ids": None},
            ),
        )
        for node in nodes(plan_of(connection, statement, tenant | values))
    ]
    assert {"users", "user_dates", "message_log_2027_03"} <= {node.get("Relation Name") for node in plan}
    assert read_whole(plan) <= {"erased_users"}  # asked whether it holds any row of the tenant


def test_plans_that_were_made_while_there_was_nobody_look_for_a_groups_users_only(engine: Engine) -> None:
    """A session keeps them until the first ANALYZE, a minute later: by then there may be ten thousands of users."""
    people = [UserInput(external_id=f"p{n}", first_name="Ann", timezone="UTC") for n in range(1, 9)]
    values = {
        "tenant_id": TENANT,
        "now": NINE,
        "user_ids": list(range(1, 9)),
        "external_ids": [each.external_id for each in people],
        "users": user_writes._new_as_json([NewUser(each, SYSTEM, bytes(32)) for each in people]),
    }
    called = {
        f"planned_{number}": Direct(statement)
        for number, statement in enumerate(
            (
                user_writes._LOCK,
                user_writes._LOCK_EXTERNAL,
                user_writes._READ,
                user_writes._READ_EXTERNAL,
                user_writes._CREATE,
                user_writes._CHANGE,
                users.DELETE,
            )
        )
    }
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        cursor = ClientCursor(driver)
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        explained = {}
        for name, direct in called.items():
            cursor.execute(f"PREPARE {name} AS ".encode() + direct.text)
            parameters = ", ".join(["%s"] * len(direct.parameters))
            explained[name] = (
                f"{name} ({parameters})".encode(),
                [values[each] for each in direct.parameters],
            )
            cursor.execute(b"EXPLAIN EXECUTE " + explained[name][0], explained[name][1])
        for statement in _GROWN:
            connection.execute(text(statement), {"nine": NINE})
        for call, given in explained.values():
            cursor.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE " + call, given)
            [[[root]]] = cursor.fetchall()
            read = [
                node
                for node in nodes(root["Plan"])
                if node.get("Relation Name") in ("users", "deleted_users")
            ]
            assert read
            assert not read_whole(read)
            assert all(node.get("Rows Removed by Filter", 0) + node["Actual Rows"] <= 8 for node in read)


def test_an_import_that_runs_ahead_of_the_statistics_looks_for_its_users_only(
    engine: Engine, clock: SettableClock
) -> None:
    """Nothing has been analyzed: an import of a million people takes a minute, and autovacuum sleeps as long."""
    Pipeline(engine, clock).add_people(4_000)
    people = [person(number) for number in range(3_980, 4_480)]

    def write(connection: Connection) -> None:
        known = bulk_users.stage(connection, TENANT, people)
        done = bulk_users.write_staged(connection, TENANT, len(people), known, (), now=NINE)
        assert (len(done.created_ids), len(done.updated_ids), done.unchanged) == (480, 0, 20)

    with engine.connect() as connection:
        seen = executed(connection, write)
        connection.rollback()
        bulk_users.stage(connection, TENANT, people)
        plan = [node for statement, values in seen for node in nodes(plan_of(connection, statement, values))]
        connection.rollback()
    conditions = [str(node.get("Index Cond")) for node in plan if node.get("Relation Name") == "users"]
    found_by_key = [each for each in conditions if "external_id = ANY" in each or "(id = " in each]
    written = [node for node in plan if node["Node Type"] == "ModifyTable"]
    assert written
    assert len(found_by_key) >= 2
    assert all(each in found_by_key or each == "None" for each in conditions)
    assert not read_whole(plan) & {"users", "deleted_users"}


def test_tombstones_tell_tenants_apart(clock: SettableClock) -> None:
    from tests.fixtures.api import GUARDED

    assert GUARDED.secret_key is not None
    tombstones = Tombstones(GUARDED.secret_key)
    assert tombstones.of(1, "a") != tombstones.of(2, "a") != tombstones.of(2, "b")
    assert len(tombstones.of(1, "ä")) == 32
