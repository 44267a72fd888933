"""The preset `slack` against a fake that takes what Slack documents."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.fixtures.fake_providers import slack
from tests.fixtures.fake_providers.building import ACCEPTED, built, delivered, failure
from tests.fixtures.fake_providers.fake import running
from tests.fixtures.fake_providers.slack import FakeSlack
from tests.fixtures.messages import outgoing
from worker.channels.port import Failed, FailureKind, OutgoingMessage, Provider

ERRORS_OF_A_WEBHOOK = (
    "action_prohibited",
    "posting_to_general_channel_denied",
    "invalid_token",
    "team_disabled",
    "channel_not_found",
    "no_service",
    "no_team",
    "channel_is_archived",
)


@pytest.fixture
def fake() -> Iterator[FakeSlack]:
    with running(FakeSlack()) as fake:
        yield fake


@pytest.fixture
def by_user(fake: FakeSlack) -> Iterator[Provider]:
    """Writes to each user's own webhook."""
    with built("slack", endpoint=fake.url) as provider:
        yield provider


@pytest.fixture
def by_option(fake: FakeSlack) -> Iterator[Provider]:
    """Writes all to one webhook."""
    with built("slack", webhook=f"secret:{fake.url}{slack.WEBHOOK}") as provider:
        yield provider


def post(fake: FakeSlack, number: int = 1, **changes: str) -> OutgoingMessage:
    address = f"{fake.url}/services/T00000000/B{number:08}/x"
    return outgoing(number, **{"address": address, "text": "Hey <!channel> & *Ann*", **changes})


def test_each_user_is_written_to_at_their_own_webhook(fake: FakeSlack, by_user: Provider) -> None:
    messages = [post(fake, number) for number in range(20)]
    assert delivered(by_user, *messages) == [ACCEPTED] * 20
    assert {key: (fake.url + one.address, one.content["text"]) for key, one in fake.accepted.items()} == {
        message.id: (message.address, message.text) for message in messages
    }


def test_one_webhook_takes_all(fake: FakeSlack, by_option: Provider) -> None:
    assert delivered(by_option, outgoing(1), post(fake, 2)) == [ACCEPTED] * 2
    assert {one.address for one in fake.accepted.values()} == {slack.WEBHOOK}


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.slack.com.example.org/services/T0/B0/x",
        "https://hooks.slack.com@example.org/services/T0/B0/x",
        "https://hooks.slack.com/services/../api/x",
        "https://hooks.slack.com/services/T0/B0/x?y",
        "https://hooksxslack.com/services/T0/B0/x",
        "http://hooks.slack.com/services/T0/B0/x",
        "http://169.254.169.254/services/T0/B0/x",
    ],
)
def test_another_servers_url_is_refused_without_asking(address: str) -> None:
    with built("slack") as provider:
        assert failure(provider, outgoing(address=address)) == (FailureKind.PERMANENT, "invalid_address")


@pytest.mark.parametrize("name", ERRORS_OF_A_WEBHOOK)
def test_a_webhook_that_is_gone_concerns_its_user_alone(
    fake: FakeSlack, by_user: Provider, name: str
) -> None:
    fake.refusals["/services/T00000000/B00000001/x"] = slack.error(name)
    outcomes = delivered(by_user, post(fake, 1), post(fake, 2))
    assert isinstance(outcomes[0], Failed)
    assert (outcomes[0].kind, outcomes[0].category) == (FailureKind.PERMANENT, "webhook_refused")
    assert name in outcomes[0].detail
    assert outcomes[1] == ACCEPTED


@pytest.mark.parametrize("name", ERRORS_OF_A_WEBHOOK)
def test_the_only_webhook_that_is_gone_is_the_providers_failure(
    fake: FakeSlack, by_option: Provider, name: str
) -> None:
    fake.scripted = [slack.error(name)]
    assert failure(by_option, outgoing()) == (FailureKind.PROVIDER, "webhook_refused")


@pytest.mark.parametrize("name", ["invalid_payload", "no_text", "too_many_attachments"])
def test_a_text_that_slack_does_not_take(
    fake: FakeSlack, by_option: Provider, by_user: Provider, name: str
) -> None:
    fake.scripted = [slack.error(name)] * 2
    assert failure(by_option, outgoing()) == (FailureKind.PERMANENT, "invalid_text")
    assert failure(by_user, post(fake)) == (FailureKind.PERMANENT, "invalid_text")


def test_a_text_that_is_too_long_or_empty(by_option: Provider) -> None:
    assert failure(by_option, outgoing(text="x" * 3_001)) == (FailureKind.PERMANENT, "invalid_text")
    assert failure(by_option, outgoing(text="")) == (FailureKind.PERMANENT, "invalid_text")


def test_what_passes(fake: FakeSlack, by_option: Provider) -> None:
    fake.scripted = [slack.error("rate_limited", "Retry-After: 30"), slack.error("rollup_error")]
    [limited] = delivered(by_option, outgoing())
    assert isinstance(limited, Failed)
    assert (limited.kind, limited.category) == (FailureKind.RETRYABLE, "rate_limited")
    assert limited.retry_after == timedelta(seconds=30)
    assert failure(by_option, outgoing()) == (FailureKind.RETRYABLE, "http_500")


def test_the_webhook_is_a_secret_that_no_detail_shows(fake: FakeSlack, by_option: Provider) -> None:
    fake.scripted = [slack.error("no_service")]
    [outcome] = delivered(by_option, outgoing())
    assert isinstance(outcome, Failed)
    assert "XXXX" not in outcome.detail
