"""Messages to the endpoints that users named themselves."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from scheduler.clock import SettableClock
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from scheduler.standard_webhooks import verify
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.messages import Signal, outgoing
from tests.fixtures.sink import Sink, running_sink
from worker.channels.context import ProviderContext
from worker.channels.port import Accepted, Failed, FailureKind, Provider
from worker.channels.webhook import build

NOW = datetime(2027, 2, 28, 9, 0, 0, 250_000, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_NfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Make = Callable[..., Provider]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture
def make(sink: Sink) -> Iterator[Make]:
    engine = create_engine("postgresql+psycopg://unused.invalid/")
    context = ProviderContext(SettableClock(NOW), engine, Path("unused"))
    with ExitStack() as made:

        def make(**options: object) -> Provider:
            given = {
                "secrets": [SecretStr(SECRET)],
                "allowed_networks": ["127.0.0.0/8"],
                "allowed_ports": [sink.port],
                **options,
            }
            provider = build(ProviderEntry("hooks", "webhook", given), context)
            made.callback(provider.close)
            return provider

        yield make


def test_a_message_arrives_signed_with_what_a_receiver_needs(make: Make, sink: Sink) -> None:
    message = replace(
        outgoing(1, address=sink.url + "hook?x=1"),
        html="<p>Hey</p>",
        locale="de",
        fields={"occasion": "birthday", "local_date": "2027-02-28", "external_id": "", "secret": "no"},
    )
    assert make(secrets=[SECRET, OLD_SECRET]).deliver([message], Signal()) == [Accepted(NOW)]
    [request] = sink.requests
    assert request.target == "/hook?x=1"
    assert json.loads(request.body) == {
        "id": message.id,
        "type": "message",
        "timestamp": "2027-02-28T09:00:00.250Z",
        "data": {
            "channel": "email",
            "text": message.text,
            "locale": "de",
            "occasion": "birthday",
            "local_date": "2027-02-28",
            "subject": message.subject,
            "html": "<p>Hey</p>",
        },
    }
    assert request.headers["webhook-id"] == message.id
    for secret in (SECRET, OLD_SECRET):
        verify([secret], request.headers, request.body, NOW)


def test_the_id_stays_the_same_at_every_attempt(make: Make, sink: Sink) -> None:
    provider = make()
    for _ in range(2):
        provider.deliver([outgoing(1, address=sink.url)], Signal())
    assert [request.headers["webhook-id"] for request in sink.requests] == [outgoing(1).id] * 2


@pytest.mark.parametrize(
    ("status", "kind", "category"),
    [
        (410, FailureKind.PERMANENT, "endpoint_gone"),
        (401, FailureKind.PERMANENT, "http_401"),
        (403, FailureKind.PERMANENT, "http_403"),
        (404, FailureKind.PERMANENT, "http_404"),
        (302, FailureKind.PERMANENT, "http_302"),
        (429, FailureKind.RETRYABLE, "http_429"),
        (503, FailureKind.RETRYABLE, "http_503"),
    ],
)
def test_what_an_endpoint_answers_concerns_its_message_alone(
    make: Make, sink: Sink, status: int, kind: FailureKind, category: str
) -> None:
    sink.answer_by = lambda _: Answer(status=status)
    control = Signal()
    [outcome] = make().deliver([outgoing(1, address=sink.url)], control)
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.category) == (kind, category)
    assert control.noted == []


def test_endpoints_inside_are_not_asked(make: Make, sink: Sink) -> None:
    provider = make(allowed_networks=[])
    [inside, unreal] = provider.deliver(
        [outgoing(1, address=sink.url), outgoing(2, address="ftp://x")], Signal()
    )
    assert isinstance(inside, Failed)
    assert (inside.kind, inside.category) == (FailureKind.PERMANENT, "forbidden_destination")
    assert isinstance(unreal, Failed)
    assert unreal.category == "invalid_url"
    assert sink.summary()["connections"] == 0


def test_an_endpoint_that_hangs_does_not_hold_up_the_others(make: Make, sink: Sink) -> None:
    sink.answer_by = lambda request: Answer(ending=Ending.HANG if request.target == "/slow" else Ending.KEEP)
    slow = f"http://localhost:{sink.port}/slow"
    messages = [outgoing(number, address=slow) for number in range(4)]
    messages += [outgoing(number, address=sink.url) for number in range(4, 100)]
    outcomes = make(host_connections=2, total_timeout_seconds=1).deliver(messages, Signal())
    assert outcomes[4:] == [Accepted(NOW)] * 96
    assert {outcome.kind for outcome in outcomes[:4] if isinstance(outcome, Failed)} == {FailureKind.UNKNOWN}
    # All the others were answered while the first two of the slow host were waited for.
    targets = [request.target for request in sink.requests]
    assert targets[:98].count("/slow") == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"secrets": []}, "secrets"),
        ({"secrets": [SecretStr("canary")]}, "webhook secret"),
        ({"host_connections": 0}, "host_connections"),
        ({"type": "a b"}, "type"),
        ({"url": "https://a.example"}, "url"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
        ({"headers": {"Host": "x"}}, "Host"),
        ({"total_timeout_seconds": 0}, "total_timeout_seconds"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(
    make: Make, options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make(**options)
    line = str(refused.value)
    assert line.startswith("provider hooks (webhook): ")
    assert told in line
    assert "canary" not in line
    assert line.count("hooks") == 1
