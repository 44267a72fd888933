"""What operators do to single messages and to providers: each with its record in the audit log."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import Actor
from scheduler.domain.message import MessageKey, MessageState
from scheduler.errors import Conflict, NotFound
from scheduler.store import audit, dead_letters, message_queries, messages, provider_holds, withdrawals
from scheduler.store.database import in_transaction
from scheduler.store.dead_letters import Spread
from scheduler.store.message_queries import StoredMessage
from scheduler.store.provider_holds import ProviderHold

_AT_ONCE: Final = 100_000.0
"""Messages a second: more than there are."""


class Operations:
    """Operates one database. Safe to use from several threads."""

    def __init__(self, engine: Engine, clock: Clock, max_attempts: int) -> None:
        """`max_attempts`: how often a message is tried again where its occasion does not say."""
        self._engine = engine
        self._clock = clock
        self._max_attempts = max_attempts

    def cancel_message(self, actor: Actor, key: MessageKey) -> MessageState:
        """Take back a message that waits; the state it is left in (see `withdrawals.withdraw`).

        Raises NotFound, or Conflict where it does not wait: it is being sent, or has ended.
        """

        def work(connection: Connection) -> MessageState:
            before = self._message(connection, actor, key)
            now = self._clock.now()
            state = withdrawals.withdraw(connection, actor.tenant_id, key, now=now)
            if state is None:
                found = self._message(connection, actor, key)
                raise Conflict(f"message {key.text} cannot be cancelled any more: it is {found.state}")
            changes = {"state": before.state.value}, {"state": state.value}
            audit.add(connection, actor, "cancel", "message", key.text, *changes, now=now)
            return state

        state = in_transaction(self._engine, work)
        logger.bind(message=key.text, state=state.value).info("message_cancelled")
        return state

    def retry_message(self, actor: Actor, key: MessageKey) -> datetime:
        """Try a message again, now, with attempts of its own; the instant at which it falls due.

        A dead one is replayed under its old key, one that waits to be retried need not wait. Raises NotFound, or
        Conflict for one in another state, or whose dead letter was discarded.
        """

        def work(connection: Connection) -> datetime:
            message = self._message(connection, actor, key)
            now = self._clock.now()
            attempt = self._attempts_of(connection, actor, message, now)
            spread = Spread(now, _AT_ONCE, 0, 1)
            dead_letters.add_batches(
                connection, {key: attempt}, spread, max_attempts=self._max_attempts, now=now
            )
            before = {"state": message.state.value}
            audit.add(connection, actor, "retry", "message", key.text, before, {"due_at": now}, now=now)
            return now

        due_at = in_transaction(self._engine, work)
        logger.bind(message=key.text).info("message_retried")
        return due_at

    def hold_provider(self, actor: Actor, provider: str, reason: str) -> ProviderHold:
        """Have no worker give a provider anything, within some seconds."""

        def work(connection: Connection) -> ProviderHold:
            now = self._clock.now()
            before = provider_holds.all_holds(connection).get(provider)
            held = provider_holds.hold(connection, provider, held_by=actor.name, reason=reason, now=now)
            audit.add(
                connection, actor, "hold", "provider", provider, _as_dict(before), _as_dict(held), now=now
            )
            return held

        held = in_transaction(self._engine, work)
        logger.bind(provider=provider, held_by=held.held_by).info("provider_held")
        return held

    def resume_provider(self, actor: Actor, provider: str) -> bool:
        """End a hold; False where there was none."""

        def work(connection: Connection) -> bool:
            ended = provider_holds.resume(connection, provider)
            if ended is not None:
                now = self._clock.now()
                audit.add(connection, actor, "resume", "provider", provider, _as_dict(ended), None, now=now)
            return ended is not None

        was_held = in_transaction(self._engine, work)
        if was_held:
            logger.bind(provider=provider).info("provider_resumed")
        return was_held

    def _message(self, connection: Connection, actor: Actor, key: MessageKey) -> StoredMessage:
        history = message_queries.find(connection, actor.tenant_id, key)
        if history is None:
            raise NotFound("message", key.text)
        return history.message

    def _attempts_of(
        self, connection: Connection, actor: Actor, message: StoredMessage, now: datetime
    ) -> int:
        """The attempts behind a message that is to be tried again, which is `retrying` from here on."""
        if message.state is MessageState.DEAD:
            return _revived(connection, actor, message.key)
        if message.state is not MessageState.RETRYING:
            raise Conflict(
                f"message {message.key.text} is {message.state}: only a dead one or one that is retrying is tried again"
            )
        if message.send_at > now:
            raise Conflict(
                f"message {message.key.text} is put off by its user's quiet hours: it is tried again when they end"
            )
        return message.attempt


def _revived(connection: Connection, actor: Actor, key: MessageKey) -> int:
    """Make a dead message `retrying` and remove its letter; the attempts behind it."""
    history = message_queries.find(connection, actor.tenant_id, key)
    known = None if history is None else history.dead_letter
    letter = None if known is None else dead_letters.lock(connection, actor.tenant_id, known.id)
    if letter is not None and letter.discarded_at is not None:
        raise Conflict(f"message {key.text} was given up: its dead letter was discarded")
    attempt = messages.replay(connection, [key]).get(key)
    if attempt is None:
        raise Conflict(f"message {key.text} is not dead any more")
    if letter is not None:
        dead_letters.remove(connection, [letter])
    return attempt


def _as_dict(held: ProviderHold | None) -> dict[str, object] | None:
    return (
        None if held is None else {name: value for name, value in asdict(held).items() if name != "provider"}
    )
