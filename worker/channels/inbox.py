"""The provider of the channel `in_app`: messages go into their users' inboxes, in the database itself.

A call is one statement, so its messages are there together or not at all. The key of a message is the key of
its entry: what is sent again is accepted and stays there once, whatever was known of the first time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from scheduler.clock import Clock
from scheduler.domain.message import MessageKey
from scheduler.provider_settings import ProviderEntry
from scheduler.store import inbox
from scheduler.store.database import in_transaction
from scheduler.store.inbox import NewEntry
from worker.channels.context import ProviderContext
from worker.channels.options import ProviderOptions, parse_options
from worker.channels.port import (
    Accepted,
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
)


class InboxOptions(ProviderOptions):
    """An inbox needs nothing."""


def build(entry: ProviderEntry, context: ProviderContext) -> InboxProvider:
    """The inbox of the process's database. Raises ConfigurationError for options it does not know."""
    parse_options(InboxOptions, entry)
    return InboxProvider(entry.name, context.engine, context.clock)


class InboxProvider:
    """Adds each message to its user's inbox. Needs one free connection of `engine` during a delivery."""

    def __init__(self, name: str, engine: Engine, clock: Clock) -> None:
        self.name = name
        self._engine = engine
        self._clock = clock

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Add the messages, all or none of them; one outcome each, in their order.

        A database that does not answer is a retryable outcome: the same key makes it harmless to try again
        what may be there already.
        """
        began_at = self._clock.monotonic()
        now = self._clock.now()
        outcomes: list[Outcome] = []
        entries: list[NewEntry] = []
        for message in messages:
            refused = _refusal(message, control, now)
            outcomes.append(refused or Accepted(now))
            if refused is None:
                entries.append(_entry(message))
        if not entries:
            return outcomes
        added = self._add(entries, now)
        for _ in entries:
            control.note(added, began_at)
        return [added if isinstance(outcome, Accepted) else outcome for outcome in outcomes]

    def close(self) -> None:
        """The engine is its process's: nothing is let go of."""

    def _add(self, entries: Sequence[NewEntry], now: datetime) -> Accepted | Failed:
        """What became of each of the entries.

        One whose user is deleted at this moment counts as accepted: it went where the whole inbox goes.
        """
        try:
            in_transaction(self._engine, lambda connection: inbox.add(connection, entries, now=now))
        except (DBAPIError, PoolTimeout) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            detail = f"the inbox could not be written: {type(cause).__name__}"
            return Failed(FailureKind.RETRYABLE, "inbox_unavailable", detail, None, self._clock.now())
        return Accepted(now)


def _refusal(message: OutgoingMessage, control: DeliveryControl, now: datetime) -> Outcome | None:
    """Why a message is not added; None: it is."""
    if control.start_no_more():
        return NotAttempted()
    if _is_storable(message.subject, message.text, message.html or ""):
        return None
    detail = "the message holds a NUL or half of a surrogate pair"
    return Failed(FailureKind.PERMANENT, "not_storable", detail, None, now)


def _is_storable(*texts: str) -> bool:
    """Whether PostgreSQL can keep the texts: one message that it refuses must not fail those beside it."""
    try:
        return b"\0" not in b"".join(text.encode() for text in texts)
    except UnicodeEncodeError:
        return False


def _entry(message: OutgoingMessage) -> NewEntry:
    return NewEntry(
        MessageKey.parse(message.id), message.tenant_id, message.subject, message.text, message.html
    )
