from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageState
from scheduler.store import message_queries
from scheduler.store.message_queries import MessageFilter, Position
from scheduler.store.partitions import Partitions
from tests.fixtures.api import add_user, api_client, body_of, places, problem

MESSAGES = "/api/v1/messages"

FILL = text("""
INSERT INTO message_log (user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version, date_rule,
                         time_rule, slot, attempt, timezone, reason)
SELECT user_id, CAST(:send_at AS timestamptz), 1, CAST(:first AS date) + CAST(user_id % :days AS integer), 'email', 1,
       CAST(CASE WHEN user_id % 1000 = 0 THEN 'expired' ELSE 'scheduled' END AS message_state), 1, 'exact',
       'exact', 0, 0, 'UTC', CASE WHEN user_id % 1000 = 0 THEN 'too_late' END
FROM generate_series(1, :users) AS user_id""")


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def fill(engine: Engine, users: int, *, first: date, days: int = 28) -> None:
    """One message for each of `users` users, over `days` local dates; every thousandth has expired."""
    values = {"users": users, "first": first, "days": days, "send_at": datetime(2027, 3, 1, tzinfo=UTC)}
    with engine.begin() as connection:
        Partitions().ensure(connection, first, first + timedelta(days=days))
        connection.execute(FILL, values)
        connection.execute(text("ANALYZE message_log"))


