"""What to do with each message a batch claimed: pure decisions, taken before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.domain.occasion import Channel
from scheduler.store.messages import ClaimedMessage
from scheduler.store.users import Recipient


@dataclass(frozen=True, slots=True)
class ReadyMessage:
    """A message to send, and to whom."""

    recipient: Recipient
    address: str
    attempt: int


@dataclass(slots=True)
class SortedClaims:
    """The claimed messages of a batch by what is to be done with them, as user ids where not to be sent."""

    ready: list[ReadyMessage] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    """The user is gone."""
    unreachable: list[int] = field(default_factory=list)
    """The user has no address for the channel any more."""
    stale: list[int] = field(default_factory=list)
    """Planned from a version of the user that was edited meanwhile: to be replanned, not sent."""
    exhausted: list[ClaimedMessage] = field(default_factory=list)
    """Every attempt allowed was begun, and the last one's outcome is not known."""


def sort_claims(
    claimed: Sequence[ClaimedMessage],
    recipients: Mapping[int, Recipient],
    channel: Channel,
    max_attempts: int,
) -> SortedClaims:
    """Decide for each claimed message whether it is sent, by its user as they are now.

    Only a first attempt can be stale: an edit leaves messages alone whose sending has begun.
    """
    claims = SortedClaims()
    for message in claimed:
        recipient = recipients.get(message.user_id)
        if message.attempt > max_attempts:
            claims.exhausted.append(message)
        elif recipient is None:
            claims.deleted.append(message.user_id)
        elif message.attempt == 1 and recipient.version != message.user_version:
            claims.stale.append(message.user_id)
        elif address := _address(recipient, channel):
            claims.ready.append(ReadyMessage(recipient, address, message.attempt))
        else:
            claims.unreachable.append(message.user_id)
    return claims


def _address(recipient: Recipient, channel: Channel) -> str | None:
    match channel:
        case Channel.EMAIL:
            return recipient.email
        case Channel.SMS:
            return recipient.phone
        case Channel.PUSH:
            return recipient.push_token
        case Channel.WEBHOOK:
            return recipient.webhook_url
        case Channel.IN_APP:
            return recipient.external_id
