"""The preset `fcm`, and the tokens it needs, against a fake of FCM and of Google's token server."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from scheduler.clock import SettableClock
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.fake_providers import fcm
from tests.fixtures.fake_providers.building import ACCEPTED, NOW, built, delivered, failure
from tests.fixtures.fake_providers.fake import json_answer, running
from tests.fixtures.fake_providers.fcm import FakeFcm
from tests.fixtures.messages import outgoing
from worker.channels.port import Failed, FailureKind, OutgoingMessage, Provider


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


@pytest.fixture
def fake() -> Iterator[FakeFcm]:
    with running(FakeFcm(NOW)) as fake:
        yield fake


@pytest.fixture
def provider(fake: FakeFcm, clock: SettableClock) -> Iterator[Provider]:
    key_file = fcm.key_file(f"{fake.url}/token")
    with built("fcm", clock, endpoint=fake.url, service_account=f"secret:{key_file}") as provider:
        yield provider


def push(number: int = 1, **changes: str) -> OutgoingMessage:
    token = f"token-{number:03}:APA91b_0123456789"
    return outgoing(number, **{"address": token, "text": 'Grüße "{x}"', **changes})


def test_each_message_is_one_request_under_one_token(fake: FakeFcm, provider: Provider) -> None:
    messages = [push(number) for number in range(20)]
    assert delivered(provider, *messages) == [ACCEPTED] * 20
    for message in messages:
        taken = fake.accepted[message.id]
        assert taken.address == message.address
        assert taken.content == {
            "title": message.subject,
            "body": message.text,
            "data": {"daybreak_id": message.id},
        }
    assert fake.token_requests == 1


def test_a_token_is_kept_until_shortly_before_it_expires(
    fake: FakeFcm, provider: Provider, clock: SettableClock
) -> None:
    for minutes, asked in ((0, 1), (50, 1), (4, 1), (1, 2), (1, 2)):
        clock.advance(timedelta(minutes=minutes))
        fake.now = clock.now()
        assert [outcome for outcome in delivered(provider, push()) if isinstance(outcome, Failed)] == []
        assert fake.token_requests == asked


@pytest.mark.parametrize(
    ("code", "kind", "category"),
    [
        ("UNREGISTERED", FailureKind.PERMANENT, "unregistered"),
        ("SENDER_ID_MISMATCH", FailureKind.PERMANENT, "sender_id_mismatch"),
        ("INVALID_ARGUMENT", FailureKind.PERMANENT, "invalid_argument"),
        ("QUOTA_EXCEEDED", FailureKind.RETRYABLE, "quota_exceeded"),
        ("UNAVAILABLE", FailureKind.RETRYABLE, "unavailable"),
        ("INTERNAL", FailureKind.RETRYABLE, "unavailable"),
        ("THIRD_PARTY_AUTH_ERROR", FailureKind.PROVIDER, "third_party_auth"),
    ],
)
def test_documented_errors(
    fake: FakeFcm, provider: Provider, code: str, kind: FailureKind, category: str
) -> None:
    fake.refusals[push(1).address] = fcm.error(code, field="message.token")
    outcomes = delivered(provider, push(1), push(2))
    assert isinstance(outcomes[0], Failed)
    assert (outcomes[0].kind, outcomes[0].category) == (kind, category)
    assert outcomes[1] == ACCEPTED


def test_what_the_fake_finds_wrong_by_itself(provider: Provider) -> None:
    assert failure(provider, push(address="short")) == (FailureKind.PERMANENT, "invalid_argument")
    assert failure(provider, push(text="x" * 5_000)) == (FailureKind.PERMANENT, "invalid_argument")


def test_a_wait_that_is_asked_for_is_kept_to(fake: FakeFcm, provider: Provider) -> None:
    fake.scripted = [fcm.error("QUOTA_EXCEEDED", "Retry-After: 60")]
    [outcome] = delivered(provider, push())
    assert isinstance(outcome, Failed)
    assert outcome.retry_after == timedelta(minutes=1)


def test_answers_without_a_code_count_by_their_status(fake: FakeFcm, provider: Provider) -> None:
    fake.scripted = [
        Answer(status=502, body=b"<!DOCTYPE html>"),
        json_answer(404, {"error": {"code": 404, "status": "NOT_FOUND"}}),
        json_answer(403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}}),
    ]
    assert failure(provider, push()) == (FailureKind.RETRYABLE, "http_502")
    assert failure(provider, push()) == (FailureKind.PROVIDER, "misconfigured")
    assert failure(provider, push()) == (FailureKind.PROVIDER, "http_403")


def test_a_token_that_is_taken_back_is_the_providers_failure_and_another_is_asked_for(
    fake: FakeFcm, provider: Provider
) -> None:
    assert delivered(provider, push(1)) == [ACCEPTED]
    fake.revoke()
    assert failure(provider, push(2)) == (FailureKind.PROVIDER, "http_401")
    assert delivered(provider, push(2)) == [ACCEPTED]
    assert fake.token_requests == 2


@pytest.mark.parametrize(
    ("answer", "kind", "category"),
    [
        (json_answer(400, {"error": "invalid_grant"}), FailureKind.PROVIDER, "token_invalid_grant"),
        (json_answer(401, {"error": "invalid_client"}), FailureKind.PROVIDER, "token_invalid_client"),
        (Answer(status=404), FailureKind.PROVIDER, "token_http_404"),
        (Answer(status=503, headers=("Retry-After: 3",)), FailureKind.RETRYABLE, "token_http_503"),
        (Answer(status=200, body=b"{}"), FailureKind.RETRYABLE, "token_garbled"),
        (
            json_answer(200, {"access_token": "a\r\nb", "expires_in": 60}),
            FailureKind.RETRYABLE,
            "token_garbled",
        ),
        (Answer(ending=Ending.RESET), FailureKind.RETRYABLE, "token_transport"),
    ],
)
def test_without_a_token_nothing_is_sent(
    fake: FakeFcm, provider: Provider, answer: Answer, kind: FailureKind, category: str
) -> None:
    fake.token_answers = [answer]
    outcomes = delivered(provider, push(1), push(2))
    for outcome in outcomes:
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.category) == (kind, category)
    assert fake.requests == []
    assert delivered(provider, push(1)) == [ACCEPTED]


def test_a_key_that_is_not_the_accounts_is_the_providers_failure(fake: FakeFcm) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key_file = fcm.key_file(f"{fake.url}/token", stranger)
    with built("fcm", endpoint=fake.url, service_account=f"secret:{key_file}") as provider:
        assert failure(provider, push()) == (FailureKind.PROVIDER, "token_invalid_grant")


def test_another_project_and_a_notification_channel_can_be_given(fake: FakeFcm) -> None:
    key_file = json.loads(fcm.key_file(f"{fake.url}/token")) | {"project_id": "elsewhere"}
    with built(
        "fcm",
        endpoint=fake.url,
        service_account=f"secret:{json.dumps(key_file)}",
        project_id=fcm.PROJECT,
        android_channel_id="birthdays",
    ) as provider:
        assert delivered(provider, push()) == [ACCEPTED]
    assert b'"android":{"notification":{"channel_id":"birthdays"}}' in fake.requests[0].body
