"""The preset `ses` against a fake that takes what SES documents, and computes the signature again."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.answers import Answer
from tests.fixtures.fake_providers import ses
from tests.fixtures.fake_providers.building import ACCEPTED, built, delivered, failure
from tests.fixtures.fake_providers.fake import running
from tests.fixtures.fake_providers.ses import FakeSes
from tests.fixtures.messages import outgoing
from worker.channels.port import Failed, FailureKind, Provider

UNSUBSCRIBE = "https://daybreak.example.org/unsubscribe/t0ken"


@pytest.fixture
def fake() -> Iterator[FakeSes]:
    with running(FakeSes()) as fake:
        yield fake


def options(fake: FakeSes, **changes: Any) -> dict[str, Any]:
    return {
        "endpoint": fake.url,
        "access_key_id": ses.ACCESS_KEY_ID,
        "secret_access_key": f"secret:{ses.SECRET_ACCESS_KEY}",
        "region": ses.REGION,
        "from_address": "Ann <hello@example.org>",
        **changes,
    }


@pytest.fixture
def provider(fake: FakeSes) -> Iterator[Provider]:
    with built("ses", **options(fake)) as provider:
        yield provider


def test_each_message_is_one_signed_request(fake: FakeSes, provider: Provider) -> None:
    messages = [outgoing(number, text=f'Grüße 🎂 "{{x}}" {number}') for number in range(20)]
    assert delivered(provider, *messages) == [ACCEPTED] * 20
    for message in messages:
        taken = fake.accepted[message.id.replace(".", "-")]
        assert taken.address == message.address
        assert taken.content == {
            "sender": "Ann <hello@example.org>",
            "subject": message.subject,
            "text": message.text,
            "html": None,
            "headers": {},
            "tags": {"daybreak_id": message.id.replace(".", "-")},
            "configuration_set": None,
            "reply_to": None,
        }


def test_html_the_way_out_and_what_else_can_be_given(fake: FakeSes) -> None:
    message = replace(outgoing(), html="<p>Hey</p>", unsubscribe_url=UNSUBSCRIBE)
    given = options(
        fake,
        configuration_set="daybreak",
        reply_to="answers@example.org",
        session_token="secret:IQoJb3JpZ2lu/+=",
        topic_arns=["arn:aws:sns:eu-central-1:1:bounces"],
    )
    with built("ses", **given) as provider:
        assert delivered(provider, message) == [ACCEPTED]
    content = fake.accepted[message.id.replace(".", "-")].content
    assert content["html"] == "<p>Hey</p>"
    assert content["headers"] == {
        "List-Unsubscribe": f"<{UNSUBSCRIBE}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    assert content["configuration_set"] == "daybreak"
    assert content["reply_to"] == ["answers@example.org"]
    assert fake.requests[0].headers["x-amz-security-token"] == "IQoJb3JpZ2lu/+="


@pytest.mark.parametrize(
    ("answer", "kind", "category"),
    [
        (ses.error("AccountSuspendedException"), FailureKind.PROVIDER, "sending_paused"),
        (ses.error("SendingPausedException"), FailureKind.PROVIDER, "sending_paused"),
        (ses.error("MailFromDomainNotVerifiedException"), FailureKind.PROVIDER, "not_verified"),
        (
            ses.error("MessageRejected", "Email address is not verified. The following identities failed …"),
            FailureKind.PROVIDER,
            "not_verified",
        ),
        (ses.error("MessageRejected", "Illegal filename"), FailureKind.PERMANENT, "message_rejected"),
        (ses.error("BadRequestException"), FailureKind.PERMANENT, "bad_request"),
        (ses.error("NotFoundException"), FailureKind.PROVIDER, "misconfigured"),
        (ses.error("TooManyRequestsException"), FailureKind.RETRYABLE, "rate_limited"),
        (ses.error("ThrottlingException"), FailureKind.RETRYABLE, "rate_limited"),
        (ses.error("LimitExceededException"), FailureKind.RETRYABLE, "rate_limited"),
        (ses.error("InvalidClientTokenId"), FailureKind.PROVIDER, "http_403"),
        (ses.error("ExpiredTokenException"), FailureKind.PROVIDER, "http_403"),
        (ses.error("InternalFailure"), FailureKind.RETRYABLE, "http_500"),
        (ses.error("ServiceUnavailable"), FailureKind.RETRYABLE, "http_503"),
    ],
)
def test_documented_errors(
    fake: FakeSes, provider: Provider, answer: Answer, kind: FailureKind, category: str
) -> None:
    fake.refusals[outgoing(1).address] = answer
    outcomes = delivered(provider, outgoing(1), outgoing(2))
    assert isinstance(outcomes[0], Failed)
    assert (outcomes[0].kind, outcomes[0].category) == (kind, category)
    assert outcomes[1] == ACCEPTED


@pytest.mark.parametrize("address", ["jürgen@example.org", "nobody", "a b@example.org"])
def test_what_ses_cannot_write_to_is_refused_without_asking(
    fake: FakeSes, provider: Provider, address: str
) -> None:
    assert failure(provider, outgoing(address=address)) == (FailureKind.PERMANENT, "invalid_address")
    assert fake.requests == []


@pytest.mark.parametrize(
    "changes", [{"secret_access_key": "secret:canary"}, {"access_key_id": "CANARY"}, {"region": "us-east-1"}]
)
def test_wrong_credentials_are_the_providers_failure(fake: FakeSes, changes: dict[str, str]) -> None:
    with built("ses", **options(fake, **changes)) as provider:
        [outcome] = delivered(provider, outgoing())
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.category) == (FailureKind.PROVIDER, "http_403")
    assert "canary" not in outcome.detail.lower()
