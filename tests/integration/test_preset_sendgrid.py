"""The preset `sendgrid` against a fake that takes what SendGrid documents."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.fixtures.answers import Answer
from tests.fixtures.fake_providers import sendgrid
from tests.fixtures.fake_providers.building import ACCEPTED, built, delivered, failure
from tests.fixtures.fake_providers.fake import running
from tests.fixtures.fake_providers.sendgrid import FakeSendGrid
from tests.fixtures.messages import outgoing, outgoing_many
from worker.channels.port import Failed, FailureKind, OutgoingMessage, Provider

UNSUBSCRIBE = "https://daybreak.example.org/unsubscribe/t0ken?a=1&b=2"


@pytest.fixture
def fake() -> Iterator[FakeSendGrid]:
    with running(FakeSendGrid()) as fake:
        yield fake


@pytest.fixture
def provider(fake: FakeSendGrid) -> Iterator[Provider]:
    with built(
        "sendgrid",
        endpoint=fake.url,
        api_key=f"secret:{sendgrid.API_KEY}",
        from_address="hello@example.org",
        from_name='Ann & "Bo" {text}',
    ) as provider:
        yield provider


def with_html(number: int, html: str = "<p>Hey, 100 % & {text}</p>") -> OutgoingMessage:
    return replace(outgoing(number), html=f"{html}{number}", unsubscribe_url=UNSUBSCRIBE)


def test_a_thousand_messages_are_one_request_each_with_its_own_content(
    fake: FakeSendGrid, provider: Provider
) -> None:
    messages = outgoing_many(1_000)
    assert delivered(provider, *messages) == [ACCEPTED] * 1_000
    assert len(fake.requests) == 1
    assert {
        key: (one.address, one.content["subject"], one.content["text"]) for key, one in fake.accepted.items()
    } == {message.id: (message.address, message.subject, message.text) for message in messages}
    assert {one.content["html"] for one in fake.accepted.values()} == {None}
    assert {str(one.content["headers"]) for one in fake.accepted.values()} == {"{}"}


def test_html_and_the_way_out_are_told_of_each_message(fake: FakeSendGrid, provider: Provider) -> None:
    messages = [with_html(1), outgoing(2), with_html(3)]
    assert delivered(provider, *messages) == [ACCEPTED] * 3
    assert len(fake.requests) == 2
    for message in messages:
        content = fake.accepted[message.id].content
        assert (content["text"], content["html"]) == (message.text, message.html)
    assert fake.accepted[messages[0].id].content["headers"] == {
        "List-Unsubscribe": f"<{UNSUBSCRIBE}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    assert fake.accepted[messages[1].id].content["headers"] == {}


def test_what_is_too_long_for_a_substitution_is_the_content_itself(
    fake: FakeSendGrid, provider: Provider
) -> None:
    long = "<p>" + "ü" * 6_000 + "</p>"
    messages = [with_html(1, long), with_html(2, long), outgoing(3), outgoing(4, text="x" * 20_000)]
    assert delivered(provider, *messages) == [ACCEPTED] * 4
    assert len(fake.requests) == 4
    assert all(fake.accepted[message.id].content["text"] == message.text for message in messages)
    assert all(fake.accepted[message.id].content["html"] == message.html for message in messages[:2])


def test_a_text_cannot_reach_into_another_part(fake: FakeSendGrid, provider: Provider) -> None:
    message = replace(outgoing(1, text='"}] {html} %daybreak-html% %s 100%'), html="<b>%daybreak-text%</b>")
    assert delivered(provider, message) == [ACCEPTED]
    content = fake.accepted[message.id].content
    assert (content["text"], content["html"]) == (message.text, message.html)


def test_two_messages_for_one_address_do_not_share_a_request(fake: FakeSendGrid, provider: Provider) -> None:
    messages = [outgoing(1), outgoing(2, address="ANN1@example.org"), outgoing(3)]
    assert delivered(provider, *messages) == [ACCEPTED] * 3
    assert len(fake.requests) == 2


def test_what_is_no_address_is_refused_without_asking(fake: FakeSendGrid, provider: Provider) -> None:
    messages = [outgoing(1, address="nobody"), outgoing(2), outgoing(3, address="a@b@example.org")]
    outcomes = delivered(provider, *messages)
    assert outcomes[1] == ACCEPTED
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.category) == (FailureKind.PERMANENT, "invalid_address")
    assert len(fake.requests) == 1


def test_one_recipient_that_sendgrid_refuses_costs_the_others_nothing(
    fake: FakeSendGrid, provider: Provider
) -> None:
    messages = outgoing_many(100)
    # Its own idea of an address: this one passes the preset's.
    messages[42] = outgoing(42, address="jürgen@example.org")
    outcomes = delivered(provider, *messages)
    assert [place for place, outcome in enumerate(outcomes) if outcome != ACCEPTED] == [42]
    refused = outcomes[42]
    assert isinstance(refused, Failed)
    assert (refused.kind, refused.category) == (FailureKind.PERMANENT, "invalid_address")
    assert len(fake.accepted) == 99
    assert set(fake.acceptances.values()) == {1}


@pytest.mark.parametrize(
    ("answer", "kind", "category"),
    [
        (sendgrid.UNAUTHORIZED, FailureKind.PROVIDER, "http_401"),
        (sendgrid.OUT_OF_CREDITS, FailureKind.PROVIDER, "credits_exceeded"),
        (sendgrid.FORBIDDEN, FailureKind.PROVIDER, "http_403"),
        (
            sendgrid.errors(400, ("from.email", "Does not contain a valid address.")),
            FailureKind.PROVIDER,
            "sender_refused",
        ),
        (sendgrid.errors(404, (None, "not found")), FailureKind.PROVIDER, "misconfigured"),
        (sendgrid.errors(400, ("subject", "The subject is required.")), FailureKind.PERMANENT, "http_400"),
        (sendgrid.TOO_LARGE, FailureKind.PERMANENT, "too_large"),
        (sendgrid.RATE_LIMITED, FailureKind.RETRYABLE, "rate_limited"),
        (sendgrid.SERVER_ERROR, FailureKind.RETRYABLE, "http_500"),
        (Answer(status=503), FailureKind.RETRYABLE, "http_503"),
        (Answer(status=200, body=b""), FailureKind.PROVIDER, "not_queued"),
    ],
)
def test_documented_errors(
    fake: FakeSendGrid, provider: Provider, answer: Answer, kind: FailureKind, category: str
) -> None:
    fake.scripted = [answer]
    assert failure(provider, outgoing()) == (kind, category)


def test_a_rate_limit_is_waited_for_until_it_is_reset(fake: FakeSendGrid, provider: Provider) -> None:
    fake.scripted = [sendgrid.RATE_LIMITED]
    [outcome] = delivered(provider, outgoing())
    assert isinstance(outcome, Failed)
    assert outcome.retry_after == timedelta(seconds=7)


def test_a_wrong_key_is_the_providers_failure(fake: FakeSendGrid) -> None:
    with built(
        "sendgrid", endpoint=fake.url, api_key="secret:canary", from_address="hello@example.org"
    ) as provider:
        [outcome] = delivered(provider, outgoing())
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.PROVIDER
    assert "canary" not in outcome.detail


def test_options_that_are_given_are_sent(fake: FakeSendGrid) -> None:
    with built(
        "sendgrid",
        endpoint=f"{fake.url}/",
        api_key=f"secret:{sendgrid.API_KEY}",
        from_address="hello@example.org",
        reply_to="answers@example.org",
        category="birthdays",
        ip_pool="transactional",
    ) as provider:
        assert delivered(provider, outgoing()) == [ACCEPTED]
    body = fake.requests[0].body
    assert b'"reply_to":{"email":"answers@example.org"}' in body
    assert b'"categories":["birthdays"]' in body
    assert b'"ip_pool_name":"transactional"' in body
    assert b'"from":{"email":"hello@example.org"}' in body
