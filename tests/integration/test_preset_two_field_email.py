"""The preset `two-field-email` against a fake that answers 500, or not at all, for one call in ten."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.fake_providers.building import ACCEPTED, built, delivered, failure
from tests.fixtures.fake_providers.fake import running
from tests.fixtures.fake_providers.two_field_email import SERVER_ERROR, FakeTwoFieldEmail
from tests.fixtures.messages import outgoing, outgoing_many
from worker.channels.port import Accepted, Failed, FailureKind, Provider


@pytest.fixture
def fake() -> Iterator[FakeTwoFieldEmail]:
    with running(FakeTwoFieldEmail()) as fake:
        yield fake


@pytest.fixture
def provider(fake: FakeTwoFieldEmail) -> Iterator[Provider]:
    with built("two-field-email", endpoint=fake.url) as provider:
        yield provider


def test_the_two_fields_and_the_key_arrive(fake: FakeTwoFieldEmail, provider: Provider) -> None:
    messages = outgoing_many(20)
    assert delivered(provider, *messages) == [ACCEPTED] * 20
    assert {key: (one.address, one.content["message"]) for key, one in fake.accepted.items()} == {
        message.id: (message.address, message.text) for message in messages
    }
    assert "authorization" not in fake.requests[0].headers


def test_a_key_for_the_service_is_a_bearer_token(fake: FakeTwoFieldEmail) -> None:
    options: dict[str, Any] = {
        "endpoint": fake.url,
        "api_key": "secret:canary",
        "callback_secret": "secret:x",
    }
    with built("two-field-email", **options) as provider:
        delivered(provider, outgoing())
    assert fake.requests[0].headers["authorization"] == "Bearer canary"


def test_errors(fake: FakeTwoFieldEmail, provider: Provider) -> None:
    fake.scripted = [SERVER_ERROR]
    assert failure(provider, outgoing()) == (FailureKind.RETRYABLE, "http_500")
    assert failure(provider, outgoing(address="nobody")) == (FailureKind.PERMANENT, "http_400")


def test_what_fails_is_accepted_once_when_it_is_tried_again() -> None:
    with (
        running(FakeTwoFieldEmail(errors=0.1, hangs=0.1, seed=7)) as fake,
        built("two-field-email", endpoint=fake.url, total_timeout_seconds=0.2) as provider,
    ):
        waiting = outgoing_many(60)
        kinds: set[FailureKind] = set()
        for _ in range(12):
            outcomes = delivered(provider, *waiting)
            kinds |= {outcome.kind for outcome in outcomes if isinstance(outcome, Failed)}
            waiting = [
                message
                for message, outcome in zip(waiting, outcomes, strict=True)
                if not isinstance(outcome, Accepted)
            ]
            if not waiting:
                break
    assert waiting == []
    assert kinds == {FailureKind.RETRYABLE, FailureKind.UNKNOWN}
    assert set(fake.acceptances) == {message.id for message in outgoing_many(60)}
    assert set(fake.acceptances.values()) == {1}
