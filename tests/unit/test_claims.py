"""What is done with each claimed message, by its user as they are now."""

from scheduler.domain.occasion import Channel
from scheduler.store.messages import ClaimedMessage
from scheduler.store.users import Recipient
from worker.claims import SortedClaims, sort_claims

MAX_ATTEMPTS = 3


def recipient(user_id: int, version: int = 1, email: str | None = "ann@example.org") -> Recipient:
    return Recipient(user_id, version, f"p{user_id}", "Ann", "Lee", email, None, None, None, "en", "UTC")


def sort_one(message: ClaimedMessage, *found: Recipient, channel: Channel = Channel.EMAIL) -> SortedClaims:
    return sort_claims([message], {each.id: each for each in found}, channel, MAX_ATTEMPTS)


def test_a_message_whose_user_is_as_planned_is_ready() -> None:
    claims = sort_one(ClaimedMessage(7, 1, 1), recipient(7))
    assert claims == SortedClaims(ready=claims.ready)
    [ready] = claims.ready
    assert (ready.recipient.id, ready.address, ready.attempt) == (7, "ann@example.org", 1)


def test_a_user_who_is_gone_is_sent_nothing() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1)) == SortedClaims(deleted=[7])


def test_a_user_without_an_address_is_unreachable() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1), recipient(7, email=None)) == SortedClaims(unreachable=[7])


def test_each_channel_has_its_address() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1), recipient(7), channel=Channel.SMS).unreachable == [7]


def test_a_first_attempt_planned_before_an_edit_is_stale() -> None:
    assert sort_one(ClaimedMessage(7, 1, 1), recipient(7, version=2)) == SortedClaims(stale=[7])


def test_a_retry_goes_out_whatever_was_edited_since() -> None:
    [ready] = sort_one(ClaimedMessage(7, 2, 1), recipient(7, version=2)).ready
    assert ready.attempt == 2


def test_the_last_attempt_is_still_made() -> None:
    assert len(sort_one(ClaimedMessage(7, MAX_ATTEMPTS, 1), recipient(7)).ready) == 1


def test_one_attempt_more_than_allowed_is_not_made() -> None:
    message = ClaimedMessage(7, MAX_ATTEMPTS + 1, 1)
    assert sort_one(message, recipient(7)) == SortedClaims(exhausted=[message])
    # Also where the user is gone: whether the last attempt reached them is what is not known.
    assert sort_one(message) == SortedClaims(exhausted=[message])
