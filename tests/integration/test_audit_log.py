"""The audit log: each write by whom and what changed, found again, taken out whole, and never altered."""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, ProgrammingError

from api.models.audit import AuditListAnswer
from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM, Actor, Role
from scheduler.jobs.run import JobRunner
from scheduler.store import audit
from scheduler.store.job_runs import Trigger
from tests.fixtures.api import USERS, a_user, add_user, body_of, guarded_client, places, problem, role_key
from tests.fixtures.dead_letters import kill, letters
from tests.fixtures.pipeline import NINE, TENANT, Pipeline

LOG = "/api/v1/audit-log"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return guarded_client(engine, clock, role_key(engine, clock, Role.ADMIN))


def entries(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    """The newest first, without that of the key they are asked with."""
    body = body_of(client.get(LOG, query_string=query))
    AuditListAnswer.model_validate(body, extra="forbid")
    return [entry for entry in body["entries"] if entry["actor"] != "tests"]


def told(entry: dict[str, Any]) -> tuple[str, str, Any, Any]:
    return entry["action"], entry["kind"], entry["before"], entry["after"]


def test_a_users_life_is_told_with_what_changed(client: FlaskClient, clock: SettableClock) -> None:
    user = add_user(client)
    path = f"{USERS}/{user['id']}"
    client.patch(path, json={"timezone": "Asia/Tokyo", "phone": "+14155550123"})
    client.put(path, json=a_user(first_name="Bea", timezone="Asia/Tokyo", phone="+14155550123"))
    answer = client.delete(path, headers={"X-Request-Id": "goodbye"})
    assert answer.status_code == 200
    deleted, replaced, changed, created = entries(client, kind="user", subject=user["id"])
    assert told(created)[:3] == ("create", "user", None)
    assert created["after"]["email"] == "ann1@example.org"
    assert told(changed) == (
        "change",
        "user",
        {"timezone": "Europe/London", "phone": None},
        {"timezone": "Asia/Tokyo", "phone": "+14155550123"},
    )
    assert told(replaced) == ("replace", "user", {"first_name": "Ann"}, {"first_name": "Bea"})
    assert (deleted["action"], deleted["after"]) == ("delete", None)
    assert deleted["before"]["first_name"] == "Bea"
    assert {
        "at": "2027-03-01T12:00:00Z",
        "actor": "key:1",
        "address": "127.0.0.1",
        "request_id": "goodbye",
        "subject": str(user["id"]),
    }.items() <= deleted.items()


def test_what_is_refused_is_not_told(client: FlaskClient) -> None:
    add_user(client)
    problem(client.post(USERS, json=a_user()), 409)
    problem(client.delete(f"{USERS}/999"), 404)
    assert [entry["action"] for entry in entries(client)] == ["create"]


def test_an_import_is_an_entry_as_it_begins_and_one_at_its_end(client: FlaskClient) -> None:
    rows = (
        "external_id,first_name,timezone\n" + "".join(f"p{n},Ann,UTC\n" for n in range(9)) + "x,Ann,Nowhere\n"
    )
    answer = client.post(f"{USERS}/import", data=rows, content_type="text/csv")
    assert answer.status_code == 200, answer.text
    entry, begun = entries(client)
    assert told(entry)[:3] == told(begun)[:3] == ("import", "user", None)
    assert begun["after"] == {"begun": 1}
    assert {"created": 9, "rejected": 1}.items() <= entry["after"].items()


def test_suppressions_and_unsubscribes_are_told_without_addresses(client: FlaskClient) -> None:
    user = add_user(client)
    added = client.post("/api/v1/suppressions", json={"channel": "email", "address": "gone@example.org"})
    suppression = body_of(added)["suppression"]["id"]
    client.post("/api/v1/suppressions", json={"channel": "email", "address": "gone@example.org"})
    client.delete(f"/api/v1/suppressions/{suppression}")
    path = f"{USERS}/{user['id']}/unsubscribes/email/birthday"
    for _ in range(2):
        client.put(path)
    client.delete(path)
    found = entries(client)
    assert [(entry["action"], entry["kind"], entry["subject"]) for entry in reversed(found)][1:] == [
        ("create", "suppression", str(suppression)),
        ("delete", "suppression", str(suppression)),
        ("unsubscribe", "user", str(user["id"])),
        ("resubscribe", "user", str(user["id"])),
    ]
    assert "gone@" not in client.get(LOG).text


def test_a_job_that_somebody_asked_for_is_told_and_others_are_not(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    runner = JobRunner(engine, clock)
    runner.run("recover", dict, Trigger.CRON)
    runner.run("recover", dict, Trigger.MANUAL, actor=Actor(1, "cli", SYSTEM.scopes))
    [entry] = entries(client)
    assert (entry["actor"], entry["action"], entry["kind"], entry["subject"]) == (
        "cli",
        "run",
        "job",
        "recover",
    )


def test_a_job_that_fails_tells_no_row_to_whoever_reads_of_it(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    def fail() -> dict[str, int]:
        with engine.begin() as connection:
            connection.execute(text("SELECT CAST(:name AS text), 1 / 0"), {"name": "Ann Secret"})
        return {}

    with pytest.raises(DataError):
        JobRunner(engine, clock).run("recover", fail, Trigger.CRON)
    shown = client.get("/api/v1/jobs/recover").text
    assert "division by zero" in shown
    assert "Ann Secret" not in shown


def test_dead_letters_are_told_one_by_one_and_by_the_chunk(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    clock.set(NINE)
    pipeline = Pipeline(engine, clock)
    kill(pipeline, 10)
    ids = sorted(letter.id for letter in letters(pipeline))
    client.post(f"/api/v1/dead-letters/{ids[0]}/replay")
    client.post(f"/api/v1/dead-letters/{ids[1]}/discard", json={"reason": "old"})
    client.post("/api/v1/dead-letters/replay", json={"filter": {"all": True}})
    many, discarded, replayed = entries(client, kind="dead_letter")
    assert (replayed["action"], replayed["subject"], replayed["after"]) == (
        "replay",
        str(ids[0]),
        {"replayed": 1},
    )
    assert (discarded["action"], discarded["after"]) == ("discard", {"reason": "old"})
    assert (many["subject"], many["after"]) == (f"{ids[2]}-{ids[9]}", {"replayed": 8})


def fill(engine: Engine, clock: SettableClock, count: int) -> None:
    with engine.begin() as connection:
        for number in range(count):
            actor = Actor(TENANT, f"key:{number % 3}", frozenset())
            audit.add(connection, actor, "change", "thing", str(number), {"n": number}, None, now=clock.now())
            clock.advance(timedelta(minutes=1))


def test_it_is_read_page_by_page_and_new_entries_move_nothing(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    fill(engine, clock, 7)
    first = body_of(client.get(f"{LOG}?kind=thing&limit=4"))
    fill(engine, clock, 2)
    second = body_of(client.get(f"{LOG}?kind=thing&limit=4&cursor={first['next_cursor']}"))
    assert [entry["subject"] for entry in first["entries"] + second["entries"]] == list("6543210")
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "subjects"),
    [
        ("actor=key:1", "41"),
        ("actor=key:1&subject=4", "4"),
        ("action=create&kind=thing", ""),
        ("kind=thing&at_from=2027-03-01T12:04:00Z", "54"),
        ("kind=thing&at_until=2027-03-01T14:02:00%2B02:00", "10"),
    ],
)
def test_it_is_searched(
    client: FlaskClient, engine: Engine, clock: SettableClock, query: str, subjects: str
) -> None:
    fill(engine, clock, 6)
    found = body_of(client.get(f"{LOG}?{query}"))["entries"]
    assert "".join(entry["subject"] for entry in found) == subjects


def test_what_cannot_be_searched_for_is_said(client: FlaskClient) -> None:
    body = problem(client.get(f"{LOG}?actor=&at_from=yesterday&tenant=2"), 400)
    assert set(places(body)) == {"actor", "at_from", "tenant"}
    problem(client.get(f"{LOG}/export?limit=3"), 400)


def test_it_is_taken_out_whole(client: FlaskClient, engine: Engine, clock: SettableClock) -> None:
    fill(engine, clock, 2_300)
    with client.get(f"{LOG}/export?kind=thing") as answer:
        assert answer.content_type == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [line["subject"] for line in lines] == [str(number) for number in reversed(range(2_300))]
    assert lines[-1]["before"] == {"n": 0}
    with client.get(f"{LOG}/export?kind=nothing") as nothing:
        assert nothing.data == b""


def test_it_is_taken_out_for_a_spreadsheet(client: FlaskClient, engine: Engine, clock: SettableClock) -> None:
    actor = Actor(TENANT, "jwt:ada", frozenset(), "2001:db8::1", "r-1")
    with engine.begin() as connection:
        audit.add(connection, actor, "change", "thing", "=cmd()", {"n": 'a "b"'}, None, now=clock.now())
    with client.get(f"{LOG}/export?kind=thing", headers={"Accept": "text/csv"}) as answer:
        assert answer.content_type == "text/csv; charset=utf-8"
        header, row = csv.reader(answer.get_data(as_text=True).splitlines())
    assert header == list(AuditListAnswer.model_validate(body_of(client.get(LOG))).entries[0].model_dump())
    assert row[1:] == [
        *("2027-03-01T12:00:00Z", "jwt:ada", "2001:db8::1", "r-1", "change", "thing", "'=cmd()"),
        *('{"n":"a \\"b\\""}', ""),
    ]
    problem(client.get(f"{LOG}/export", headers={"Accept": "image/png"}), 406)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody'",
        "UPDATE audit_log SET at = at + interval '1 day'",
        "UPDATE audit_log SET before = NULL",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ],
)
def test_it_is_only_added_to_and_an_erasure_blanks_what_it_quotes(
    engine: Engine, clock: SettableClock, statement: str
) -> None:
    fill(engine, clock, 2)
    with pytest.raises(ProgrammingError, match="only added to"), engine.begin() as connection:
        connection.execute(text(statement))
    with engine.begin() as connection:
        connection.execute(text("SELECT set_config('daybreak.erasing', 'on', true)"))
        if statement.endswith("before = NULL"):
            connection.execute(text(statement))
            return
        with pytest.raises(ProgrammingError, match="only added to"):
            connection.execute(text(statement))