def walk(client: FlaskClient, **query: object) -> tuple[list[dict[str, Any]], int]:
    """All messages of a list, and how many pages they were on."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, object] = {}
    for pages in range(1, 500):
        page = body_of(client.get(MESSAGES, query_string={**query, **cursor}))
        found += page["messages"]
        if page["next_cursor"] is None:
            return found, pages
        cursor = {"cursor": page["next_cursor"]}
    raise AssertionError("the list does not end")


def test_a_planned_message_is_listed_and_read(client: FlaskClient) -> None:
    user = add_user(client, timezone="Asia/Kolkata")
    listed = body_of(client.get(MESSAGES))
    message_id = f"1.{user['id']}.20270302.0.email"
    assert listed == {
        "messages": [
            {
                "id": message_id,
                "user_id": user["id"],
                "occasion": "birthday",
                "local_date": "2027-03-02",
                "slot": 0,
                "channel": "email",
                "state": "scheduled",
                "reason": None,
                "send_at": "2027-03-02T03:30:00Z",
                "accepted_at": None,
                "attempt": 0,
                "timezone": "Asia/Kolkata",
                "date_rule": "exact",
                "time_rule": "exact",
                "year": 2027,
            }
        ],
        "next_cursor": None,
    }
    history: dict[str, object] = {"attempts": [], "dead_letter": None}
    assert body_of(client.get(f"{MESSAGES}/{message_id}")) == {"message": listed["messages"][0] | history}


def test_a_message_tells_what_failed_on_its_way(client: FlaskClient, engine: Engine) -> None:
    user = add_user(client)
    key = {
        "user_id": user["id"],
        "local_date": date(2027, 3, 2),
        "at": datetime(2027, 3, 2, 9, 0, 5, tzinfo=UTC),
    }
    with engine.begin() as connection:
        for attempt in (1, 2):
            connection.execute(
                text("""
                INSERT INTO delivery_attempts (user_id, batch_id, failed_at, occasion_id, local_date, channel,
                                               tenant_id, slot, attempt, provider, kind, category, detail)
                VALUES (:user_id, 7, :at, 1, :local_date, 'email', 1, 0, :attempt, 'http', 'retryable', 'timeout', 'x')
                """),
                key | {"attempt": attempt},
            )
        connection.execute(
            text("""
            INSERT INTO dead_letters (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt,
                                      category, detail)
            VALUES (:user_id, :at, 1, :local_date, 'email', 1, 0, 2, 'timeout', 'x')"""),
            key,
        )
    message = body_of(client.get(f"{MESSAGES}/1.{user['id']}.20270302.0.email"))["message"]
    assert [each["number"] for each in message["attempts"]] == [1, 2]
    assert message["attempts"][0] == {
        "number": 1,
        "at": "2027-03-02T09:00:05Z",
        "outcome": "failed",
        "provider": "http",
        "kind": "retryable",
        "category": "timeout",
        "detail": "x",
        "batch_id": 7,
    }
    assert message["dead_letter"] == {
        "id": 1,
        "attempt": 2,
        "died_at": "2027-03-02T09:00:05Z",
        "category": "timeout",
        "detail": "x",
        "discarded_at": None,
        "discard_reason": None,
    }


@pytest.mark.parametrize(
    "message_id",
    [
        "x",
        "%00",
        "1.1.20270302.0.email",
        "1.1.20270302.0.pigeon",
        "1.1.20270230.0.email",
        "2147483648.1.20270302.0.email",
        "1.9223372036854775808.20270302.0.email",
        "1.1.20270302.32768.email",
        "1.1.20270302.-1.email",
        "1.-99999999999999999999.20270302.0.email",
        "-99999999999999999999.1.20270302.0.email",
        "1." + "9" * 5000 + ".20270302.0.email",
    ],
)
def test_a_message_that_is_not_there_is_not_found(client: FlaskClient, message_id: str) -> None:
    problem(client.get(f"{MESSAGES}/{message_id}"), 404)


def test_another_tenants_message_is_not_found(client: FlaskClient, engine: Engine) -> None:
    user = add_user(client)
    with engine.begin() as connection:
        connection.execute(text("UPDATE message_log SET tenant_id = 2"))
    problem(client.get(f"{MESSAGES}/1.{user['id']}.20270302.0.email"), 404)
    assert body_of(client.get(MESSAGES)) == {"messages": [], "next_cursor": None}


def test_pages_hold_each_message_once_in_the_order_of_the_key(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 500, first=date(2027, 3, 20), days=20)
    found, pages = walk(client, limit=120)
    order = [(each["local_date"][:7], each["user_id"]) for each in found]
    assert len(set(order)) == 500
    assert order == sorted(order)
    assert pages == 5


def test_messages_are_filtered(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 3_000, first=date(2027, 3, 1))
    expired, _ = walk(client, state="expired")
    assert [each["user_id"] for each in expired] == [1000, 2000, 3000]
    assert [each["reason"] for each in expired] == ["too_late"] * 3
    assert [each["user_id"] for each in walk(client, user_id=77)[0]] == [77]
    on_days, _ = walk(client, local_date_from="2027-03-02", local_date_until="2027-03-03", limit=200)
    assert {each["local_date"] for each in on_days} == {"2027-03-02", "2027-03-03"}
    assert len(on_days) == 216
    assert walk(client, channel="sms") == ([], 1)
    assert walk(client, occasion="anniversary") == ([], 1)
    assert len(walk(client, occasion="birthday", limit=200)[0]) == 3_000
    assert walk(client, local_date_from="2031-01-01") == ([], 1)


def test_a_page_examines_so_much_and_says_where_to_go_on(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_queries, "ROWS_EXAMINED", 700)
    monkeypatch.setattr(message_queries, "PARTITIONS_EXAMINED", 2)
    monkeypatch.setattr(message_queries, "READS_CUT_SHORT", 1)
    fill(engine, 3_000, first=date(2027, 3, 1))
    fill(engine, 10, first=date(2027, 9, 1))
    first = body_of(client.get(MESSAGES, query_string={"state": "expired"}))
    assert first["messages"] == []
    assert first["next_cursor"] is not None
    found, pages = walk(client, state="expired")
    assert [each["user_id"] for each in found] == [1000, 2000, 3000]
    assert pages == 5
    monkeypatch.setattr(message_queries, "READS_CUT_SHORT", 3)
    found, pages = walk(client, state="expired")
    assert [each["user_id"] for each in found] == [1000, 2000, 3000]
    assert pages == 2
    late, _ = walk(client, local_date_from="2027-09-01")
    assert [each["user_id"] for each in late] == list(range(1, 11))


def test_dead_messages_are_found_by_their_letters(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_queries, "ROWS_EXAMINED", 50)
    fill(engine, 3_000, first=date(2027, 3, 1))
    fill(engine, 30, first=date(2027, 9, 1))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE message_log SET state = 'dead', reason = 'http_400' WHERE user_id % 10 = 7")
        )
        connection.execute(
            text("""
            INSERT INTO dead_letters (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt,
                                      category, detail)
            SELECT user_id, send_at, occasion_id, local_date, channel, tenant_id, slot, attempt, reason, ''
            FROM message_log WHERE state = 'dead'""")
        )
    everything, pages = walk(client, state="dead")
    assert [each["user_id"] for each in everything] == [*range(7, 3_000, 10), 7, 17, 27]
    assert pages < 30
    assert [each["user_id"] for each in walk(client, state="dead", local_date_from="2027-09-01")[0]] == [
        7,
        17,
        27,
    ]
    assert walk(client, state="dead", reason="http_500")[0] == []
    assert len(walk(client, state="dead", user_id=7)[0]) == 2


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("user_id=x", "user_id"),
        ("user_id=9223372036854775808", "user_id"),
        ("occasion=nothing", "occasion"),
        ("occasion=%00", "occasion"),
        ("channel=pigeon", "channel"),
        ("state=lost", "state"),
        ("local_date_from=2027-02-29", "local_date_from"),
        ("cursor=dXNlcjox", "cursor"),
        ("cursor=bWVzc2FnZTp4", "cursor"),
        ("cursor=bWVzc2FnZToyMDI3LTAxLTAxL3g", "cursor"),
    ],
)
def test_a_wrong_query_is_refused_by_parameter(client: FlaskClient, query: str, place: str) -> None:
    assert places(problem(client.get(f"{MESSAGES}?{query}"), 400)) == [place]


def plan_of(connection: Connection, wanted: MessageFilter, position: Position | None) -> str:
    """How PostgreSQL reads the one partition that `position` names."""
    after = None if position is None else position.after
    statement, parameters = message_queries._scan(1, wanted, after)
    parameters |= {"starts": date(2027, 3, 1), "ends": date(2027, 4, 1), "most": 51, "examined": 10_000}
    rows = connection.execute(text(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement.text}"), parameters)
    return "\n".join(rows.scalars())


@pytest.mark.parametrize(
    "wanted",
    [
        MessageFilter(),
        MessageFilter(state=MessageState.SCHEDULED),
        MessageFilter(local_date_first=date(2027, 3, 2)),
        MessageFilter(state=MessageState.DEAD, user_id=30_000),
        MessageFilter(user_id=30_000),
    ],
)
@pytest.mark.parametrize("continues", [False, True])
def test_a_page_reads_the_primary_key_and_sorts_nothing(
    engine: Engine, wanted: MessageFilter, continues: bool
) -> None:
    fill(engine, 60_000, first=date(2027, 3, 1))
    with engine.connect() as connection:
        first = message_queries.page(connection, 1, MessageFilter(), position=None, most=50)
        plan = plan_of(connection, wanted, first.next if continues else None)
    assert "message_log_2027_03_pkey" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


def test_occasions_are_listed_and_read(client: FlaskClient) -> None:
    listed = body_of(client.get("/api/v1/occasions"))["occasions"]
    assert [each["key"] for each in listed] == ["birthday", "anniversary"]
    assert listed[0] == {
        "id": 1,
        "key": "birthday",
        "name": "Birthday",
        "rule": {"kind": "yearly", "date_name": "birthday", "offset_days": 0},
        "local_times": ["09:00"],
        "honours_preferred_time": True,
        "channels": ["email"],
        "priority": "normal",
        "subject": "Happy birthday",
        "body": "Hey, {{ full_name }}, it's your birthday!",
        "html": None,
        "translations": {},
        "group": None,
        "quiet_hours": None,
        "gap": "forward",
        "overlap": "first",
        "leap_day": "feb28",
        "same_day": "send",
        "lateness_limit": None,
        "retry": None,
        "active": True,
        "paused_at": None,
        "archived_at": None,
        "version": 1,
        "planned_through": None,
        "is_replanned": True,
    }
    assert body_of(client.get("/api/v1/occasions/birthday")) == {"occasion": listed[0]}
    for missing in ("nothing", "%00", "a" * 5000):
        problem(client.get(f"/api/v1/occasions/{missing}"), 404)
