"""The attempts at a message, as the API and a person's export tell of them, through the real pipeline."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.callbacks import Callbacks
from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel
from scheduler.provider_settings import ChannelRoute, ProviderEntry, ProviderPlan
from tests.fixtures.api import body_of, role_client
from tests.fixtures.dead_letters import deliver_due
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import LEASE, NINE, Pipeline
from tests.fixtures.providers import AT, ScriptedProvider, failed
from worker.channels.port import Accepted, FailureKind, NotAttempted, Outcome

ACCEPTED_AT = "2027-03-01T09:00:05.250000Z"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return role_client(engine, clock, Role.ADMIN)


def attempts(client: FlaskClient, user_id: int) -> list[dict[str, Any]]:
    """What the API tells of the message of a user, which the export tells as well."""
    message = body_of(client.get(f"/api/v1/messages/1.{user_id}.20270301.0.email"))["message"]
    exported = body_of(client.get(f"/api/v1/users/{user_id}/privacy-export"))["messages"]
    [same] = [each for each in exported if each["id"] == message["id"]]
    shared = message.keys() & same.keys()
    assert message.keys() - shared == {"dead_letter"}
    assert {name: same[name] for name in shared} == {name: message[name] for name in shared}
    found: list[dict[str, Any]] = message["attempts"]
    return found


def told(client: FlaskClient, user_id: int) -> list[tuple[int, str, str | None, str | None]]:
    return [
        (each["number"], each["outcome"], each["provider"], each["at"]) for each in attempts(client, user_id)
    ]


def test_a_message_tells_who_took_it_and_what_failed_before(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    assert attempts(client, user_id) == []
    deliver_due(pipeline, ScriptedProvider(lambda _: failed(), name="first"))
    [failure] = attempts(client, user_id)
    assert (failure["kind"], failure["category"]) == ("retryable", "http_503")
    clock.advance(timedelta(minutes=10))
    during: list[tuple[int, str, str | None, str | None]] = []
    accepted_at = clock.now() + timedelta(seconds=1)
    later = ScriptedProvider(
        lambda _: Accepted(accepted_at), lambda: during.extend(told(client, user_id)), name="second"
    )
    deliver_due(pipeline, later)
    first = (1, "failed", "first", ACCEPTED_AT)
    assert during == [first, (2, "under_way", "second", None)]
    assert told(client, user_id) == [first, (2, "accepted", "second", "2027-03-01T09:10:01Z")]
    assert attempts(client, user_id)[1]["category"] is None


def test_a_batch_that_was_handed_back_names_the_provider_of_its_last_turn_alone(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    first, second = pipeline.add_due_people(2)

    def half(message: Any) -> Outcome:
        return Accepted(AT) if f".{first}." in message.id else NotAttempted()

    deliver_due(pipeline, ScriptedProvider(half, name="first"))
    clock.advance(timedelta(minutes=1))
    again = clock.now() + timedelta(seconds=1)
    deliver_due(pipeline, ScriptedProvider(lambda _: Accepted(again), name="second"))
    assert pipeline.batch_states() == {"done": 1}
    assert told(client, first) == [(1, "accepted", None, ACCEPTED_AT)]
    assert told(client, second) == [(1, "accepted", "second", "2027-03-01T09:01:01Z")]


def test_what_a_lost_worker_held_is_an_attempt_of_unknown_outcome(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    pipeline.enqueue()
    with pytest.raises(ZeroDivisionError):
        pipeline.deliverer(ScriptedProvider(lambda _: 1 / 0)).deliver(pipeline.lease(), Signal())  # type: ignore[arg-type,return-value]
    clock.advance(LEASE + timedelta(seconds=1))
    pipeline.recover()
    again = clock.now() + timedelta(seconds=1)
    deliver_due(pipeline, ScriptedProvider(lambda _: Accepted(again)))
    assert [each[:3] for each in told(client, user_id)] == [
        (1, "unknown", "scripted"),
        (2, "accepted", "scripted"),
    ]


def test_a_report_names_who_accepted_what_nobody_knew_of(
    client: FlaskClient, pipeline: Pipeline, engine: Engine, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    deliver_due(pipeline, ScriptedProvider(lambda _: failed(FailureKind.UNKNOWN, "timeout")))
    plan = ProviderPlan(
        {"scripted": ProviderEntry("scripted", "http")}, {Channel.EMAIL: ChannelRoute(("scripted",))}
    )
    key = MessageKey(1, user_id, NINE.date(), 0, Channel.EMAIL)
    arrived = DeliveryEvent(
        "e1", key, DeliveryEventKind.DELIVERED, AT + timedelta(minutes=3), "250", False, None
    )
    Callbacks(engine, clock, plan).record("scripted", [arrived])
    assert pipeline.states() == {"delivered": 1}
    assert [each[:3] for each in told(client, user_id)] == [(1, "unknown", "scripted")]
