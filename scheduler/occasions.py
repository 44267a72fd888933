"""The service of occasions: write, pause, resume, archive them, each change with its plan and its audit entry.

An occasion is in one of these conditions:

- *active*: planned through the horizon and sent.
- *paused*: planned as ever, and nothing of it sent. Its messages stay in the log; who resumes it says what is to
  become of those that fell due meanwhile: send what is within its lateness limit, or leave them out.
- *not active*: neither planned nor sent; what was scheduled is taken out of the log, and nothing is made up later.
- *archived*: not active, and kept for its history only.

A request has so many seconds: what it cannot plan or replan in them is done by the next recovery, and nothing of an
occasion that is being replanned is sent until then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import Actor
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Occasion, OccasionKind
from scheduler.domain.occasion_input import (
    OccasionInput,
    OccasionPatch,
    applied,
    input_of,
    occasion_of,
    patched,
)
from scheduler.errors import Conflict, DaybreakError, InvalidInput, NotFound, VersionConflict
from scheduler.occasion_edits import OccasionEdits
from scheduler.occasion_planning import GoOn
from scheduler.planner import Planner
from scheduler.store import (
    audit,
    backlogs,
    batch_holds,
    batches,
    locks,
    messages,
    occasion_groups,
    occasions,
    watermarks,
)
from scheduler.store.backlogs import Backlog
from scheduler.store.batches import Counts
from scheduler.store.database import in_transaction
from scheduler.store.planning import Planned, Replanned
from scheduler.texts.checking import check_texts

REQUEST_SECONDS: Final = 15.0
"""How long one request plans or replans."""

_SKIPPED_AT_ONCE: Final = 50  # batches, of up to 500 messages

_KIND: Final = "occasion"


class BacklogChoice(StrEnum):
    """What becomes of messages that fell due while their occasion paused."""

    SEND = "send"
    SKIP = "skip"


class BacklogWaiting(DaybreakError):
    """An occasion is to resume, and nobody has said what is to become of its `backlog`."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        super().__init__(backlog)

    def __str__(self) -> str:
        """How much there is of it."""
        return (
            f"{self.backlog.due} messages fell due in the pause, {self.backlog.within_limit} of them are within "
            "their lateness limit: say whether to send or to skip them"
        )


@dataclass(frozen=True, slots=True)
class WrittenOccasion:
    """An occasion after a write. `is_done`: the log agrees with it for everyone."""

    occasion: Occasion
    planned: Planned | None = None
    """What a new one has put into the log."""
    replanned: Replanned | None = None
    """What an edit has changed in the log."""
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class ResumedOccasion:
    """An occasion that goes on, and what became of its backlog."""

    occasion: Occasion
    backlog: Backlog
    skipped: int


Change = Callable[[Occasion], Occasion]


