"""What people do with dead letters: replay them, at a rate they choose, or discard them with a reason.

A replay makes a dead message `retrying` again under its old key, with as many further attempts as its occasion
allows; its dead letter goes, the attempts that failed stay on record. Whether it may still be sent is decided
when it is claimed, as for any other: its user may be gone by then, or must not be written to.

Many letters are moved some thousands at a time, each chunk in a transaction of its own. A replay that breaks off
has done what it reported, and another one does the rest. Letters that die after it has begun are not its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import SYSTEM, Actor
from scheduler.domain.batch import MAX_BATCH_SIZE
from scheduler.errors import Conflict, NotFound
from scheduler.store import audit, dead_letters, messages
from scheduler.store.database import in_transaction
from scheduler.store.dead_letters import DeadLetter, DeadLetterFilter, Place, Spread

DEFAULT_MESSAGES_PER_SECOND: Final = 100.0
MOST_MESSAGES_PER_SECOND: Final = 100_000.0
LEAST_MESSAGES_PER_SECOND: Final = 0.01
MOST_REASON_CHARACTERS: Final = 500

_CHUNK: Final = 5_000

Result = TypeVar("Result")

OnProgress = Callable[[int], object]
"""Told how many letters more are dealt with."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did, in letters."""

    replayed: int = 0
    outcome_unknown: int = 0
    """Of those replayed: the provider may have accepted them already. It is given the same keys."""
    settled: int = 0
    """Removed without a replay: a callback or somebody else had settled their messages meanwhile."""
    last_due_at: datetime | None = None
    """When the last of them falls due."""

    def __add__(self, other: Replayed) -> Replayed:
        """Both together."""
        dues = [due for due in (self.last_due_at, other.last_due_at) if due is not None]
        return Replayed(
            self.replayed + other.replayed,
            self.outcome_unknown + other.outcome_unknown,
            self.settled + other.settled,
            max(dues, default=None),
        )


