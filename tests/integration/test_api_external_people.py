"""What comes to users, what they want no more of, and their erasure, by the id of the caller's own system."""

from typing import Final
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from tests.fixtures.api import USERS, add_user, body_of, problem, role_client

SEVENTH: Final = f"{USERS}/external/person-7"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return role_client(engine, clock, Role.ADMIN)


@pytest.mark.parametrize("external_id", ["person-7", "a/b ö", "erase", "x/occurrences"])
def test_each_route_does_what_its_twin_by_id_does(client: FlaskClient, external_id: str) -> None:
    user_id = add_user(client, external_id=external_id)["id"]
    by_id, external = f"{USERS}/{user_id}", f"{USERS}/external/{quote(external_id, safe='')}"
    shown = body_of(client.get(f"{external}/occurrences?next=3"))
    assert len(shown["occurrences"]) == 3
    assert shown == body_of(client.get(f"{by_id}/occurrences?next=3"))
    for what in ("email", "email/birthday", "sms"):
        answer = client.put(f"{external}/unsubscribes/{what}")
        assert body_of(answer) == body_of(client.get(f"{by_id}/unsubscribes")), what
    assert len(body_of(client.get(f"{external}/unsubscribes"))["unsubscribes"]) == 3
    for what in ("email", "email/birthday"):
        assert client.delete(f"{external}/unsubscribes/{what}").status_code == 200
    [left] = body_of(client.get(f"{by_id}/unsubscribes"))["unsubscribes"]
    assert (left["channel"], left["every_occasion"]) == ("sms", True)


def test_a_person_is_exported_and_erased_also_after_a_deletion(client: FlaskClient) -> None:
    user_id = add_user(client, 7)["id"]
    assert body_of(client.get(f"{SEVENTH}/privacy-export"))["user"]["id"] == user_id
    client.delete(SEVENTH)
    exported = client.get(f"{SEVENTH}/privacy-export")
    assert body_of(exported)["user"] is None
    assert f'filename="user-{user_id}.json"' in exported.headers["Content-Disposition"]
    erased = body_of(client.post(f"{SEVENTH}/erase", json={"reason": "asked to be"}))
    assert (erased["user_id"], erased["already"]) == (user_id, False)
    problem(client.post(f"{SEVENTH}/erase", json={"reason": "asked to be"}), 404)
    problem(client.put(SEVENTH, json={"first_name": "Ann", "timezone": "UTC"}), 409)


@pytest.mark.parametrize("external_id", ["nobody", "a%00b"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "occurrences"),
        ("GET", "unsubscribes"),
        ("PUT", "unsubscribes/email"),
        ("DELETE", "unsubscribes/email/birthday"),
        ("GET", "privacy-export"),
        ("POST", "erase"),
    ],
)
def test_nobody_is_known_by_another_id(client: FlaskClient, external_id: str, method: str, path: str) -> None:
    body = {"reason": "asked to be"} if method == "POST" else None
    problem(client.open(f"{USERS}/external/{external_id}/{path}", method=method, json=body), 404)
