"""Look ahead: an occasion before it is saved, and the next occurrences of a user."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.models.occasions import OccurrencesAnswer, PreviewAnswer
from scheduler.clock import SettableClock
from tests.fixtures.api import a_user, add_user, api_client, body_of, places, problem

PREVIEW = "/api/v1/occasions/preview"
OCCASION: dict[str, Any] = {
    "key": "jubilee",
    "name": "Jubilee",
    "rule": {"kind": "yearly", "date_name": "birthday"},
    "local_times": ["02:30"],
    "subject": "Well, {{ first_name }}",
    "body": "You are {{ dates.birthday | age }} on {{ local_date }}.",
    "translations": {
        "de": {"subject": "Na, {{ first_name }}", "body": "Du bist {{ dates.birthday | age }}."}
    },
}


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def preview(client: FlaskClient, occasion: dict[str, Any] | None = None, **body: Any) -> list[dict[str, Any]]:
    response = client.post(PREVIEW, json={"occasion": OCCASION | (occasion or {})} | body)
    assert response.status_code == 200, response.text
    answer = body_of(response)
    PreviewAnswer.model_validate(answer)
    users: list[dict[str, Any]] = answer["users"]
    return users


def test_who_when_and_what_for_the_next_few(client: FlaskClient, engine: Engine) -> None:
    ann = add_user(client, 1, timezone="Europe/Berlin", locale="de", dates={"birthday": "1992-02-29"})
    [user] = preview(client, user_ids=[ann["id"]], next=2)
    assert (user["user_id"], user["external_id"], user["channels"]) == (ann["id"], "person-1", ["email"])
    assert [
        (each["local_date"], each["date_rule"], each["time_rule"], each["send_at"], each["local"])
        for each in user["next"]
    ] == [
        ("2028-02-29", "exact", "exact", "2028-02-29T01:30:00Z", "2028-02-29T02:30:00+01:00"),
        ("2029-02-28", "leap_feb28", "exact", "2029-02-28T01:30:00Z", "2029-02-28T02:30:00+01:00"),
    ]
    assert user["next"][0]["text"] == {"subject": "Na, Ann", "body": "Du bist 36.", "html": None}
    assert user["odd_days"] == []
    with engine.connect() as connection:
        counts = "SELECT (SELECT count(*) FROM occasions), (SELECT count(*) FROM audit_log WHERE kind = 'occasion')"
        assert tuple(connection.execute(text(counts)).one()) == (2, 0)


def test_odd_days_are_shown_with_the_rule_that_holds(client: FlaskClient) -> None:
    [user] = preview(client, users=[a_user(timezone="Europe/Berlin")], next=0, odd_days=True)
    assert user["user_id"] is None
    shown = [(each["day"], each["local_date"], each["time_rule"], each["local"]) for each in user["odd_days"]]
    assert ("leap_day", "2028-02-29", "exact", "2028-02-29T02:30:00+01:00") in shown
    assert ("no_leap_day", "2029-02-28", "exact", "2029-02-28T02:30:00+01:00") in shown
    assert ("clocks_forward", "2027-03-28", "gap_forward", "2027-03-28T03:30:00+02:00") in shown
    assert ("clocks_back", "2027-10-31", "overlap_first", "2027-10-31T02:30:00+02:00") in shown
    [apia] = preview(client, {"gap": "skip"}, users=[a_user(timezone="Pacific/Apia")], next=0, odd_days=True)
    [missing] = [each for each in apia["odd_days"] if each["day"] == "missing_date"]
    assert (missing["local_date"], missing["send_at"], missing["text"]) == ("2011-12-30", None, None)


def test_quiet_hours_are_shown(client: FlaskClient) -> None:
    [user] = preview(client, {"quiet_hours": "22:00-07:00"}, users=[a_user()], next=1)
    assert user["next"][0]["put_off_until"] == "2027-03-02T07:00:00Z"


def test_without_users_it_shows_some_of_those_there_are(client: FlaskClient) -> None:
    [sample] = preview(client)
    assert (sample["user_id"], len(sample["next"])) == (None, 3)
    for number in range(5):
        add_user(client, number, dates={})
    users = preview(client)
    assert [user["external_id"] for user in users] == ["person-0", "person-1", "person-2"]
    assert {(user["lacks_date"], len(user["next"])) for user in users} == {(True, 0)}


def test_all_that_saving_would_refuse_is_refused_here(client: FlaskClient) -> None:
    wrong = OCCASION | {"body": "{{ nobody }}", "group": "none"}
    assert places(problem(client.post(PREVIEW, json={"occasion": wrong}), 422)) == [
        "/occasion/body",
        "/occasion/group",
    ]
    wrong = OCCASION | {"rule": {"kind": "fixed", "month": 2, "day": 30}, "bdy": ""}
    assert places(problem(client.post(PREVIEW, json={"occasion": wrong}), 422)) == [
        "/occasion/rule",
        "/occasion/bdy",
    ]
    response = client.post(PREVIEW, json={"occasion": OCCASION, "user_ids": [999]})
    assert places(problem(response, 422)) == ["/user_ids/0"]


def test_the_next_occurrences_of_a_user_name_their_messages(client: FlaskClient) -> None:
    user = add_user(client, 1, dates={"birthday": "1990-03-02", "anniversary": "2015-09-05"})
    path = f"/api/v1/users/{user['id']}/occurrences"
    body = body_of(client.get(path, query_string={"next": 3}))
    OccurrencesAnswer.model_validate(body)
    assert [(each["occasion"], each["send_at"]) for each in body["occurrences"]] == [
        ("birthday", "2027-03-02T09:00:00Z"),
        ("anniversary", "2027-09-05T08:00:00Z"),
        ("birthday", "2028-03-02T09:00:00Z"),
    ]
    [planned] = body["occurrences"][0]["messages"]
    assert planned == {"channel": "email", "id": f"1.{user['id']}.20270302.0.email", "state": "scheduled"} | {
        "withheld": None
    }
    assert body_of(client.get(f"/api/v1/messages/{planned['id']}"))["message"]["state"] == "scheduled"
    assert body["occurrences"][1]["messages"][0]["state"] is None

    def withheld() -> list[str | None]:
        shown = OccurrencesAnswer.model_validate_json(client.get(f"{path}?next=2").data).occurrences
        return [message.withheld for each in shown for message in each.messages]

    assert withheld() == [None, None]
    client.put(f"/api/v1/users/{user['id']}/unsubscribes/email/birthday")
    assert withheld() == ["unsubscribed", None]
    client.delete(f"/api/v1/users/{user['id']}/unsubscribes/email/birthday")
    client.post("/api/v1/suppressions", json={"channel": "email", "address": user["email"].upper()})
    assert set(withheld()) == {"suppressed"}
    problem(client.get("/api/v1/users/999/occurrences"), 404)
    assert places(problem(client.get(path, query_string={"next": 0}), 400)) == ["next"]