class DeadLetters:
    """Replays and discards the dead letters of one database. Safe to use from several places at once."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        max_attempts: int,
        *,
        actor: Actor = SYSTEM,
        chunk: int = _CHUNK,
    ) -> None:
        """`max_attempts`: how often a replayed message is tried where its occasion does not say."""
        self._actor = actor
        self._engine = engine
        self._clock = clock
        self._max_attempts = max_attempts
        self._chunk = chunk

    def replay_one(self, tenant_id: int, letter_id: int) -> Replayed:
        """Try the message of an open letter again, at once. Raises NotFound, or Conflict if it was discarded."""

        def work(connection: Connection) -> Replayed:
            letter = _open(dead_letters.lock(connection, tenant_id, letter_id), letter_id)
            now = self._clock.now()
            replayed = self._replay(connection, [letter], Spread(now, MOST_MESSAGES_PER_SECOND, 0, 1), now)
            self._note(connection, tenant_id, "replay", [letter], {"replayed": replayed.replayed}, now)
            return replayed

        return _log_replay(in_transaction(self._engine, work), None)

    def replay(
        self,
        tenant_id: int,
        wanted: DeadLetterFilter,
        messages_per_second: float,
        on_progress: OnProgress = lambda _: None,
    ) -> Replayed:
        """Try all messages of `wanted` again, the longest dead first, spread over time at the rate given.

        The rate is this replay's own: two at once add up, and so does what falls due anyway.
        """
        if not LEAST_MESSAGES_PER_SECOND <= messages_per_second <= MOST_MESSAGES_PER_SECOND:
            raise ValueError("no rate to replay at")
        # No more than a second's messages in a batch: they go out together.
        batch_size = min(MAX_BATCH_SIZE, max(1, math.floor(messages_per_second)))
        total = Replayed()
        spread = Spread(self._clock.now(), messages_per_second, 0, batch_size)

        def work(connection: Connection, taken: Sequence[DeadLetter]) -> Replayed:
            now = self._clock.now()
            replayed = self._replay(connection, taken, spread, now)
            self._note(connection, tenant_id, "replay", taken, {"replayed": replayed.replayed}, now)
            return replayed

        def done(letters: int, replayed: Replayed) -> None:
            nonlocal total, spread
            total += replayed
            spread = replace(spread, messages_before=total.replayed)
            on_progress(letters)

        self._by_chunks(tenant_id, wanted, work, done)
        return _log_replay(total, messages_per_second)

    def discard_one(self, tenant_id: int, letter_id: int, reason: str) -> DeadLetter:
        """Close a letter without another try. Raises NotFound, or Conflict if it is discarded already."""

        def work(connection: Connection) -> DeadLetter:
            letter = _open(dead_letters.lock(connection, tenant_id, letter_id), letter_id)
            now = self._clock.now()
            dead_letters.discard(connection, [letter], reason=reason, now=now)
            self._note(connection, tenant_id, "discard", [letter], {"reason": reason}, now)
            return replace(letter, discarded_at=now, discard_reason=reason)

        letter = in_transaction(self._engine, work)
        logger.bind(discarded=1).info("dead_letters_discarded")
        return letter

    def discard(
        self,
        tenant_id: int,
        wanted: DeadLetterFilter,
        reason: str,
        on_progress: OnProgress = lambda _: None,
    ) -> int:
        """Close all letters of `wanted`, which must be open ones, without another try; returns how many."""
        total = 0

        def work(connection: Connection, taken: Sequence[DeadLetter]) -> int:
            now = self._clock.now()
            discarded = dead_letters.discard(connection, taken, reason=reason, now=now)
            self._note(
                connection, tenant_id, "discard", taken, {"reason": reason, "discarded": discarded}, now
            )
            return discarded

        def done(letters: int, discarded: int) -> None:
            nonlocal total
            total += discarded
            on_progress(letters)

        self._by_chunks(tenant_id, wanted, work, done)
        logger.bind(discarded=total).info("dead_letters_discarded")
        return total

    def _replay(
        self, connection: Connection, letters: Sequence[DeadLetter], spread: Spread, now: datetime
    ) -> Replayed:
        """Move messages, letters and batches in one transaction; the letters are locked."""
        attempts = messages.replay(connection, [letter.key for letter in letters])
        dues = dead_letters.add_batches(
            connection, attempts, spread, max_attempts=self._max_attempts, now=now
        )
        dead_letters.remove(connection, letters)
        return Replayed(
            replayed=len(attempts),
            outcome_unknown=sum(letter.outcome_unknown for letter in letters if letter.key in attempts),
            settled=len(letters) - len(attempts),
            last_due_at=max(dues, default=None),
        )

    def _note(
        self,
        connection: Connection,
        tenant_id: int,
        action: str,
        letters: Sequence[DeadLetter],
        done: Mapping[str, Any],
        now: datetime,
    ) -> None:
        """One entry for a letter, or for a chunk of them: then with the first id and the last."""
        if not letters:
            return
        first, last = letters[0].id, letters[-1].id
        subject = str(first) if len(letters) == 1 else f"{first}-{last}"
        by = replace(self._actor, tenant_id=tenant_id)
        audit.add(connection, by, action, "dead_letter", subject, None, done, now=now)

    def _by_chunks(
        self,
        tenant_id: int,
        wanted: DeadLetterFilter,
        work: Callable[[Connection, Sequence[DeadLetter]], Result],
        done: Callable[[int, Result], None],
    ) -> None:
        """Do `work` on all letters there are at the beginning, chunk by chunk; `done` hears of each once committed."""
        after: Place | None = None

        def move(connection: Connection) -> tuple[Sequence[DeadLetter], Result]:
            taken = dead_letters.take(
                connection, tenant_id, wanted, after=after, through=through, most=self._chunk
            )
            return taken, work(connection, taken)

        with self._engine.connect() as connection:
            through = dead_letters.newest(connection)
        while True:
            taken, result = in_transaction(self._engine, move)
            done(len(taken), result)
            if len(taken) < self._chunk:
                return
            after = taken[-1].place


def _open(letter: DeadLetter | None, letter_id: int) -> DeadLetter:
    if letter is None:
        raise NotFound("dead letter", letter_id)
    if letter.discarded_at is not None:
        raise Conflict(
            f"dead letter {letter_id} was discarded: only a replay of discarded ones by filter takes it"
        )
    return letter


def _log_replay(replayed: Replayed, messages_per_second: float | None) -> Replayed:
    logger.bind(
        replayed=replayed.replayed,
        outcome_unknown=replayed.outcome_unknown,
        settled=replayed.settled,
        messages_per_second=messages_per_second,
    ).info("dead_letters_replayed")
    return replayed
