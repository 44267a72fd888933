"""What to do with each message a batch claimed: pure decisions, taken before anything is sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from typing import Final, NamedTuple

from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.quiet_hours import QuietHours, quiet_until
from scheduler.domain.zones import zone
from scheduler.store.messages import ClaimedMessage
from scheduler.store.users import Recipient, address_place


class ReadyMessage(NamedTuple):
    """A message to send, and to whom."""

    recipient: Recipient
    address: str
    attempt: int


# Half of what a call of the class costs.
_ready: Final = partial(tuple.__new__, ReadyMessage)


@dataclass(frozen=True, slots=True, order=True)
class Deferral:
    """The messages that share a batch after the quiet hours: due at one instant, as many attempts behind them."""

    until: datetime
    attempt: int


@dataclass(slots=True)
class SortedClaims:
    """The claimed messages of a batch by what is to be done with them, as user ids where not to be sent."""

    ready: list[ReadyMessage] = field(default_factory=list)
    cancelled: dict[NotSentReason, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Not to be sent at all."""
    deferred: dict[Deferral, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Not to be sent before the quiet hours have ended where the user lives."""
    stale: list[int] = field(default_factory=list)
    """Planned from a version of the user that was edited meanwhile: to be replanned, not sent."""

    def addresses(self) -> dict[int, str]:
        """The addresses of what is ready, by user."""
        return {message.recipient.id: message.address for message in self.ready}

    def cancel(self, refused: Mapping[int, NotSentReason]) -> None:
        """Take out of what is ready the messages of these users."""
        if not refused:
            return
        for message in self.ready:
            if reason := refused.get(message.recipient.id):
                self.cancelled[reason].append(message.recipient.id)
        self.ready = [message for message in self.ready if message.recipient.id not in refused]

    def defer(self, quiet: QuietHours, now: datetime) -> None:
        """Take out of what is ready the messages whose users have quiet hours at `now`."""

        @cache
        def ends(timezone: str) -> datetime | None:
            return quiet_until(quiet, now, zone(timezone))

        for message in self.ready:
            if until := ends(message.recipient.timezone):
                self.deferred[Deferral(until, message.attempt - 1)].append(message.recipient.id)
        self.ready = [message for message in self.ready if ends(message.recipient.timezone) is None]


def sort_claims(
    claimed: Iterable[ClaimedMessage],
    recipients: Mapping[int, Recipient],
    channel: Channel,
    *,
    follows_edits: bool = True,
    follows_deferred: bool = True,
) -> SortedClaims:
    """Decide for each claimed message whether it is sent, by its user as they are now.

    Nothing is stale where not `follows_edits`. Only a first attempt can be: an edit leaves messages alone whose
    sending has begun. Nor can one that quiet hours have put off, where not `follows_deferred`: replanning does not
    reach back to it.
    """
    claims = SortedClaims()
    ready = claims.ready
    place = address_place(channel)
    for user_id, attempt, user_version, was_deferred in claimed:
        recipient = recipients.get(user_id)
        if recipient is None:
            claims.cancelled[NotSentReason.USER_DELETED].append(user_id)
        elif user_version != recipient.version and (
            follows_edits and attempt == 1 and (follows_deferred or not was_deferred)
        ):
            claims.stale.append(user_id)
        elif address := recipient[place]:
            ready.append(_ready((recipient, address, attempt)))
        else:
            claims.cancelled[NotSentReason.NO_ADDRESS].append(user_id)
    return claims
