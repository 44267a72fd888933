"""The preset `twilio` against a fake that takes what Twilio documents."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.fake_providers import twilio
from tests.fixtures.fake_providers.building import ACCEPTED, built, delivered, failure
from tests.fixtures.fake_providers.fake import json_answer, running
from tests.fixtures.fake_providers.twilio import FakeTwilio
from tests.fixtures.messages import outgoing
from worker.channels.port import Failed, FailureKind, OutgoingMessage, Provider

CALLBACK = "https://daybreak.example.org/callbacks/sms"
NUMBER = "+4915112345678"


@pytest.fixture
def fake() -> Iterator[FakeTwilio]:
    with running(FakeTwilio()) as fake:
        yield fake


def options(fake: FakeTwilio, **changes: Any) -> dict[str, Any]:
    return {
        "endpoint": fake.url,
        "account_sid": twilio.ACCOUNT_SID,
        "auth_token": f"secret:{twilio.AUTH_TOKEN}",
        "messaging_service_sid": twilio.SERVICE_SID,
        "callback_url": CALLBACK,
        **changes,
    }


@pytest.fixture
def provider(fake: FakeTwilio) -> Iterator[Provider]:
    with built("twilio", **options(fake)) as provider:
        yield provider


def sms(number: int = 1, address: str = "", text: str = "Grüße & 100 % =") -> OutgoingMessage:
    return outgoing(number, address=address or f"+49151123456{number:02}", text=text)


def test_each_message_is_one_request(fake: FakeTwilio, provider: Provider) -> None:
    messages = [sms(number) for number in range(20)]
    assert delivered(provider, *messages) == [ACCEPTED] * 20
    for message in messages:
        taken = fake.accepted[message.id]
        assert taken.address == message.address
        assert taken.content == {
            "body": message.text,
            "sender": twilio.SERVICE_SID,
            "callback": f"{CALLBACK}?id={message.id}",
        }


def test_an_api_key_is_preferred_and_a_number_will_do(fake: FakeTwilio) -> None:
    given = options(
        fake,
        api_key=twilio.API_KEY_SID,
        api_key_secret=f"secret:{twilio.API_KEY_SECRET}",
        auth_token="secret:wrong, and for callbacks only",
    )
    del given["messaging_service_sid"], given["callback_url"]
    with built("twilio", **given, **{"from": "+4930123456"}) as provider:
        assert delivered(provider, sms(address=NUMBER)) == [ACCEPTED]
    assert fake.accepted[NUMBER].content == {"body": sms().text, "sender": "+4930123456", "callback": None}


@pytest.mark.parametrize(
    ("code", "kind", "category"),
    [
        (20003, FailureKind.PROVIDER, "refused"),
        (20429, FailureKind.RETRYABLE, "rate_limited"),
        (21211, FailureKind.PERMANENT, "invalid_address"),
        (21408, FailureKind.PERMANENT, "unreachable_address"),
        (21606, FailureKind.PERMANENT, "unreachable_address"),
        (21608, FailureKind.PERMANENT, "unreachable_address"),
        (21609, FailureKind.PROVIDER, "misconfigured"),
        (21610, FailureKind.PERMANENT, "unsubscribed"),
        (21611, FailureKind.RETRYABLE, "rate_limited"),
        (21614, FailureKind.PERMANENT, "invalid_address"),
        (21659, FailureKind.PROVIDER, "sender_refused"),
        (21701, FailureKind.PROVIDER, "sender_refused"),
        (30001, FailureKind.RETRYABLE, "rate_limited"),
        (30002, FailureKind.PROVIDER, "refused"),
    ],
)
def test_documented_errors(
    fake: FakeTwilio, provider: Provider, code: int, kind: FailureKind, category: str
) -> None:
    fake.refusals[NUMBER] = twilio.error(code)
    other = sms(2)
    outcomes = delivered(provider, sms(address=NUMBER), other)
    assert isinstance(outcomes[0], Failed)
    assert (outcomes[0].kind, outcomes[0].category) == (kind, category)
    assert outcomes[1] == ACCEPTED


def test_a_code_without_a_rule_counts_by_its_status(fake: FakeTwilio, provider: Provider) -> None:
    fake.scripted = [json_answer(400, {"code": 99999, "status": 400})]
    assert failure(provider, sms()) == (FailureKind.PERMANENT, "http_400")


def test_a_wait_that_is_asked_for_is_kept_to(fake: FakeTwilio, provider: Provider) -> None:
    fake.scripted = [twilio.error(20429, "Retry-After: 12")]
    [outcome] = delivered(provider, sms())
    assert isinstance(outcome, Failed)
    assert outcome.retry_after == timedelta(seconds=12)


def test_a_text_that_twilio_does_not_take(provider: Provider) -> None:
    assert failure(provider, sms(text="x" * 1_601)) == (FailureKind.PERMANENT, "invalid_text")
    assert failure(provider, sms(text="")) == (FailureKind.PERMANENT, "invalid_text")


@pytest.mark.parametrize(
    "address", ["0151 123456", "+49 151 123", "+0123456789", "whatsapp:+4915112345678", "+1234\n"]
)
def test_what_is_no_number_is_refused_without_asking(
    fake: FakeTwilio, provider: Provider, address: str
) -> None:
    assert failure(provider, sms(address=address)) == (FailureKind.PERMANENT, "invalid_address")
    assert fake.requests == []


def test_a_wrong_login_is_the_providers_failure(fake: FakeTwilio) -> None:
    with built("twilio", **options(fake, auth_token="secret:canary")) as provider:
        [outcome] = delivered(provider, sms())
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.PROVIDER
    assert "canary" not in outcome.detail
