"""The signed endpoints for what providers report, on the real application."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.settings import Settings
from scheduler.standard_webhooks import sign
from tests.fixtures.api import body_of, problem
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import ScriptedProvider

SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
PLAN = f"""
[providers.own]
kind = "http"
url = "http://127.0.0.1:9/"
callback_secret = "{SECRET}"

[providers.silent]
kind = "http"
url = "http://127.0.0.1:9/"

[providers.relay]
kind = "smtp"

[channels.email]
providers = ["own", "silent", "relay"]
"""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock, tmp_path: Path) -> FlaskClient:
    file = tmp_path / "providers.toml"
    file.write_text(PLAN)
    settings = Settings(api_authentication="none", public_url="https://daybreak.example", providers_file=file)
    return create_app(settings, engine, clock).test_client()


def call(client: FlaskClient, body: bytes, *, to: str = "own", signed: bytes | None = None) -> TestResponse:
    seconds = int(NINE.timestamp())
    signature = sign(SECRET, "call-1", seconds, body if signed is None else signed)
    headers = {"webhook-id": "call-1", "webhook-timestamp": str(seconds), "webhook-signature": signature}
    return client.post(f"/callbacks/{to}", data=body, headers=headers, content_type="application/json")


def delivered(message_id: str) -> bytes:
    return json.dumps({"events": [{"message_id": message_id, "event": "delivered"}]}).encode()


def test_a_signed_event_moves_its_message_once(
    engine: Engine, clock: SettableClock, client: FlaskClient
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(1)
    pipeline.enqueue()
    provider = ScriptedProvider()
    pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    [message_id] = provider.keys
    assert body_of(call(client, delivered(message_id))) == {"recorded": 1, "ignored": 0, "applied": 1}
    assert body_of(call(client, delivered(message_id))) == {"recorded": 0, "ignored": 1, "applied": 0}
    assert pipeline.states() == {"delivered": 1}


def test_what_is_not_signed_is_refused_and_says_no_more_than_that(client: FlaskClient) -> None:
    refused = problem(call(client, delivered("1.1.20270301.0.email"), signed=b"other"), 401)
    assert SECRET not in json.dumps(refused)
    problem(client.post("/callbacks/own", data=b"{}", content_type="application/json"), 401)


@pytest.mark.parametrize("provider", ["unknown", "silent", "relay"])
def test_providers_without_callbacks_cannot_be_told_apart(client: FlaskClient, provider: str) -> None:
    answer = problem(call(client, b"{}", to=provider), 404)
    assert answer["detail"] == f"no provider with callbacks '{provider}'"


def test_bodies_that_make_no_sense_are_the_callers_fault(client: FlaskClient) -> None:
    problem(call(client, b"{"), 400)
    problem(call(client, b"[" * 50_000), 400)
    problem(call(client, b'{"events": [{"event": "opened"}]}'), 422)
    problem(call(client, b" " * 1_048_577), 413)
