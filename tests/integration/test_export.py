"""What is exported is what an import takes, and to import it changes nothing."""

import csv
import io
import json

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from scheduler.store import user_queries
from tests.fixtures.api import USERS, a_user, add_user, api_client, body_of, problem, role_client

CSV = "text/csv"
NDJSON = "application/x-ndjson"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def add_all_kinds(client: FlaskClient) -> None:
    add_user(
        client,
        1,
        phone="+442071838750",
        push_token="device:7",
        webhook_url="https://hooks.example.org/ann?a=1,2",
        locale="pt-BR",
        preferred_time="08:30",
        dates={"birthday": "1990-03-02", "first_order": "2020-02-29"},
        attributes={
            "plan": "5",
            "score": 1.5,
            "level": 5,
            "vip": True,
            "note": None,
            "text": 'a,"b";ö',
        },
    )
    add_user(client, 2, last_name="", email=None, first_name='Zoë "Z", the 2nd', dates={})
    add_user(client, 3, timezone="Asia/Tokyo", external_id="=1+1;x", attributes={"plan": 5})


def everything(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT CAST(u AS text) FROM users u ORDER BY id")).scalars().all()
        dates = (
            connection.execute(text("SELECT CAST(d AS text) FROM user_dates d ORDER BY 1")).scalars().all()
        )
    return [*rows, *dates]


@pytest.mark.parametrize("form", [CSV, NDJSON])
def test_to_import_what_was_exported_changes_nothing(client: FlaskClient, engine: Engine, form: str) -> None:
    add_all_kinds(client)
    before = everything(engine)
    exported = client.get(f"{USERS}/export", headers={"Accept": form})
    assert exported.status_code == 200
    assert exported.content_type.startswith(form)
    again = body_of(client.post(f"{USERS}/import", data=exported.data, content_type=form))
    assert (again["unchanged"], again["created"], again["updated"], again["rejected"]) == (3, 0, 0, 0)
    assert again["ignored_columns"] == []
    assert everything(engine) == before
    # Nor is anything lost on the way to another database.
    with engine.begin() as connection:
        for table in ("users", "user_dates", "deleted_users"):
            connection.execute(text(f"DELETE FROM {table}"))
    client.post(f"{USERS}/import", data=exported.data, content_type=form)
    once_more = client.get(f"{USERS}/export", headers={"Accept": form})
    assert sorted(once_more.data.splitlines()) == sorted(exported.data.splitlines())


def test_the_filters_are_those_of_the_list(client: FlaskClient) -> None:
    add_all_kinds(client)
    for query in (
        {"timezone": "Asia/Tokyo"},
        {"date": "birthday", "on": "03-02"},
        {"attributes": '{"plan": "5"}'},
        {"updated_since": "2027-03-01T12:00:00Z"},
        {"timezone": "Africa/Lagos"},
    ):
        lines = client.get(f"{USERS}/export", query_string=query).data.splitlines()
        users = body_of(client.get(USERS, query_string=query))["users"]
        assert [json.loads(line)["external_id"] for line in lines] == [user["external_id"] for user in users]


def test_an_export_of_nobody_is_empty_or_a_header(client: FlaskClient) -> None:
    assert client.get(f"{USERS}/export").data == b""
    [header] = csv.reader(io.StringIO(client.get(f"{USERS}/export", headers={"Accept": CSV}).text))
    assert header[0] == "external_id"


def test_pages_make_one_export(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_queries, "EXPORTED_AT_ONCE", 2)
    for number in range(7):
        add_user(client, number)
    lines = client.get(f"{USERS}/export").data.splitlines()
    assert [json.loads(line)["external_id"] for line in lines] == [f"person-{number}" for number in range(7)]


def test_rows_are_read_while_they_are_sent_and_no_connection_is_held(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_queries, "EXPORTED_AT_ONCE", 2)
    for number in range(5):
        add_user(client, number)
    response = client.get(f"{USERS}/export", buffered=False)
    parts = response.iter_encoded()
    assert next(iter(parts)).count(b"\n") == 2
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    response.close()


def test_only_ndjson_and_csv_are_exported(client: FlaskClient) -> None:
    problem(client.get(f"{USERS}/export", headers={"Accept": "application/pdf"}), 406)
    assert client.get(f"{USERS}/export", headers={"Accept": "*/*"}).content_type == NDJSON


def test_another_tenants_users_are_not_exported(engine: Engine, clock: SettableClock) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tenants (name) VALUES ('other')"))
    add_user(role_client(engine, clock, Role.EDITOR), **a_user())
    stranger = role_client(engine, clock, Role.VIEWER, tenant_id=2)
    for form in (CSV, NDJSON):
        exported = stranger.get(f"{USERS}/export", headers={"Accept": form})
        assert b"person" not in exported.data
        assert b"birthday" not in exported.data
