"""Providers on hold: who may say so, and that no worker gives them anything until they are resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from api.app import create_app
from api.models.providers import OneProviderAnswer, ProviderListAnswer
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.provider_file import load_provider_file
from scheduler.provider_settings import ProviderPlan
from scheduler.settings import Settings
from tests.fixtures.api import body_of, places, problem
from tests.fixtures.messages import Signal, outgoing_many
from tests.fixtures.pipeline import LATENESS_LIMIT, NINE, Pipeline
from worker.breaker import CircuitPolicy
from worker.channels.port import Accepted, NotAttempted, Provider
from worker.holds import LOOK_EVERY
from worker.providers import ProviderSet

PROVIDERS: Final = "/api/v1/providers"
PLAN: Final = """
[providers.main]
kind = "outbox"
[providers.backup]
kind = "outbox"
[providers.texts]
kind = "outbox"
[channels.email]
providers = ["main", "backup"]
[channels.sms]
providers = ["texts"]
"""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "providers.toml"
    file.write_text(PLAN)
    return file


@pytest.fixture
def client(engine: Engine, clock: SettableClock, file: Path) -> FlaskClient:
    settings = Settings(api_authentication="none", providers_file=file)
    return create_app(settings, engine, clock).test_client()


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    return tmp_path / "outbox.ndjson"


@pytest.fixture
def workers(engine: Engine, clock: SettableClock, file: Path, outbox: Path) -> ProviderSet:
    """The providers of a worker process."""
    return ProviderSet(plan_of(file), engine, clock, outbox, CircuitPolicy())


def plan_of(file: Path) -> ProviderPlan:
    return load_provider_file(file, {})


def hold(client: FlaskClient, name: str, reason: str = "the account is being moved") -> dict[str, Any]:
    answer = client.post(f"{PROVIDERS}/{name}/hold", json={"reason": reason})
    assert answer.status_code == 200, answer.text
    OneProviderAnswer.model_validate(body_of(answer))
    provider: dict[str, Any] = body_of(answer)["provider"]
    return provider


def resume(client: FlaskClient, name: str) -> dict[str, Any]:
    provider: dict[str, Any] = body_of(client.post(f"{PROVIDERS}/{name}/resume"))["provider"]
    return provider


def sent_by(outbox: Path) -> list[str]:
    return outbox.read_text().splitlines() if outbox.exists() else []


def test_a_hold_is_shown_with_who_and_why(client: FlaskClient, pipeline: Pipeline) -> None:
    held = {"held_at": "2027-03-01T09:00:00Z", "held_by": "anonymous", "reason": "the account is being moved"}
    assert hold(client, "main")["hold"] == held
    assert body_of(client.get(f"{PROVIDERS}/main"))["provider"]["hold"] == held
    listed = body_of(client.get(PROVIDERS))
    ProviderListAnswer.model_validate(listed)
    assert {each["name"]: each["hold"] for each in listed["providers"]} == {
        "main": held,
        "backup": None,
        "texts": None,
        "inbox": None,
    }
    assert hold(client, "main", "it takes longer")["hold"] == held | {"reason": "it takes longer"}
    assert resume(client, "main")["hold"] is None
    assert resume(client, "main")["hold"] is None
    rows = pipeline.rows("SELECT action, subject FROM audit_log WHERE kind = 'provider' ORDER BY id")
    assert [tuple(row) for row in rows] == [("hold", "main"), ("hold", "main"), ("resume", "main")]


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


def test_what_is_no_provider_or_no_reason_is_refused(client: FlaskClient) -> None:
    for method, path in (("get", "nobody"), ("post", "nobody/hold"), ("post", "nobody/resume")):
        problem(getattr(client, method)(f"{PROVIDERS}/{path}", json={"reason": "x"}), 404)
    for body, place in (({}, "/reason"), ({"reason": " "}, "/reason"), ({"reason": "x", "why": 1}, "/why")):
        assert places(problem(client.post(f"{PROVIDERS}/main/hold", json=body), 422)) == [place]


def test_a_worker_gives_a_held_provider_nothing_until_it_is_resumed(
    client: FlaskClient, workers: ProviderSet, clock: SettableClock, outbox: Path
) -> None:
    texts = workers.for_thread()[Channel.SMS]
    assert texts.pauses_until() is None
    hold(client, "texts")
    clock.advance(LOOK_EVERY)
    assert texts.pauses_until() == clock.now() + LOOK_EVERY
    assert texts.deliver(outgoing_many(3), Signal()) == [NotAttempted(clock.now() + LOOK_EVERY)] * 3
    assert sent_by(outbox) == []
    resume(client, "texts")
    clock.advance(LOOK_EVERY)
    assert texts.pauses_until() is None
    assert all(isinstance(each, Accepted) for each in texts.deliver(outgoing_many(3), Signal()))
    texts.close()


def test_messages_fail_over_from_a_held_provider(
    client: FlaskClient, workers: ProviderSet, clock: SettableClock, outbox: Path
) -> None:
    hold(client, "main")
    email = workers.for_thread()[Channel.EMAIL]
    assert email.pauses_until() is None
    assert all(isinstance(each, Accepted) for each in email.deliver(outgoing_many(2), Signal()))
    assert len(sent_by(outbox)) == 2
    hold(client, "backup")
    clock.advance(LOOK_EVERY)
    assert email.pauses_until() is not None
    assert all(isinstance(each, NotAttempted) for each in email.deliver(outgoing_many(2), Signal()))
    email.close()


def test_a_held_provider_burns_no_attempt(
    client: FlaskClient, pipeline: Pipeline, workers: ProviderSet, clock: SettableClock, outbox: Path
) -> None:
    hold(client, "main")
    hold(client, "backup")
    pipeline.add_due_people(3)
    providers = workers.for_thread()
    deliverer = pipeline.deliverer(providers)
    assert Channel.EMAIL in deliverer.paused_channels()
    pipeline.enqueue()
    deliverer.deliver(pipeline.lease(), Signal())
    [batch] = pipeline.rows("SELECT CAST(state AS text) AS state, due_at FROM batches")
    assert tuple(batch) == ("pending", NINE + LOOK_EVERY)
    assert pipeline.rows("SELECT DISTINCT attempt FROM message_log")[0].attempt == 0
    resume(client, "main")
    clock.advance(LOOK_EVERY)
    pipeline.enqueue()
    deliverer.deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"sent": 3}
    close(providers)


def test_what_waits_for_a_held_provider_expires_by_its_limit(
    client: FlaskClient, pipeline: Pipeline, workers: ProviderSet, clock: SettableClock, outbox: Path
) -> None:
    hold(client, "main")
    hold(client, "backup")
    pipeline.add_due_people(3)
    providers = workers.for_thread()
    deliverer = pipeline.deliverer(providers)
    pipeline.enqueue()
    deliverer.deliver(pipeline.lease(), Signal())
    clock.advance(LATENESS_LIMIT + LOOK_EVERY)
    resume(client, "main")
    clock.advance(LOOK_EVERY)
    pipeline.recover()
    if pipeline.enqueue():
        deliverer.deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"expired": 3}
    assert {row.reason for row in pipeline.rows("SELECT reason FROM message_log")} == {"too_late"}
    assert sent_by(outbox) == []
    close(providers)


def close(providers: Any) -> None:
    for provider in providers.values():
        provider.close()


def test_a_database_that_is_away_changes_nothing_of_what_is_held(
    client: FlaskClient, workers: ProviderSet, clock: SettableClock, pipeline: Pipeline
) -> None:
    hold(client, "texts")
    texts: Provider = workers.for_thread()[Channel.SMS]
    assert texts.pauses_until() is not None
    pipeline.execute("ALTER TABLE provider_holds RENAME TO gone")
    clock.advance(LOOK_EVERY)
    assert texts.pauses_until() is not None
    pipeline.execute("ALTER TABLE gone RENAME TO provider_holds")
    resume(client, "texts")
    clock.advance(LOOK_EVERY)
    assert texts.pauses_until() is None
    texts.close()
