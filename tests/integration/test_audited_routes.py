"""Every route that changes something is in the audit log: by whom, from where, and what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Engine, text
from werkzeug.routing import Rule

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from scheduler.domain.occasion import Channel
from scheduler.links import LinkSigner
from tests.fixtures.api import GUARDED, a_user, body_of, role_key
from tests.fixtures.one_of_everything import MARK, OCCASION, SEND, Places, made, one_of_everything
from tests.fixtures.pipeline import NINE
from tests.fixtures.waiting import wait_until

CHANGING: Final = {"POST", "PUT", "PATCH", "DELETE"}
ADDRESS: Final = "203.0.113.9"
SITE: Final = "https://daybreak.example"

CHANGES_NOTHING: Final = {"occurrences.preview_occasion"}
KEPT_ELSEWHERE: Final = {"callbacks.record_callback"}
"""Reports of providers are kept in `delivery_events`, as they came."""

Step = tuple[str, str, dict[str, Any], Any]
"""Whose turn it is: the endpoint, its method, arguments of its path, and a body."""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    """An admin, on an API that has links to unsubscribe."""
    settings = GUARDED.model_copy(update={"public_url": SITE})
    client = create_app(settings, engine, clock).test_client()
    key = role_key(engine, clock, Role.ADMIN)
    client.environ_base |= {"HTTP_AUTHORIZATION": f"Bearer {key}", "REMOTE_ADDR": ADDRESS}
    return client


def steps(client: FlaskClient, first: Places) -> Iterator[Step]:
    """A request to each route that changes something, which succeeds where its turn comes. A new one belongs here."""
    user, occasion = {"user_id": first.of["user_id"]}, {"key": OCCASION["key"]}
    letters = [{"letter_id": each} for each in first.letter_ids]
    yield "users.create_user", "POST", {}, a_user(7)
    yield "users.replace_user", "PUT", user, a_user(8)
    yield "users.change_user", "PATCH", user, {"first_name": "Eve"}
    external = {"external_id": "person-9"}
    fields = {name: value for name, value in a_user(9).items() if name != "external_id"}
    yield "users.put_external_user", "PUT", external, fields
    yield "users.change_external_user", "PATCH", external, {"first_name": "Eve"}
    for arguments in ({"channel": "email"}, {"channel": "sms", "occasion": "birthday"}):
        yield "preferences.unsubscribe_external", "PUT", external | arguments, None
        yield "preferences.resubscribe_external", "DELETE", external | arguments, None
    yield "users.delete_external_user", "DELETE", external, None
    yield "imports.import_from_body", "POST", {}, json.dumps(a_user(10)).encode()
    for arguments in ({"channel": "email"}, {"channel": "sms", "occasion": "birthday"}):
        yield "preferences.unsubscribe", "PUT", user | arguments, None
        yield "preferences.resubscribe", "DELETE", user | arguments, None
    yield "preferences.suppress", "POST", {}, {"channel": "email", "address": "gone@example.org"}
    suppressed = {"suppression_id": first.of["suppression_id"]}
    yield "preferences.unsuppress", "DELETE", suppressed, None
    yield "inbox.mark_entry_read", "POST", user | {"entry_id": first.of["entry_id"]}, None
    links = LinkSigner(GUARDED.secret_key or SecretStr(""), SITE)
    link = links.unsubscribe_url(1, first.of["user_id"], Channel.EMAIL, 1)
    token = {"token": link.rpartition("/")[2]}
    yield "unsubscribe.answer", "POST", token, {"List-Unsubscribe": "One-Click"}

    yield "occasions.create_occasion", "POST", {}, OCCASION | {"key": "other"}
    yield "occasions.replace_occasion", "PUT", occasion, OCCASION | {"name": "Jubilees"}
    yield "occasions.change_occasion", "PATCH", occasion, {"name": "Jubilee"}
    yield "occasions.clone_occasion", "POST", occasion, {"key": "copy"}
    yield "occasions.pause_occasion", "POST", occasion, None
    yield "occasions.resume_occasion", "POST", occasion, {"backlog": "skip"}
    yield "occasions.archive_occasion", "POST", occasion, None
    yield "occasions.unarchive_occasion", "POST", occasion, None
    yield "occasions.delete_occasion", "DELETE", occasion, None
    yield "occasion_groups.put_group", "PUT", {"key": "group"}, {"most_occurrences": 9, "period": "P9D"}
    yield "occasion_groups.remove_group", "DELETE", {"key": "group"}, None

    send = SEND | {"to": {"external_ids": ["person-7"]}, "at": "2027-03-02T12:00:00Z"}
    yield "sends.send_messages", "POST", {}, send
    yield "sends.cancel_send", "POST", {"send_id": body_of(client.get(SENDS))["sends"][0]["id"]}, None
    again = made(client.post("/api/v1/messages", json=send))
    yield "messages.cancel_message", "POST", {"message_id": again["message_ids"][0]}, None
    dead = body_of(client.get("/api/v1/messages?state=dead"))["messages"]
    yield "messages.retry_message", "POST", {"message_id": dead[0]["id"]}, None
    left = [each["id"] for each in body_of(client.get("/api/v1/dead-letters"))["dead_letters"]]
    letters = [each for each in letters if each["letter_id"] in left]
    yield "dead_letters.replay_dead_letter", "POST", letters[0], None
    yield "dead_letters.discard_dead_letter", "POST", letters[1], {"reason": "old"}
    one = {"filter": {"user_id": body_of(client.get("/api/v1/dead-letters"))["dead_letters"][0]["user_id"]}}
    yield "dead_letters.discard_dead_letters", "POST", {}, one | {"reason": "old"}
    yield "dead_letters.replay_dead_letters", "POST", {}, {"filter": {"all": True}}

    provider = {"name": body_of(client.get("/api/v1/providers"))["providers"][0]["name"]}
    yield "providers.hold_provider", "POST", provider, {"reason": "maintenance"}
    yield "providers.resume_provider", "POST", provider, None
    yield "jobs.run_job", "POST", {"name": "recover"}, None
    yield "api_keys.create_key", "POST", {}, {"name": "program", "role": "viewer"}
    yield "api_keys.rotate_key", "POST", {"key_id": first.of["key_id"]}, {}
    yield "api_keys.revoke_key", "DELETE", {"key_id": first.of["key_id"]}, None
    yield "privacy.erase_person", "POST", user, {"reason": "asked to be"}
    yield "privacy.erase_external_person", "POST", {"external_id": "person-10"}, {"reason": "asked to be"}
    yield "privacy.allow_person", "POST", {}, {"external_id": "person-8", "reason": "is back"}
    person = body_of(client.get("/api/v1/users/external/person-7"))["user"]
    yield "users.delete_user", "DELETE", {"user_id": person["id"]}, None


SENDS: Final = "/api/v1/messages/sends"


def changing(client: FlaskClient) -> dict[tuple[str, str, frozenset[str]], Rule]:
    return {
        (rule.endpoint, method, frozenset(rule.arguments)): rule
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) & CHANGING
        if rule.endpoint not in CHANGES_NOTHING | KEPT_ELSEWHERE
    }


def ask(client: FlaskClient, rule: Rule, step: Step, request_id: str) -> int:
    endpoint, method, arguments, body = step
    built = rule.build(arguments, append_unknown=False)
    assert built is not None
    if endpoint == "unsubscribe.answer":
        sent: dict[str, Any] = {"data": body}
    elif isinstance(body, bytes):
        sent = {"data": body, "content_type": "application/x-ndjson"}
    else:
        media_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        sent = {} if body is None else {"data": json.dumps(body), "content_type": media_type}
    with client.open(built[1], method=method, headers={"X-Request-Id": request_id}, **sent) as answer:
        assert answer.status_code < 300, f"{step}: {answer.get_data(as_text=True)}"
        return answer.status_code


def told(engine: Engine, request_id: str) -> list[Any]:
    with engine.connect() as connection:
        statement = text("SELECT * FROM audit_log WHERE request_id = :request_id")
        return list(connection.execute(statement, {"request_id": request_id}))


def test_every_route_that_changes_something_is_in_the_audit_log(
    engine: Engine, clock: SettableClock, client: FlaskClient
) -> None:
    routes = changing(client)
    first = one_of_everything(engine, clock, client, dead=6)
    asked = set()
    for number, step in enumerate(steps(client, first)):
        endpoint, method, arguments, _ = step
        route = endpoint, method, frozenset(arguments)
        request_id = f"step-{number}"
        ask(client, routes[route], step, request_id)
        entries = wait_until(lambda: told(engine, request_id), f"{step} is told", seconds=5)  # noqa: B023
        for entry in entries:
            is_recipient = endpoint == "unsubscribe.answer"
            assert entry.actor == ("recipient" if is_recipient else "key:1"), step
            assert entry.address == (None if is_recipient else ADDRESS), step
            assert (entry.tenant_id, entry.at) == (1, NINE), step
            assert entry.before or entry.after, step
        asked.add(route)
    assert set(routes) == asked, "give the new route a step"
    with engine.connect() as connection:
        whole = "\n".join(connection.execute(text("SELECT audit_log::text FROM audit_log")).scalars())
    assert not [word for word in ("Bearer", "dbk_", "Authorization") if word in whole]
    assert MARK in whole
