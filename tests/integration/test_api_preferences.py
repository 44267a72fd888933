"""The suppression list and the users' unsubscribes over the API."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from tests.fixtures.api import USERS, add_user, api_client, body_of, places, problem

LIST = "/api/v1/suppressions"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def test_an_address_is_put_on_the_list_once_and_taken_off(client: FlaskClient) -> None:
    response = client.post(LIST, json={"channel": "email", "address": "Ann@Example.org"})
    assert response.status_code == 201
    entry = body_of(response)["suppression"]
    assert entry == {
        "id": entry["id"],
        "channel": "email",
        "address": "ann@example.org",
        "reason": "manual",
        "source": "api",
        "created_at": "2027-03-01T12:00:00Z",
    }
    again = client.post(LIST, json={"channel": "email", "address": "ann@example.org", "reason": "bounced"})
    assert (again.status_code, body_of(again)["suppression"]) == (200, entry)
    assert body_of(client.get(LIST)) == {"suppressions": [entry], "next_cursor": None}
    assert client.delete(f"{LIST}/{entry['id']}").status_code == 200
    problem(client.delete(f"{LIST}/{entry['id']}"), 404)
    assert body_of(client.get(LIST))["suppressions"] == []


def test_the_list_is_filtered_and_paged(client: FlaskClient) -> None:
    for number in range(5):
        client.post(
            LIST,
            json={
                "channel": "email",
                "address": f"a{number}@example.org",
                "reason": "bounced" if number % 2 else "manual",
            },
        )
    client.post(LIST, json={"channel": "sms", "address": "+442071838750"})
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = body_of(client.get(LIST, query_string=query))
        seen += [each["address"] for each in page["suppressions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"a{number}@example.org" for number in range(5)] + ["+442071838750"]

    def listed(**query: str) -> list[str]:
        return [each["address"] for each in body_of(client.get(LIST, query_string=query))["suppressions"]]

    assert listed(channel="sms") == ["+442071838750"]
    assert listed(reason="bounced") == ["a1@example.org", "a3@example.org"]
    assert listed(channel="email", address="A1@example.org") == ["a1@example.org"]
    assert listed(channel="email", address="A1@example.org", reason="manual") == []
    assert listed(channel="email", address="\0") == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"channel": "fax", "address": "x"}, "/channel"),
        ({"channel": "email", "address": "x"}, "/address"),
        ({"channel": "email", "address": "a\u0000@example.org"}, "/address"),
        ({"channel": "email", "address": "\ud800@example.org"}, "/address"),
        ({"channel": "in_app", "address": "x"}, "/address"),
        ({"channel": "email", "address": "a@example.org", "reason": "boredom"}, "/reason"),
        ({"channel": "email", "address": "a@example.org", "source": "me"}, "/source"),
        ({"channel": "email"}, "/address"),
    ],
)
def test_what_is_no_address_of_a_channel_is_refused(
    client: FlaskClient, body: dict[str, str], place: str
) -> None:
    found = problem(client.post(LIST, json=body), 422)
    assert places(found) == [place]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("channel=fax", "channel"),
        ("reason=x", "reason"),
        ("address=a%40example.org", "channel"),
        ("cursor=x", "cursor"),
        ("limit=0", "limit"),
        ("sort=address", "sort"),
    ],
)
def test_a_wrong_query_is_refused_by_parameter(client: FlaskClient, query: str, place: str) -> None:
    assert places(problem(client.get(f"{LIST}?{query}"), 400)) == [place]


def test_a_user_is_unsubscribed_by_channel_and_occasion(client: FlaskClient) -> None:
    place = f"{USERS}/{add_user(client)['id']}/unsubscribes"
    assert body_of(client.get(place)) == {"unsubscribes": []}
    for _ in range(2):
        response = client.put(f"{place}/email/birthday")
        assert response.status_code == 200
        assert body_of(response)["unsubscribes"] == [
            {
                "channel": "email",
                "every_occasion": False,
                "occasion": "birthday",
                "source": "api",
                "created_at": "2027-03-01T12:00:00Z",
            }
        ]
    everything = body_of(client.put(f"{place}/sms"))["unsubscribes"]
    assert [(each["channel"], each["every_occasion"]) for each in everything] == [
        ("email", False),
        ("sms", True),
    ]
    for _ in range(2):
        left = body_of(client.delete(f"{place}/email/birthday"))["unsubscribes"]
        assert [each["channel"] for each in left] == ["sms"]


@pytest.mark.parametrize("path", ["fax", "email/nothing", "email/%00", "fax/birthday"])
def test_an_unknown_channel_or_occasion_is_not_found(client: FlaskClient, path: str) -> None:
    place = f"{USERS}/{add_user(client)['id']}/unsubscribes"
    problem(client.put(f"{place}/{path}"), 404)
    problem(client.delete(f"{place}/{path}"), 404)


def test_nobody_who_is_not_there_is_unsubscribed(client: FlaskClient) -> None:
    for response in (
        client.get(f"{USERS}/999/unsubscribes"),
        client.put(f"{USERS}/999/unsubscribes/email"),
        client.delete(f"{USERS}/999/unsubscribes/email"),
    ):
        problem(response, 404)