class Occasions:
    """Writes the occasions of one database. Whose they are is the actor's tenant."""

    def __init__(
        self, engine: Engine, planner: Planner, clock: Clock, *, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._edits = OccasionEdits(engine, planner)
        self._clock = clock
        self._request_seconds = request_seconds

    def create(self, actor: Actor, given: OccasionInput, *, action: str = "create") -> WrittenOccasion:
        """Store an occasion and plan it through the horizon. Raises InvalidInput, or Conflict for a taken key."""
        occasion = occasion_of(given, actor.tenant_id)
        now = self._clock.now()
        if mistakes := check_texts(occasion):
            raise InvalidInput(mistakes)

        def work(connection: Connection) -> Occasion:
            # Whoever adds users at this moment either is done before, or plans them for this occasion as well.
            locks.exclude_planning(connection, actor.tenant_id)
            occasion_groups.check_group(connection, occasion)
            if occasions.find(connection, actor.tenant_id, occasion.key) is not None:
                raise Conflict(f"there is an occasion {occasion.key!r} already")
            stored = occasions.add(connection, occasion, now=now)
            self._note(connection, actor, action, None, stored, now)
            if not stored.active:
                return stored
            # Else whoever adds a user next would begin it, and the planning below would think it was overtaken.
            watermarks.begin(connection, [stored.id], now=now)
            return replace(stored, planned_through=now)

        stored = in_transaction(self._engine, work)
        if not stored.active:
            return WrittenOccasion(stored, planned=Planned())
        planned = self._planner.plan_occasion(stored, now=now, go_on=self._budget())
        written = self.read(actor.tenant_id, stored.key)
        through = now + self._planner.policy.horizon
        is_done = written.planned_through is not None and written.planned_through >= through
        return WrittenOccasion(written, planned=planned, is_done=is_done)

    def read(self, tenant_id: int, key: str) -> Occasion:
        """An occasion by its key. Raises NotFound."""
        with self._engine.connect() as connection:
            return _find(connection, tenant_id, key)

    def replace(
        self, actor: Actor, key: str, given: OccasionInput, expected_version: int | None = None
    ) -> WrittenOccasion:
        """Replace all that can be written of an occasion. Raises InvalidInput, NotFound, Conflict, VersionConflict."""
        if given.key != key:
            raise InvalidInput([FieldError("/key", "must be the key of this occasion: it never changes")])
        return self._edit(actor, key, expected_version, "replace", lambda before: applied(given, before))

    def patch(
        self, actor: Actor, key: str, patch: OccasionPatch, expected_version: int | None = None
    ) -> WrittenOccasion:
        """Change what `patch` names (RFC 7396). Raises as `replace` does, and ValidationError."""

        def change(before: Occasion) -> Occasion:
            return applied(patched(input_of(before), patch), before)

        return self._edit(actor, key, expected_version, "change", change)

    def archive(self, actor: Actor, key: str, expected_version: int | None = None) -> WrittenOccasion:
        """Turn an occasion off and keep it for its history. Harmless to repeat."""

        def change(before: Occasion) -> Occasion:
            return replace(
                before, active=False, archived_at=before.archived_at or self._clock.now(), paused_at=None
            )

        return self._edit(actor, key, expected_version, "archive", change, of_archived=True)

    def unarchive(self, actor: Actor, key: str, expected_version: int | None = None) -> WrittenOccasion:
        """Take an occasion back from the archive, not active."""
        return self._edit(
            actor,
            key,
            expected_version,
            "unarchive",
            lambda before: replace(before, archived_at=None),
            of_archived=True,
        )

    def clone(
        self, actor: Actor, key: str, new_key: str, name: str | None, *, active: bool
    ) -> WrittenOccasion:
        """Create an occasion like another one. Raises NotFound, or as `create` does."""
        original = input_of(self.read(actor.tenant_id, key))
        changes = {"key": new_key, "name": name or original.name, "active": active}
        return self.create(actor, original.model_copy(update=changes), action="clone")

    def delete(self, actor: Actor, key: str, expected_version: int | None = None) -> WrittenOccasion | None:
        """Delete an occasion that has never planned anything (None), else archive it."""
        now = self._clock.now()

        def work(connection: Connection) -> bool:
            before = self._lock(connection, actor, key, expected_version)
            if occasions.has_planned(connection, before.id):
                return False
            occasions.remove(connection, before.id)
            self._note(connection, actor, "delete", before, None, now)
            return True

        if in_transaction(self._engine, work):
            return None
        return self.archive(actor, key, expected_version)

    def pause(self, actor: Actor, key: str, expected_version: int | None = None) -> Occasion:
        """Send nothing of an occasion until it is resumed. Harmless to repeat. Raises Conflict for one that is off."""
        now = self._clock.now()

        def work(connection: Connection) -> Occasion:
            before = self._lock(connection, actor, key, expected_version)
            if not before.active:
                raise Conflict(f"occasion {key!r} is not active: there is nothing to pause")
            if before.paused_at is not None:
                return before
            occasions.set_paused(connection, before.id, now, now=now)
            batch_holds.hold(connection, before.id)
            audit.add(
                connection, actor, "pause", _KIND, key, {"paused_at": None}, {"paused_at": now}, now=now
            )
            return _find(connection, actor.tenant_id, key)

        occasion = in_transaction(self._engine, work)
        logger.bind(occasion=key).info("occasion_paused")
        return occasion

    def backlog(self, tenant_id: int, key: str) -> tuple[Occasion, Backlog]:
        """What an occasion would have sent since it pauses; nothing where it does not. Raises NotFound."""
        with self._engine.connect() as connection:
            occasion = _find(connection, tenant_id, key)
            return occasion, self._backlog(connection, occasion, self._clock.now())

    def resume(
        self, actor: Actor, key: str, choice: BacklogChoice | None, expected_version: int | None = None
    ) -> ResumedOccasion:
        """Let a paused occasion go on. Harmless for one that does not pause.

        Raises BacklogWaiting where there is a backlog and no choice was made. What is skipped is cancelled with
        the reason `paused`, some thousands of messages to a transaction: who is cut short resumes again.
        """
        now = self._clock.now()
        occasion, backlog = self.backlog(actor.tenant_id, key)
        _check(occasion, expected_version)
        if backlog.due and choice is None:
            raise BacklogWaiting(backlog)
        skipped = self._skip(occasion, now) if choice is BacklogChoice.SKIP else 0

        def work(connection: Connection) -> Occasion:
            before = self._lock(connection, actor, key, expected_version)
            if before.paused_at is None:
                return before
            occasions.set_paused(connection, before.id, None, now=now)
            batch_holds.release(connection, before.id)
            after = {
                "paused_at": None,
                "backlog": choice,
                "due": backlog.due,
                "within_limit": backlog.within_limit,
                "skipped": skipped,
            }
            audit.add(
                connection, actor, "resume", _KIND, key, {"paused_at": before.paused_at}, after, now=now
            )
            return _find(connection, actor.tenant_id, key)

        resumed = in_transaction(self._engine, work)
        logger.bind(occasion=key, due=backlog.due, skipped=skipped).info("occasion_resumed")
        return ResumedOccasion(resumed, backlog, skipped)

    def _edit(
        self,
        actor: Actor,
        key: str,
        expected_version: int | None,
        action: str,
        change: Change,
        *,
        of_archived: bool = False,
    ) -> WrittenOccasion:
        now = self._clock.now()
        self._edits.prepare(self.read(actor.tenant_id, key), now=now)

        def work(connection: Connection) -> bool:
            before = self._lock(connection, actor, key, expected_version)
            if before.archived_at is not None and not of_archived:
                raise Conflict(f"occasion {key!r} is archived; unarchive it first")
            after = change(before)
            if after == before:
                return False
            self._edits.change(connection, after, now=now)
            self._note(connection, actor, action, before, after, now)
            return True

        is_changed = in_transaction(self._engine, work)
        occasion = self.read(actor.tenant_id, key)
        if not is_changed or occasion.replan_from is None:
            return WrittenOccasion(occasion, replanned=Replanned(), is_done=occasion.replan_from is None)
        replanned = self._edits.replan(occasion, go_on=self._budget())
        return WrittenOccasion(
            self.read(actor.tenant_id, key), replanned=replanned.replanned, is_done=replanned.is_done
        )

    def _lock(self, connection: Connection, actor: Actor, key: str, expected_version: int | None) -> Occasion:
        """The occasion as it stays until the transaction ends."""
        locks.exclude_planning(connection, actor.tenant_id)
        found = _find(connection, actor.tenant_id, key)
        _check(found, expected_version)
        return found

    def _skip(self, occasion: Occasion, now: datetime) -> int:
        """Cancel what fell due in the pause and was never tried; the batches go their way and find it gone."""
        total = 0
        while skipped := in_transaction(
            self._engine, lambda connection: self._skip_some(connection, occasion.id, now)
        ):
            total += sum(skipped)
        return total

    def _skip_some(self, connection: Connection, occasion_id: int, now: datetime) -> list[int]:
        if not occasions.is_paused(connection, occasion_id):
            return []
        skipped = []
        for batch in batch_holds.held_due(connection, occasion_id, now=now, most=_SKIPPED_AT_ONCE):
            skipped.append(messages.skip(connection, batch))
            batches.count(connection, batch.id, Counts(cancelled=skipped[-1]))
            batch_holds.release_one(connection, batch.id)
        return skipped

    def _backlog(self, connection: Connection, occasion: Occasion, now: datetime) -> Backlog:
        if occasion.paused_at is None:
            return Backlog()
        limit: timedelta = occasion.lateness_limit or self._planner.policy.lateness_limit
        return backlogs.backlog(connection, occasion.id, now=now, lateness_limit=limit)

    def _budget(self) -> GoOn:
        ends = self._clock.monotonic() + self._request_seconds
        return lambda: self._clock.monotonic() < ends

    def _note(
        self,
        connection: Connection,
        actor: Actor,
        action: str,
        before: Occasion | None,
        after: Occasion | None,
        now: datetime,
    ) -> None:
        """Keep what changed; of one that is new or gone, all."""
        old, new = _as_json(before), _as_json(after)
        if old is not None and new is not None:
            changed = {name for name in new if old[name] != new[name]}
            old = {name: old[name] for name in sorted(changed)}
            new = {name: new[name] for name in sorted(changed)}
        subject = after or before
        assert subject is not None, "somebody did something to an occasion"
        audit.add(connection, actor, action, _KIND, subject.key, old, new, now=now)


def _as_json(occasion: Occasion | None) -> dict[str, Any] | None:
    if occasion is None:
        return None
    return {
        **{name: value for name, value in asdict(occasion).items() if name not in _NOT_AUDITED},
        "quiet_hours": None if occasion.quiet_hours is None else str(occasion.quiet_hours),
        "kind": occasion.kind,
    }


_NOT_AUDITED: Final = frozenset(
    {"id", "tenant_id", "version", "planned_through", "ahead_through", "replan_from", "paused_at"}
)


def _find(connection: Connection, tenant_id: int, key: str) -> Occasion:
    found = None if "\0" in key else occasions.find(connection, tenant_id, key)
    if found is None or found.kind is OccasionKind.AD_HOC:
        raise NotFound(_KIND, key)
    return found


def _check(occasion: Occasion, expected_version: int | None) -> None:
    if expected_version is not None and expected_version != occasion.version:
        raise VersionConflict(expected_version, occasion.version)
