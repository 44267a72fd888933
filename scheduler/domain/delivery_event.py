"""What a provider reports of a message after it has accepted it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from scheduler.domain.message import MessageKey


class DeliveryEventKind(StrEnum):
    """What happened."""

    DELIVERED = "delivered"
    """It has reached the recipient's server or device."""

    BOUNCED = "bounced"
    """It has not, and will not."""

    COMPLAINED = "complained"
    """The recipient calls it spam: it was delivered, and nothing more may go to that address."""

    UNSUBSCRIBED = "unsubscribed"
    """The recipient has asked the provider for no more messages on this channel."""


@dataclass(frozen=True, slots=True)
class DeliveryEvent:
    """One event. `event_id` is the provider's own, so that one told twice is kept once.

    `is_permanent` tells of a bounce that the address is no good; a full mailbox is not. `detail` is one line for
    people, without personal data; `address` is where it was sent, if the provider says so.
    """

    event_id: str
    key: MessageKey
    kind: DeliveryEventKind
    occurred_at: datetime
    detail: str = ""
    is_permanent: bool = False
    address: str | None = field(default=None, repr=False)
