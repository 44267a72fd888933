"""Tenants see nothing of each other: by what each route asks for, and by what the database lets through."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from api.endpoint import Endpoint, endpoint_of
from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from scheduler.store import tenants
from scheduler.store.database import create_database_engine
from tests.fixtures.api import USERS, a_user, add_user, body_of, problem, role_client
from tests.fixtures.one_of_everything import MARK, OCCASION, SEND, Places, made, one_of_everything
from tests.fixtures.pipeline import NINE

EVERYTHING: Final = {"filter": {"all": True}}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "users.replace_user": a_user(7),
    "users.put_external_user": {name: value for name, value in a_user(7).items() if name != "external_id"},
    "users.change_user": {"first_name": "Eve"},
    "users.change_external_user": {"first_name": "Eve"},
    "occasions.replace_occasion": OCCASION,
    "occasions.change_occasion": {"name": "Eve's"},
    "occasions.clone_occasion": {"key": "copy"},
    "occasion_groups.put_group": {"most_occurrences": 9, "period": "P9D"},
    "dead_letters.discard_dead_letter": {"reason": "Eve"},
    "dead_letters.discard_dead_letters": EVERYTHING | {"reason": "Eve"},
    "dead_letters.replay_dead_letters": EVERYTHING,
    "sends.send_messages": SEND | {"to": {"filter": {"timezone": "UTC"}}},
    "providers.hold_provider": {"reason": "Eve"},
    "api_keys.rotate_key": {"overlap_seconds": 0},
    "privacy.erase_person": {"reason": "Eve"},
    "privacy.erase_external_person": {"reason": "Eve"},
    "privacy.allow_person": {"external_id": f"{MARK}-1", "reason": "Eve"},
}
"""What is sent where an empty body would be refused before anybody looked whose the thing is."""

OF_ONES_OWN: Final = {"occasion_groups.put_group", "users.put_external_user"}
"""Routes that make a thing where the caller has none of that key."""

OF_ALL: Final = {"jobs.read_job", "providers.read_provider"}
"""What belongs to the installation may be read by everybody, and changed by who runs it (403)."""

OF_NOBODY: Final = {"static", "callbacks", "unsubscribe", "docs", "health"}
"""Routes without a caller, by their blueprint."""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def first(engine: Engine, clock: SettableClock) -> Places:
    """The first tenant, with one of everything."""
    return one_of_everything(engine, clock, role_client(engine, clock, Role.ADMIN))


@pytest.fixture
def other(engine: Engine, clock: SettableClock, first: Places) -> FlaskClient:
    """An admin of a second tenant, who has somebody as well."""
    with engine.begin() as connection:
        tenant = tenants.add(connection, "second")
    client = role_client(engine, clock, Role.ADMIN, tenant_id=tenant.id)
    add_user(client, 500)
    return client


def tenant_tables(connection: Connection) -> list[str]:
    """All tables with a tenant in them; partitions are read through the table that they are of."""
    found = connection.execute(
        text("""
        SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
        ORDER BY c.relname""")
    )
    return list(found.scalars())


def belongings(engine: Engine) -> dict[str, list[str]]:
    """All rows of the first tenant, by table."""
    with engine.connect() as connection:
        return {
            table: list(
                connection.execute(
                    text(f"SELECT t::text FROM {table} t WHERE tenant_id = 1 ORDER BY 1")
                ).scalars()
            )
            for table in tenant_tables(connection)
        }


def marked(client: FlaskClient) -> list[tuple[Rule, str, Endpoint]]:
    app = client.application
    found = []
    for rule in app.url_map.iter_rules():
        if rule.endpoint.partition(".")[0] in OF_NOBODY or rule.endpoint == "live.page":
            continue
        noted = endpoint_of(app.view_functions[rule.endpoint])
        assert noted is not None
        found += [
            (rule, method, noted)
            for method in sorted(rule.methods or ())
            if method not in ("HEAD", "OPTIONS")
        ]
    return found


def ask(client: FlaskClient, rule: Rule, method: str, path: str) -> TestResponse:
    body = BODIES.get(rule.endpoint, {})
    media_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    data = None if method == "GET" else json.dumps(body)
    headers = {"Accept": "*/*"} if data is None else {"Content-Type": media_type}
    return client.open(path, method=method, data=data, headers=headers)


def without_policies(engine: Engine) -> None:
    """Take the second wall down."""
    with engine.begin() as connection:
        for table in (*tenant_tables(connection), "tenants"):
            connection.execute(text(f"DROP POLICY one_tenant ON {table}"))
            connection.execute(text(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"))
            connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))


@pytest.mark.parametrize("walls", ["both", "the first alone"])
def test_no_route_shows_or_changes_what_another_tenant_has(
    engine: Engine, first: Places, other: FlaskClient, walls: str
) -> None:
    if walls != "both":
        without_policies(engine)
    before = belongings(engine)
    assert all(
        before[table] for table in ("users", "message_log", "dead_letters", "inbox_messages", "api_keys")
    )
    walked = []
    # What the caller makes for themselves comes last: it would be found under the first tenant's key.
    for rule, method, noted in sorted(marked(other), key=lambda each: each[0].endpoint in OF_ONES_OWN):
        with ask(other, rule, method, first.path(rule)) as answer:
            shown = answer.get_data(as_text=True)
        walked.append(f"{method} {rule.rule} {answer.status_code}")
        assert answer.status_code < 500, walked[-1]
        if noted.is_of_installation:
            assert answer.status_code == 403, walked[-1]
        elif rule.arguments and rule.endpoint not in OF_ONES_OWN | OF_ALL:
            assert answer.status_code == 404, f"{walked[-1]}: {shown}"
        elif method == "GET" and rule.endpoint not in OF_ALL:
            assert answer.status_code == 200, f"{walked[-1]}: {shown}"
        if answer.status_code < 400 and rule.endpoint not in OF_ONES_OWN:
            assert MARK not in shown, f"{walked[-1]}: {shown}"
    assert len(walked) > 60
    after = belongings(engine)
    assert {table for table in before if before[table] != after[table]} == set(), walked


def test_a_filter_by_another_tenants_things_finds_nothing(
    engine: Engine, first: Places, other: FlaskClient
) -> None:
    without_policies(engine)
    user, send = first.of["user_id"], first.of["send_id"]
    for path, name in (
        (f"/api/v1/messages?user_id={user}", "messages"),
        (f"/api/v1/messages?external_id={MARK}-1", "messages"),
        (f"/api/v1/messages?send_id={send}", "messages"),
        (f"/api/v1/dead-letters?user_id={user}", "dead_letters"),
        (f"{USERS}?external_id={MARK}-1", "users"),
        (f"/api/v1/suppressions?channel=email&address={MARK}2@example.org", "suppressions"),
        ("/api/v1/audit-log?actor=key:1", "entries"),
        ("/api/v1/batches?state=done", "batches"),
        ("/api/v1/statistics?due_from=2027-03-01T00:00:00Z", "by_occasion"),
    ):
        assert made(other.get(path))[name] == [], path
    whole = other.get(f"{USERS}/export").text + other.get("/api/v1/audit-log/export").text
    assert "person-500" in whole
    assert MARK not in whole
    for path, name in (
        ("statistics", "by_occasion"),
        ("messages", "messages"),
        ("dead-letters", "dead_letters"),
        ("batches", "batches"),
    ):
        shown = other.get(f"/api/v1/{path}?occasion={OCCASION['key']}")
        assert shown.status_code == 400 or body_of(shown)[name] == [], shown.text


def test_a_cursor_of_another_tenant_leads_to_nothing_of_theirs(
    engine: Engine, clock: SettableClock, first: Places, other: FlaskClient
) -> None:
    without_policies(engine)
    admin = role_client(engine, clock, Role.ADMIN)
    for number in range(2):
        add_user(admin, 600 + number, last_name=MARK)
    used = 0
    for path in ("users", "audit-log", "api-keys", "messages", "messages/sends", "suppressions"):
        cursor = made(admin.get(f"/api/v1/{path}?limit=1"))["next_cursor"]
        if cursor is not None:
            used += 1
            assert MARK not in other.get(f"/api/v1/{path}?limit=100&cursor={cursor}").text, path
    assert used >= 4


def test_what_a_body_names_of_another_tenant_is_not_there(
    engine: Engine, first: Places, other: FlaskClient
) -> None:
    without_policies(engine)
    before = belongings(engine)
    user = first.of["user_id"]
    for to in ({"user_ids": [user]}, {"external_ids": [f"{MARK}-1"]}):
        sent = other.post("/api/v1/messages", json=SEND | {"to": to})
        assert sent.status_code in (404, 422) or body_of(sent)["send"]["messages"] == 0, sent.text
    in_their_group = OCCASION | {"key": "own", "group": OCCASION["key"]}
    assert other.post("/api/v1/occasions", json=in_their_group).status_code == 422
    preview = other.post("/api/v1/occasions/preview", json={"occasion": OCCASION, "user_ids": [user]})
    assert problem(preview, 422)["errors"][0]["pointer"] == "/user_ids/0"
    row = json.dumps(a_user(7, external_id=f"{MARK}-1"))
    imported = other.post(f"{USERS}/import", data=row, content_type="application/x-ndjson")
    assert made(imported)["created"] == 1, "somebody of their own"
    assert belongings(engine) == before


@pytest.fixture
def told(engine: Engine, database_url: str, first: Places, other: FlaskClient) -> Any:
    """A connection whose session names the second tenant, as those that a request is lent."""
    own = create_database_engine(database_url, pool_size=1, application_name="daybreak-tests")
    tenants.keep_apart(own, lambda: 2)
    with own.connect() as connection:
        yield connection
    own.dispose()


def test_every_table_with_a_tenant_has_the_policy(engine: Engine) -> None:
    with engine.connect() as connection:
        guarded = set(
            connection.execute(
                text("""
                SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = 'one_tenant'
                WHERE c.relrowsecurity AND c.relforcerowsecurity""")
            ).scalars()
        )
        assert guarded == {*tenant_tables(connection), "tenants"}


def test_a_statement_that_forgets_the_tenant_sees_nothing_of_others(told: Connection, engine: Engine) -> None:
    before = belongings(engine)
    for table in tenant_tables(told):
        found = told.execute(text(f"SELECT DISTINCT tenant_id FROM {table}")).scalars().all()
        assert found in ([], [2]), table
        if table != "audit_log":  # from which nobody removes anything
            told.execute(text(f"DELETE FROM {table}"))
        told.execute(text("SELECT set_config('daybreak.tenant_id', '', true)"))
        left = told.execute(text(f"SELECT count(*) FROM {table} WHERE tenant_id = 1")).scalar_one()
        assert left == len(before[table]), table
        told.rollback()
    told.execute(text("SELECT set_config('daybreak.erasing', 'on', true)"))
    told.execute(text("UPDATE audit_log SET before = NULL, after = NULL"))
    told.commit()
    assert told.execute(text("SELECT name FROM tenants")).scalars().all() == ["second"]
    told.execute(text("UPDATE users SET first_name = 'Eve'"))
    told.commit()
    assert belongings(engine) == before


def test_nothing_can_be_written_for_another_tenant(told: Connection) -> None:
    for statement in (
        "INSERT INTO deleted_users (tenant_id, external_id, user_id, version, deleted_at) VALUES (1, 'x', 1, 1, now())",
        "UPDATE users SET tenant_id = 1",
    ):
        with pytest.raises(ProgrammingError, match="row-level security"):
            told.execute(text(statement))
        told.rollback()


def test_a_connection_goes_from_one_tenant_to_the_next_and_back(engine: Engine, database_url: str) -> None:
    wanted: list[int | None] = [None]
    statements = []
    own = create_database_engine(database_url, pool_size=1, application_name="daybreak-tests")
    tenants.keep_apart(own, lambda: wanted[0])
    for each in (None, 1, 1, 2, None, 2):
        wanted[0] = each
        with own.connect() as connection:
            statements.append(
                connection.execute(text("SELECT current_setting('daybreak.tenant_id', true)")).scalar_one()
            )
            connection.rollback()
    own.dispose()
    assert statements == [None, "1", "1", "2", "", "2"]


def test_a_connection_that_breaks_while_it_is_told_is_replaced(engine: Engine, database_url: str) -> None:
    wanted: list[int | None] = [None]
    own = create_database_engine(database_url, pool_size=1, application_name="daybreak-tests")

    def kill_and_tell() -> int | None:
        if wanted == [7]:
            wanted[0] = 1
            with engine.begin() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        return wanted[0]

    tenants.keep_apart(own, kill_and_tell)
    with own.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    wanted[0] = 7
    with own.connect() as connection:
        row = connection.execute(text("SELECT pg_backend_pid(), current_setting('daybreak.tenant_id')")).one()
    own.dispose()
    assert row[0] != pid
    assert row[1] == "1"
