"""The life of a message: its identity, its states, and the only moves between them.

A message is one occurrence of an occasion on one channel. Its identity is also the idempotency
key given to providers, so two attempts at one message can never be taken for two messages.

`MESSAGE_TRANSITIONS` is the state machine: the store builds its guarded updates from it, and
`deploy/states.md` draws it (a test compares the two).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from scheduler.domain.occasion import Channel
from scheduler.domain.transition import Transition


class MessageState(StrEnum):
    """Where a message stands."""

    SCHEDULED = "scheduled"
    SENDING = "sending"
    RETRYING = "retrying"
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class AttemptOutcome(StrEnum):
    """What became of an attempt at a message."""

    ACCEPTED = "accepted"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """No answer came: it may have been accepted."""
    UNDER_WAY = "under_way"


class MessageEvent(StrEnum):
    """What may happen to a message."""

    CLAIM = "claim"
    ACCEPT = "accept"
    RETRY = "retry"
    BURY = "bury"
    HAND_BACK = "hand_back"
    HAND_BACK_RETRY = "hand_back_retry"
    EXPIRE = "expire"
    CANCEL = "cancel"
    WITHDRAW = "withdraw"
    CONFIRM = "confirm"
    BOUNCE = "bounce"
    DEFER = "defer"
    DEFER_RETRY = "defer_retry"
    REPLAY = "replay"


_S = MessageState
MESSAGE_TRANSITIONS: Final[Mapping[MessageEvent, Transition[MessageState]]] = MappingProxyType(
    {
        # From `sending` as well: the lease lapsed and the outcome is unknown, so the same key is tried again.
        MessageEvent.CLAIM: Transition((_S.SCHEDULED, _S.RETRYING, _S.SENDING), _S.SENDING),
        MessageEvent.ACCEPT: Transition((_S.SENDING,), _S.SENT),
        MessageEvent.RETRY: Transition((_S.SENDING,), _S.RETRYING),
        # From `retrying` where it grew too late while nobody knew whether an attempt had been accepted.
        MessageEvent.BURY: Transition((_S.SENDING, _S.RETRYING), _S.DEAD),
        # Not given to a provider under this claim, or not taken for reasons that are not the message's: the
        # claim's attempt is taken back.
        MessageEvent.HAND_BACK: Transition((_S.SENDING,), _S.SCHEDULED),
        MessageEvent.HAND_BACK_RETRY: Transition((_S.SENDING,), _S.RETRYING),
        MessageEvent.EXPIRE: Transition((_S.SCHEDULED, _S.RETRYING), _S.EXPIRED),
        MessageEvent.CANCEL: Transition((_S.SCHEDULED, _S.RETRYING, _S.SENDING), _S.CANCELLED),
        # Nobody is sending it: somebody took it back.
        MessageEvent.WITHDRAW: Transition((_S.SCHEDULED, _S.RETRYING), _S.CANCELLED),
        # A callback also settles what nobody knew the outcome of: it was accepted after all.
        MessageEvent.CONFIRM: Transition((_S.SENT, _S.RETRYING, _S.DEAD), _S.DELIVERED),
        MessageEvent.BOUNCE: Transition((_S.SENT, _S.DELIVERED, _S.RETRYING, _S.DEAD), _S.BOUNCED),
        # Quiet hours: claimed, not sent, and due again when they end.
        MessageEvent.DEFER: Transition((_S.SENDING,), _S.SCHEDULED),
        MessageEvent.DEFER_RETRY: Transition((_S.SENDING,), _S.RETRYING),
        # Never back to `scheduled`: it may be out already, and an edit could give it another key.
        MessageEvent.REPLAY: Transition((_S.DEAD,), _S.RETRYING),
    }
)

SPENT_STATES: Final[tuple[MessageState, ...]] = (
    _S.SENDING,
    _S.RETRYING,
    _S.SENT,
    _S.DELIVERED,
    _S.BOUNCED,
    _S.DEAD,
)
"""States in which a yearly occasion has had its message of the year: an edit never adds a second."""


class NotSentReason(StrEnum):
    """Why a message ended without being sent. Dead letters carry a provider's category instead."""

    TOO_LATE = "too_late"
    USER_DELETED = "user_deleted"
    NO_ADDRESS = "no_address"
    SUPPRESSED = "suppressed"
    UNSUBSCRIBED = "unsubscribed"
    FREQUENCY_CAPPED = "frequency_capped"
    PAUSED = "paused"
    """Due while its occasion paused, and left out when that ended."""
    CANCELLED_BY_OPERATOR = "cancelled_by_operator"


TEXT_FIELDS: Final = frozenset({"first_name", "last_name", "external_id", "occasion", "local_date"})
"""What a provider's request may name in braces of who a message is for and why (texts: `scheduler/texts/`)."""

ENVELOPE_FIELDS: Final = frozenset(
    {"id", "channel", "address", "subject", "text", "html", "locale", "tag", "unsubscribe_url"}
)
"""What a provider's request may name in braces besides: the message itself."""

_SMALLINT_END: Final = 2**15
_INTEGER_END: Final = 2**31
_BIGINT_END: Final = 2**63
_FIRST_YEAR: Final = 1900

OUTCOME_UNKNOWN: Final = "outcome_unknown"
"""Category of a dead letter whose last attempt may or may not have been accepted."""


def around_user_id(occasion_id: int, local_date: date, slot: int, channel: Channel) -> tuple[str, str]:
    """What stands before and after the user's id in the texts of those keys that share all else."""
    return f"{occasion_id}.", f".{local_date:%Y%m%d}.{slot}.{channel}"


@dataclass(frozen=True, slots=True, order=True)
class MessageKey:
    """The identity of a message, unique for ever; `text` is its idempotency key."""

    occasion_id: int
    user_id: int
    local_date: date
    slot: int
    channel: Channel

    @property
    def text(self) -> str:
        """The key as providers and the API see it, such as `1.42.20270228.0.email`."""
        before, after = around_user_id(self.occasion_id, self.local_date, self.slot, self.channel)
        return f"{before}{self.user_id}{after}"

    @classmethod
    def parse(cls, text: str) -> MessageKey:
        """Read back what `text` wrote; raises ValueError for anything else."""
        try:
            occasion_id, user_id, day, slot, channel = text.split(".")
            key = cls(
                int(occasion_id),
                int(user_id),
                date.fromisoformat(day),
                int(slot),
                Channel(channel),
            )
        except ValueError:
            key = None
        if key is None or key.text != text or not _can_be_stored(key):
            raise ValueError(f"{text!r} is not a message id; one looks like 1.42.20270228.0.email")
        return key


def _can_be_stored(key: MessageKey) -> bool:
    """Whether the numbers of a key fit the columns of the log: what does not is the id of no message."""
    return (
        0 < key.occasion_id < _INTEGER_END
        and 0 < key.user_id < _BIGINT_END
        and 0 <= key.slot < _SMALLINT_END
        and key.local_date.year >= _FIRST_YEAR
    )
