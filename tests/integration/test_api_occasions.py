"""Occasions over the API: write them, read them, and be told all that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from api.app import create_app
from api.models.occasions import (
    CreatedOccasionAnswer,
    DeletedOccasionAnswer,
    GroupListAnswer,
    OccasionListAnswer,
    OneOccasionAnswer,
    WrittenOccasionAnswer,
)
from scheduler.clock import SettableClock
from scheduler.settings import Settings
from tests.fixtures.api import add_user, api_client, body_of, places, problem

OCCASIONS = "/api/v1/occasions"
NAME_DAY: dict[str, Any] = {
    "key": "name-day",
    "name": "Name day",
    "rule": {"kind": "fixed", "month": 3, "day": 2},
    "subject": "Your name day",
    "body": "Hello, {{ first_name }}!",
}


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def create(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    response = client.post(OCCASIONS, json=NAME_DAY | changes)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = body_of(response)
    return body


def patch(client: FlaskClient, key: str = "name-day", **changes: Any) -> TestResponse:
    return client.patch(f"{OCCASIONS}/{key}", json=changes)


def log(engine: Engine, key: str = "name-day") -> list[tuple[str, str]]:
    """State and instant of each message of an occasion."""
    statement = text("""
        SELECT CAST(l.state AS text), to_char(l.send_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI') FROM message_log l
        JOIN occasions o ON o.id = l.occasion_id WHERE o.key = :key ORDER BY l.send_at, l.user_id""")
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(statement, {"key": key})]


def test_a_new_occasion_is_planned_at_once(client: FlaskClient, engine: Engine) -> None:
    add_user(client, 1)
    add_user(client, 2, timezone="Asia/Tokyo")
    response = client.post(OCCASIONS, json=NAME_DAY)
    assert (response.status_code, response.headers["Location"]) == (201, f"{OCCASIONS}/name-day")
    body = body_of(response)
    CreatedOccasionAnswer.model_validate(body)
    assert body["planned"] == {"added": 2, "already_there": 0, "batches": 2}
    assert (body["is_done"], body["warnings"]) == (True, [])
    assert log(engine) == [("scheduled", "03-02 00:00"), ("scheduled", "03-02 09:00")]
    read = client.get(f"{OCCASIONS}/name-day")
    OneOccasionAnswer.model_validate(body_of(read))
    assert body_of(read)["occasion"] == body["occasion"]
    assert read.headers["ETag"] == '"1"'


def test_what_was_sent_can_be_sent_back(client: FlaskClient) -> None:
    given = NAME_DAY | {
        "local_times": ["08:30", "20:00"],
        "channels": ["email", "in_app"],
        "priority": "bulk",
        "html": "<p>Hello, {{ first_name }}!</p>",
        "translations": {"de": {"subject": "Hallo", "body": "Hallo!", "html": None}},
        "quiet_hours": "22:00-07:00",
        "lateness_limit": "PT36H",
        "retry": {"max_attempts": 3, "base_seconds": 2.0, "cap_seconds": 60.0},
        "gap": "skip",
        "overlap": "second",
        "leap_day": "mar1",
        "same_day": "skip",
        "honours_preferred_time": False,
        "group": None,
        "active": False,
    }
    stored = create(client, **given)["occasion"]
    assert {name: stored[name] for name in given} == given
    again = client.put(f"{OCCASIONS}/name-day", json={name: stored[name] for name in given})
    assert (again.status_code, body_of(again)["occasion"]) == (200, stored)


def test_a_channel_without_a_provider_is_a_warning(
    engine: Engine, clock: SettableClock, tmp_path: Path
) -> None:
    file = tmp_path / "providers.toml"
    file.write_text('[providers.main]\nkind = "outbox"\n[channels.email]\nproviders = ["main"]\n')
    settings = Settings(api_authentication="none", providers_file=file).read_from({}, {})
    client = create_app(settings, engine, clock).test_client()
    [warning] = create(client, channels=["email", "push"])["warnings"]
    assert "push" in warning


def test_all_mistakes_are_told_at_once(client: FlaskClient) -> None:
    body = problem(
        client.post(
            OCCASIONS,
            json={
                "key": "x y",
                "name": "N",
                "rule": {"kind": "rrule", "rrule": "FREQ=NEVER", "starts_on": "2027-01-01"},
                "subjct": "s",
                "body": "b",
                "channels": ["fax"],
            },
        ),
        422,
    )
    assert places(body) == ["/key", "/rule/rrule", "/channels/0", "/subject", "/subjct"]
    assert "did you mean 'subject'" in body["errors"][-1]["detail"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"body": "{{ firstname }}"}, ["/body"]),
        ({"body": "{{ dates.birthday | age }}"}, ["/body"]),
        ({"translations": {"d": {"subject": "s", "body": "b"}}}, ["/translations/d"]),
        ({"translations": {"not a tag": {"subject": "s", "body": "b"}}}, ["/translations/not a tag"]),
        ({"group": "nobody"}, ["/group"]),
        ({"group": "a\0b"}, ["/group"]),
    ],
)
def test_texts_and_groups_are_checked(client: FlaskClient, changes: dict[str, Any], found: list[str]) -> None:
    assert places(problem(client.post(OCCASIONS, json=NAME_DAY | changes), 422)) == found
    create(client)
    assert places(problem(patch(client, **changes), 422)) == found


def test_a_key_is_taken_once_and_never_changes(client: FlaskClient) -> None:
    create(client)
    assert "name-day" in problem(client.post(OCCASIONS, json=NAME_DAY), 409)["detail"]
    assert places(problem(client.put(f"{OCCASIONS}/name-day", json=NAME_DAY | {"key": "b"}), 422)) == ["/key"]
    assert places(problem(client.patch(f"{OCCASIONS}/name-day", json={"key": "b"}), 422)) == ["/key"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_an_unknown_occasion_is_not_found(client: FlaskClient, method: str) -> None:
    body = {"PUT": NAME_DAY | {"key": "nobody"}, "PATCH": {}}.get(method)
    problem(client.open(f"{OCCASIONS}/nobody", method=method, json=body), 404)
    problem(client.get(f"{OCCASIONS}/a%00b"), 404)


def test_lists_are_filtered_and_go_on(client: FlaskClient) -> None:
    for number in range(3):
        create(client, key=f"extra-{number}", channels=["sms"], active=False)
    client.post(f"{OCCASIONS}/extra-2/archive")
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        body = body_of(client.get(OCCASIONS, query_string=query))
        OccasionListAnswer.model_validate(body)
        seen += [each["key"] for each in body["occasions"]]
        if (cursor := body["next_cursor"]) is None:
            break
    assert seen == ["birthday", "anniversary", "extra-0", "extra-1"]

    def keys(**query: str) -> list[str]:
        return [each["key"] for each in body_of(client.get(OCCASIONS, query_string=query))["occasions"]]

    assert keys(archived="true") == ["extra-2"]
    assert keys(active="true") == keys(kind="yearly") == ["birthday", "anniversary"]
    assert keys(channel="sms", kind="fixed") == ["extra-0", "extra-1"]
    assert places(problem(client.get(OCCASIONS, query_string={"kind": "ad_hoc"}), 400)) == ["kind"]


def test_an_edit_moves_what_is_scheduled(client: FlaskClient, engine: Engine) -> None:
    add_user(client, 1)
    create(client)
    response = patch(client, local_times=["12:00"], rule={"day": 3})
    body = body_of(response)
    WrittenOccasionAnswer.model_validate(body)
    assert body["replanned"] == {"planned": 1, "moved": 0, "kept": 0, "removed": 1}
    assert (body["is_done"], body["occasion"]["is_replanned"], response.headers["ETag"]) == (
        True,
        True,
        '"2"',
    )
    assert log(engine) == [("scheduled", "03-03 12:00")]


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "Another", "body": "Hello again", "html": "<p>x</p>"},
        {"translations": {"de": {"subject": "Hallo", "body": "Hallo!"}}},
        {"quiet_hours": "22:00-06:00", "lateness_limit": "PT5H", "retry": {"max_attempts": 2}},
        {"name": "Other", "same_day": "skip"},
    ],
)
def test_what_is_read_when_it_is_sent_replans_nobody(
    client: FlaskClient, engine: Engine, changes: dict[str, Any]
) -> None:
    add_user(client, 1)
    create(client)
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET version = 7"))
    body = body_of(patch(client, **changes))
    assert body["replanned"] == {"planned": 0, "moved": 0, "kept": 0, "removed": 0}
    assert body["occasion"]["version"] == 2
    with engine.connect() as connection:
        versions = connection.execute(text("SELECT DISTINCT user_version FROM message_log")).scalars().all()
    assert 7 not in versions


def test_a_new_priority_holds_for_what_waits(client: FlaskClient, engine: Engine) -> None:
    add_user(client, 1)
    create(client)
    patch(client, priority="critical")
    statement = (
        "SELECT b.priority FROM batches b JOIN occasions o ON o.id = occasion_id WHERE o.key = 'name-day'"
    )
    with engine.connect() as connection:
        assert connection.execute(text(statement)).scalars().all() == ["critical"]


def test_what_changes_nothing_is_no_new_version(client: FlaskClient) -> None:
    create(client)
    assert body_of(patch(client, name="Name day"))["occasion"]["version"] == 1


def test_an_edit_of_an_old_version_is_refused(client: FlaskClient) -> None:
    create(client)
    old, new = {"If-Match": '"1"'}, {"If-Match": '"2"'}
    path = f"{OCCASIONS}/name-day"
    assert client.patch(path, json={"name": "B"}, headers=old).status_code == 200
    for response in (
        client.patch(path, json={"name": "C"}, headers=old),
        client.put(path, json=NAME_DAY, headers=old),
        client.delete(path, headers=old),
        client.post(f"{path}/pause", headers=old),
        client.post(f"{path}/archive", headers=old),
    ):
        problem(response, 412)
    assert client.put(path, json=NAME_DAY, headers=new).status_code == 200


def test_one_that_is_turned_off_plans_nothing_and_makes_nothing_up(
    client: FlaskClient, engine: Engine
) -> None:
    add_user(client, 1)
    create(client)
    assert body_of(patch(client, active=False))["replanned"]["removed"] == 1
    assert log(engine) == []
    assert body_of(patch(client, active=True))["replanned"]["planned"] == 1


def test_one_that_planned_nothing_is_deleted_and_another_is_archived(
    client: FlaskClient, engine: Engine
) -> None:
    add_user(client, 1)
    create(client)
    create(client, key="far-off", rule={"kind": "fixed", "month": 9, "day": 1})
    gone = body_of(client.delete(f"{OCCASIONS}/far-off"))
    DeletedOccasionAnswer.model_validate(gone)
    assert gone == {"deleted": True, "archived": False, "occasion": None}
    problem(client.get(f"{OCCASIONS}/far-off"), 404)
    kept = body_of(client.delete(f"{OCCASIONS}/name-day"))
    DeletedOccasionAnswer.model_validate(kept)
    assert (kept["deleted"], kept["archived"], kept["occasion"]["active"]) == (False, True, False)
    assert log(engine) == []


def test_what_is_archived_is_not_edited_until_it_is_taken_back(client: FlaskClient) -> None:
    create(client)
    client.post(f"{OCCASIONS}/name-day/archive")
    problem(patch(client, name="B"), 409)
    problem(client.post(f"{OCCASIONS}/name-day/pause"), 409)
    back = body_of(client.post(f"{OCCASIONS}/name-day/unarchive"))["occasion"]
    assert (back["archived_at"], back["active"]) == (None, False)
    assert body_of(patch(client, name="B"))["occasion"]["name"] == "B"


def test_a_copy_has_all_but_the_key_and_sends_nothing_yet(client: FlaskClient) -> None:
    original = create(client, local_times=["08:00"], quiet_hours="22:00-06:00")["occasion"]
    response = client.post(f"{OCCASIONS}/name-day/clone", json={"key": "copy", "name": "Copy"})
    assert (response.status_code, response.headers["Location"]) == (201, f"{OCCASIONS}/copy")
    copy = body_of(response)["occasion"]
    differs = {name for name in copy if copy[name] != original[name]}
    assert differs == {"id", "key", "name", "active", "planned_through"}
    problem(client.post(f"{OCCASIONS}/name-day/clone", json={"key": "copy"}), 409)
    assert places(problem(client.post(f"{OCCASIONS}/name-day/clone", json={"kee": "x"}), 422)) == [
        "/key",
        "/kee",
    ]


def test_every_write_is_audited(client: FlaskClient, engine: Engine) -> None:
    create(client)
    patch(client, subject="Another")
    client.post(f"{OCCASIONS}/name-day/pause")
    assert (
        client.post(f"{OCCASIONS}/name-day/resume").status_code == 200
    )  # without a body: all of it may be left out
    client.post(f"{OCCASIONS}/name-day/clone", json={"key": "copy"})
    client.post(f"{OCCASIONS}/name-day/archive")
    client.delete(f"{OCCASIONS}/copy")
    problem(client.patch(f"{OCCASIONS}/birthday", json={"subject": "{{"}), 422)
    statement = text(
        "SELECT actor, action, subject, before, after FROM audit_log WHERE kind = 'occasion' ORDER BY id"
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    assert [(row.action, row.subject) for row in rows] == [
        ("create", "name-day"),
        ("change", "name-day"),
        ("pause", "name-day"),
        ("resume", "name-day"),
        ("clone", "copy"),
        ("archive", "name-day"),
        ("delete", "copy"),
    ]
    assert {row.actor for row in rows} == {"anonymous"}
    assert (rows[1].before, rows[1].after) == ({"subject": "Your name day"}, {"subject": "Another"})


def test_groups_are_put_listed_and_removed(client: FlaskClient) -> None:
    groups = "/api/v1/occasion-groups"
    care = {"most_occurrences": 2, "period": "PT168H"}
    assert body_of(client.put(f"{groups}/care", json=care)) == {"group": {"key": "care", **care}}
    listed = body_of(client.get(groups))
    GroupListAnswer.model_validate(listed)
    assert listed == {"groups": [{"key": "care", **care}]}
    create(client, group="care")
    assert "care" in problem(client.delete(f"{groups}/care"), 409)["detail"]
    patch(client, group=None)
    assert body_of(client.delete(f"{groups}/care")) == {"removed": True}
    problem(client.delete(f"{groups}/care"), 404)
    assert places(problem(client.put(f"{groups}/a b", json=care), 422)) == ["/key"]
    wrong = {"most_occurrences": 0, "period": "weekly"}
    assert places(problem(client.put(f"{groups}/care", json=wrong), 422)) == ["/most_occurrences", "/period"]
