"""Providers of kind `http`, as the providers file describes them, against a real server."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from scheduler.clock import SettableClock
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from scheduler.standard_webhooks import verify
from tests.fixtures.answers import Answer
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from tests.fixtures.sink import Sink, running_sink
from worker.channels.context import ProviderContext
from worker.channels.http_options import build
from worker.channels.port import Accepted, Failed, FailureKind, Provider

NOW = datetime(2027, 2, 28, 9, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Make = Callable[..., Provider]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink(elements="messages") as sink:
        sink.answer_by = lambda _: Answer(accepts=False)
        yield sink


@pytest.fixture
def make(sink: Sink) -> Iterator[Make]:
    engine = create_engine("postgresql+psycopg://unused.invalid/")
    context = ProviderContext(SettableClock(NOW), engine, Path("unused"))
    with ExitStack() as made:

        def make(**options: object) -> Provider:
            provider = build(
                ProviderEntry("mail", "http", {"url": sink.url, **options}, concurrency=7), context
            )
            made.callback(provider.close)
            return provider

        yield make


def test_a_url_is_enough(make: Make, sink: Sink) -> None:
    assert make().deliver([outgoing()], Signal()) == [Accepted(NOW)]
    assert json.loads(sink.requests[0].body)["to"] == outgoing().address


def test_tables_and_texts_make_the_same_body(make: Make, sink: Sink) -> None:
    document = {"email": "{address}", "message": "{text}", "html?": "{html}"}
    for body in (document, json.dumps(document)):
        make(body=body).deliver([outgoing()], Signal())
    first, second = sink.requests
    assert (
        json.loads(first.body)
        == json.loads(second.body)
        == {
            "email": outgoing().address,
            "message": outgoing().text,
        }
    )


def test_a_form_with_headers_login_and_signature(make: Make, sink: Sink) -> None:
    provider = make(
        url=sink.url + "{channel}",
        form=[["To", "{address}"], ["Key", SecretStr("{literal}")]],
        headers={"X-Key": SecretStr("{braces}"), "X-Id": "{id}"},
        basic_auth=["user", SecretStr("password")],
        signing_secrets=[SecretStr(SECRET)],
        sends_key=False,
    )
    assert provider.deliver([outgoing()], Signal()) == [Accepted(NOW)]
    [request] = sink.requests
    assert request.target == "/email"
    assert dict(parse_qsl(request.body.decode())) == {"To": outgoing().address, "Key": "{literal}"}
    assert (request.headers["x-key"], request.headers["x-id"]) == ("{braces}", outgoing().id)
    assert request.headers["authorization"] == "Basic dXNlcjpwYXNzd29yZA=="
    assert request.key == ""
    verify([SECRET], request.headers, request.body, NOW)


def test_a_lasting_token(make: Make, sink: Sink) -> None:
    make(bearer_token=SecretStr("t0ken")).deliver([outgoing()], Signal())
    assert sink.requests[0].headers["authorization"] == "Bearer t0ken"


def test_rules_and_statuses(make: Make, sink: Sink) -> None:
    sink.answer_by = lambda _: Answer(status=409, body=b'{"code":21610}')
    rules = [
        {
            "verdict": "permanent",
            "statuses": ["4xx", 500],
            "pointer": "/code",
            "values": ["21610"],
            "category": "stop",
        }
    ]
    [outcome] = make(rules=rules).deliver([outgoing()], Signal())
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.category) == (FailureKind.PERMANENT, "stop")
    assert make(accepted_statuses=["2xx", 409]).deliver([outgoing()], Signal()) == [Accepted(NOW)]


def test_many_messages_in_one_request(make: Make, sink: Sink) -> None:
    batch = {
        "element": {"id": "{id}", "to": "{address}"},
        "most": 20,
        "results": "/results",
        "result_status": "/status",
        "result_rules": [{"verdict": "permanent", "pointer": "/error", "category": "no_such_user"}],
    }
    sink.answer_by = lambda _: Answer(body=b'{"results":[{"status":202},{"error":"x"}]}', accepts=False)
    outcomes = make(body={"messages": "{messages}"}, batch=batch).deliver(outgoing_many(2), Signal())
    assert outcomes[0] == Accepted(NOW)
    assert isinstance(outcomes[1], Failed)
    assert outcomes[1].category == "no_such_user"
    assert len(sink.requests) == 1


def test_users_urls(make: Make, sink: Sink) -> None:
    message = outgoing(1, address=sink.url)
    [outcome] = make(url="{address}", guard=True).deliver([message], Signal())
    assert isinstance(outcome, Failed)
    assert outcome.category == "forbidden_destination"
    allowed = make(url="{address}", guard=True, allowed_networks=["127.0.0.1/32"], allowed_ports=[sink.port])
    assert allowed.deliver([message], Signal()) == [Accepted(NOW)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": None}, "url"),
        ({"urls": "x"}, "urls"),
        ({"url": "ftp://a.example"}, "url takes"),
        ({"url": "https://{address}/"}, "url takes"),
        ({"body": "{"}, "JSON body template"),
        ({"body": {"a": "{"}}, "JSON body template"),
        ({"body": {}, "form": [["a", "b"]]}, "not both"),
        ({"form": [["a"]]}, "form"),
        ({"headers": {"X A": "b"}}, "X A"),
        ({"headers": {"X-A": SecretStr("canary\r\n")}}, "X-A"),
        ({"accepted_statuses": ["1xx"]}, "accepted_statuses"),
        ({"accepted_statuses": [100]}, "accepted_statuses"),
        ({"rules": [{"verdict": "maybe"}]}, "verdict"),
        ({"rules": [{"verdict": "permanent", "pointer": "a"}]}, "JSON pointer"),
        ({"batch": {"element": {}, "most": 1001}}, "batch.most"),
        ({"batch": {"element": {}}}, "{messages}"),
        ({"basic_auth": ["a:b", SecretStr("canary")]}, "basic_auth"),
        ({"basic_auth": ["a", SecretStr("canary")], "bearer_token": "x"}, "Authorization"),
        ({"bearer_token": SecretStr("canary\r\nX: 1")}, "bearer_token"),
        ({"bearer_token": SecretStr("canaré")}, "bearer_token"),
        ({"aws_sigv4": "aws:amz:eu-west-1:ses"}, "basic_auth"),
        ({"aws_sigv4": "x y", "basic_auth": ["a", "b"]}, "aws_sigv4"),
        ({"signing_secrets": [SecretStr("canary")]}, "webhook secret"),
        ({"total_timeout_seconds": 0}, "total_timeout_seconds"),
        ({"guard": True, "allowed_networks": ["canary"]}, "allowed_networks"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(
    make: Make, options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make(**options)
    line = str(refused.value)
    assert line.startswith("provider mail (http): ")
    assert told in line
    assert "\n" not in line
    assert line.count("provider mail") == 1
    if "allowed_networks" not in options:
        assert "canary" not in line
