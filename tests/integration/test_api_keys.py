"""API keys over HTTP: made, listed, rotated, revoked, and never more than their maker has."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.models.keys import IssuedKeyAnswer, KeyListAnswer, OneKeyAnswer
from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM, Role, Scope
from scheduler.keys import NewKey
from scheduler.service import keys_for
from tests.fixtures.api import GUARDED, USERS, body_of, guarded_client, places, problem, role_client

KEYS = "/api/v1/api-keys"


@pytest.fixture
def admin(engine: Engine, clock: SettableClock) -> FlaskClient:
    return role_client(engine, clock, Role.ADMIN)


def made(client: FlaskClient, **body: Any) -> dict[str, Any]:
    answer = client.post(KEYS, json={"name": "program", "role": "viewer"} | body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = IssuedKeyAnswer.model_validate(body_of(answer), extra="forbid").model_dump(
        mode="json"
    )
    return found


def works(engine: Engine, clock: SettableClock, key: str) -> bool:
    """Whether a process that has not seen it before lets its holder in."""
    return guarded_client(engine, clock, key).get(USERS).status_code == 200


def test_a_key_is_shown_once_and_stored_as_a_keyed_hash(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    issued = made(admin)
    assert works(engine, clock, issued["key"])
    secret = issued["key"].rpartition("_")[2]
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT api_keys::text, key_hash FROM api_keys WHERE name = 'program'")
        ).one()
        audited = connection.execute(text("SELECT audit_log::text FROM audit_log")).scalars().all()
    assert bytes(row.key_hash) == keys_for(GUARDED, engine, clock).hashed(issued["key"])
    listed = admin.get(KEYS)
    one = admin.get(f"{KEYS}/{issued['api_key']['id']}")
    assert not [shown for shown in (row[0], *audited, listed.text, one.text) if secret in shown]
    KeyListAnswer.model_validate(body_of(listed), extra="forbid")
    assert OneKeyAnswer.model_validate(body_of(one), extra="forbid").api_key.prefix in issued["key"]


def test_keys_are_listed_page_by_page(admin: FlaskClient) -> None:
    for number in range(4):
        made(admin, name=f"program {number}")
    first = body_of(admin.get(f"{KEYS}?limit=3"))
    second = body_of(admin.get(f"{KEYS}?limit=3&cursor={first['next_cursor']}"))
    names = [key["name"] for key in first["api_keys"] + second["api_keys"]]
    assert names == ["admin", "program 0", "program 1", "program 2", "program 3"]
    assert second["next_cursor"] is None


def test_a_key_may_have_single_scopes_and_an_end(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    ends = clock.now() + timedelta(days=1)
    issued = made(admin, role=None, scopes=["users:read"], expires_at=ends.isoformat())
    assert issued["api_key"]["scopes"] == ["users:read"]
    client = guarded_client(engine, clock, issued["key"])
    assert client.get(USERS).status_code == 200
    assert problem(client.get("/api/v1/messages"), 403)["scope"] == "messages:read"
    clock.set(ends)
    problem(client.get(USERS), 401)
    assert body_of(admin.get(f"{KEYS}/{issued['api_key']['id']}"))["api_key"]["state"] == "expired"


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, {"/name"}),
        ({"name": "x"}, {""}),
        ({"name": "x", "role": "viewer", "scopes": ["users:read"]}, {""}),
        ({"name": "", "role": "queen"}, {"/name", "/role"}),
        ({"name": "x", "scopes": []}, {"/scopes"}),
        ({"name": "x", "scopes": ["users:read", "all"]}, {"/scopes/1"}),
        ({"name": "x", "role": "viewer", "expires_at": "2027-03-01T12:00:00Z"}, {"/expires_at"}),
        ({"name": "x", "role": "viewer", "expires_at": "tomorrow"}, {"/expires_at"}),
        ({"name": "x", "role": "viewer", "tenant_id": 2}, {"/tenant_id"}),
    ],
)
def test_what_is_wrong_with_a_key_is_said_at_its_place(
    admin: FlaskClient, body: dict[str, Any], pointers: set[str]
) -> None:
    assert set(places(problem(admin.post(KEYS, json=body), 422))) == pointers


def test_rotation_leaves_both_valid_for_the_overlap(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    old = made(admin, expires_at=(clock.now() + timedelta(days=90)).isoformat())
    clock.advance(timedelta(days=80))
    path = f"{KEYS}/{old['api_key']['id']}"
    answer = admin.post(f"{path}/rotate", json={"overlap_seconds": 3600})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    new = body_of(answer)
    assert new["api_key"]["expires_at"] == "2027-08-18T12:00:00Z", "as long a life as the old one's"
    assert works(engine, clock, old["key"])
    assert works(engine, clock, new["key"])
    replaced = body_of(admin.get(path))["api_key"]
    assert replaced["replaced_by"] == new["api_key"]["id"]
    problem(admin.post(f"{path}/rotate"), 409)
    clock.advance(timedelta(hours=1))
    assert not works(engine, clock, old["key"])
    assert works(engine, clock, new["key"])


def test_rotation_never_lengthens_the_old_key(admin: FlaskClient, clock: SettableClock) -> None:
    ends = clock.now() + timedelta(minutes=10)
    old = made(admin, expires_at=ends.isoformat())
    admin.post(f"{KEYS}/{old['api_key']['id']}/rotate", json={"overlap_seconds": 86_400})
    assert (
        body_of(admin.get(f"{KEYS}/{old['api_key']['id']}"))["api_key"]["expires_at"]
        == "2027-03-01T12:10:00Z"
    )


def test_revoking_is_at_once_and_may_be_repeated(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    issued = made(admin)
    path = f"{KEYS}/{issued['api_key']['id']}"
    first = body_of(admin.delete(path))["api_key"]
    clock.advance(timedelta(minutes=1))
    assert body_of(admin.delete(path))["api_key"] | {"last_used_at": None} == first
    assert first["state"] == "revoked"
    [told] = body_of(admin.get("/api/v1/audit-log?action=revoke"))["entries"]
    assert told["after"] == {"revoked_at": first["revoked_at"]}
    assert not works(engine, clock, issued["key"])
    problem(admin.post(f"{path}/rotate", json={}), 409)
    problem(admin.delete(f"{KEYS}/999"), 404)


def test_nobody_gives_away_what_they_do_not_have(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    strong = made(admin, role="admin")["api_key"]["id"]
    weak = keys_for(GUARDED, engine, clock).create(
        SYSTEM, NewKey("weak", scopes=frozenset({Scope.KEYS_MANAGE, Scope.USERS_READ}))
    )
    client = guarded_client(engine, clock, weak.text)
    for body in ({"role": "viewer"}, {"scopes": ["users:read", "users:write"]}):
        problem(client.post(KEYS, json={"name": "more"} | body), 403)
    assert client.post(KEYS, json={"name": "same", "scopes": ["users:read"]}).status_code == 201
    problem(client.post(f"{KEYS}/{strong}/rotate", json={}), 403)
    assert body_of(admin.get(f"{KEYS}/{strong}"))["api_key"]["replaced_by"] is None
