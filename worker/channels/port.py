"""What a worker and a provider say to each other.

A provider takes rendered messages and answers, for each of them, what became of it. It retries nothing:
whether and when a message is tried again is decided from the log, by those who hold its lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from scheduler.domain.occasion import Channel


@dataclass(slots=True)
class OutgoingMessage:
    """One rendered message on its way to one address. Not to be changed: it is not frozen because making a frozen
    one takes twice as long.

    `id` is the text of its `MessageKey`: the same at every attempt, and given to the provider as the
    idempotency key. `fields` are the plain values the text was rendered from, for providers with templates of
    their own. `html` is an e-mail's second form. `unsubscribe_url` is where its recipient ends such messages
    with one request (RFC 8058). `bound_to` names the provider that may have accepted an earlier attempt: only it
    knows the key, so no other may be given the message. Personal data stays out of its `repr`, and so out of
    logs and tracebacks.
    """

    id: str
    tenant_id: int
    channel: Channel
    address: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    fields: Mapping[str, str] = field(repr=False)
    html: str | None = field(default=None, repr=False)
    locale: str = "en"
    unsubscribe_url: str | None = field(default=None, repr=False)
    bound_to: str | None = None


class FailureKind(StrEnum):
    """Whom a failure concerns, and what is known of the message after it."""

    RETRYABLE = "retryable"
    """Not accepted, and the same message may well be accepted later."""

    PERMANENT = "permanent"
    """Not accepted, and never will be as it stands: the message is at fault."""

    PROVIDER = "provider"
    """Not accepted, and neither will any other be: the provider refuses us, or is set up wrongly."""

    UNKNOWN = "unknown"
    """The message was sent, no answer came: it may have been accepted."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has taken the message over, at the instant `at` (UTC)."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended at the instant `at` (UTC) without an acceptance.

    `category` is a constant word to count by (`http_503`, `timeout`); `detail` is one bounded line for
    people, without personal data. `retry_after` is the wait the provider asked for, positive and not yet
    held against any limit of ours. `burns_attempt` is False where the message only met a failing provider:
    the attempt is kept in the records and not counted.
    """

    kind: FailureKind
    category: str
    detail: str
    retry_after: timedelta | None
    at: datetime
    burns_attempt: bool = True
    provider: str = ""
    """Which provider failed; filled in by its circuit (`guarded.py`), empty from the provider itself."""


@dataclass(frozen=True, slots=True)
class NotAttempted:
    """Handed back: it was never sent. Its turn did not come before stop was asked, the time for the batch
    ran out, the provider's circuit opened, or its rate was used up. `retry_at` is the instant before which
    another try is pointless, where that is known.
    """

    retry_at: datetime | None = None


Outcome = Accepted | Failed | NotAttempted


def named(outcome: Outcome, provider: str) -> Outcome:
    """The outcome; a failure that names no provider names this one."""
    if isinstance(outcome, Failed) and not outcome.provider:
        return replace(outcome, provider=provider)
    return outcome


def all_named(outcomes: Iterable[Outcome], provider: str) -> list[Outcome]:
    """The outcomes, as `named` has each of them."""
    return [outcome if type(outcome) is Accepted else named(outcome, provider) for outcome in outcomes]


class DeliveryControl(Protocol):
    """How a delivery under way hears that it must stop, and tells how it goes; at once and from any thread."""

    def start_no_more(self) -> bool:
        """Whether no further message may be sent; asked before each, or each few that are sent within milliseconds.
        What is in flight is still waited for.
        """

    def abandon(self) -> bool:
        """Whether what is in flight must be given up as well; asked while waiting."""

    def note(self, outcome: Outcome, began_at: float) -> None:
        """Told of each outcome that shows how the provider is, as soon as it is known.

        So not of what was refused without asking the provider, nor of what was abandoned. `began_at` is
        when the message was sent, in seconds of the clock's `monotonic`.
        """


class Provider(Protocol):
    """Hands messages to the outside world. Used by one thread at a time."""

    @property
    def name(self) -> str:
        """A constant word for logs, counters and the provider's circuit."""

    def pauses_until(self) -> datetime | None:
        """The instant before which it takes no messages, as things are; None: it takes them now."""

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Try each message once, within a bounded time; one outcome per message, in the order given.

        Never raises for what a provider, the network or the content of a message does: that is an outcome.
        """

    def close(self) -> None:
        """Let go of connections and files. May be called twice; nothing is delivered afterwards."""
