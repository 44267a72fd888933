"""What is done with each claimed message, by its user and the hour as they are now."""

from datetime import UTC, datetime, timedelta

import pytest

from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.quiet_hours import QuietHours
from scheduler.store.messages import ClaimedMessage
from scheduler.store.users import Recipient
from worker.claims import Deferral, ReadyMessage, SortedClaims, sort_claims

NIGHT = QuietHours.parse("22:00-08:00")
MIDNIGHT = datetime(2027, 3, 1, tzinfo=UTC)


def recipient(
    user_id: int, version: int = 1, email: str | None = "ann@example.org", timezone: str = "UTC"
) -> Recipient:
    return Recipient(user_id, version, f"p{user_id}", "Ann", "Lee", email, None, None, None, "en", timezone)


def ready(user_id: int, attempt: int = 1, timezone: str = "UTC") -> ReadyMessage:
    return ReadyMessage(recipient(user_id, timezone=timezone), "ann@example.org", attempt)


def sort_one(
    message: ClaimedMessage,
    *found: Recipient,
    channel: Channel = Channel.EMAIL,
    follows_deferred: bool = True,
) -> SortedClaims:
    recipients = {each.id: each for each in found}
    return sort_claims([message], recipients, channel, follows_deferred=follows_deferred)


def test_a_message_whose_user_is_as_planned_is_ready() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1), recipient(7)) == SortedClaims(ready=[ready(7)])


def test_a_user_who_is_gone_is_sent_nothing() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1)) == SortedClaims(cancelled={NotSentReason.USER_DELETED: [7]})


def test_a_user_without_an_address_is_unreachable() -> None:
    claims = sort_one(ClaimedMessage(7, 1, 1), recipient(7, email=None))
    assert claims == SortedClaims(cancelled={NotSentReason.NO_ADDRESS: [7]})


def test_each_channel_has_its_address() -> None:
    claims = sort_one(ClaimedMessage(7, 1, 1), recipient(7), channel=Channel.SMS)
    assert claims == SortedClaims(cancelled={NotSentReason.NO_ADDRESS: [7]})


def test_a_first_attempt_planned_before_an_edit_is_stale() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1), recipient(7, version=2)) == SortedClaims(stale=[7])


def test_a_retry_goes_out_whatever_was_edited_since() -> None:
    [message] = sort_one(ClaimedMessage(7, 2, 1), recipient(7, version=2)).ready
    assert message.attempt == 2


@pytest.mark.parametrize(("was_deferred", "is_stale"), [(True, False), (False, True)])
def test_what_replanning_does_not_reach_is_sent_as_it_is(was_deferred: bool, is_stale: bool) -> None:
    """Else it would be handed back and found stale again for ever."""
    message = ClaimedMessage(7, 1, 1, was_deferred)
    claims = sort_one(message, recipient(7, version=2), follows_deferred=False)
    assert (bool(claims.stale), bool(claims.ready)) == (is_stale, not is_stale)


def test_what_was_put_off_and_edited_is_stale_within_reach() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1, True), recipient(7, version=2)).stale == [7]


def test_the_refused_are_cancelled_each_for_its_reason() -> None:
    claims = SortedClaims(ready=[ready(1), ready(2), ready(3)])
    claims.cancel({1: NotSentReason.SUPPRESSED, 3: NotSentReason.UNSUBSCRIBED, 9: NotSentReason.SUPPRESSED})
    assert claims.ready == [ready(2)]
    assert claims.cancelled == {NotSentReason.SUPPRESSED: [1], NotSentReason.UNSUBSCRIBED: [3]}


def test_each_is_put_off_to_the_end_of_the_night_where_they_live() -> None:
    new_york, berlin = ready(1, timezone="America/New_York"), ready(2, timezone="Europe/Berlin")
    claims = SortedClaims(ready=[new_york, berlin, ready(3, attempt=3), ready(4)])
    claims.defer(NIGHT, MIDNIGHT)
    assert claims.ready == [new_york]
    morning = MIDNIGHT + timedelta(hours=8)
    assert claims.deferred == {
        Deferral(morning - timedelta(hours=1), 0): [2],
        Deferral(morning, 2): [3],
        Deferral(morning, 0): [4],
    }


def test_nobody_is_put_off_by_day() -> None:
    claims = SortedClaims(ready=[ready(1)])
    claims.defer(NIGHT, MIDNIGHT + timedelta(hours=12))
    assert claims == SortedClaims(ready=[ready(1)])
