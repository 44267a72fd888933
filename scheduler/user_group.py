"""A group of writes to users of one tenant, in one transaction: each with an outcome of its own.

All members are decided by how things are before any of them is written, and no two of them touch the same user or
external id: so it is as if they had come one after the other. Who touches what another member does is written later.

A group that adds users and does nothing else, as most of a burst, is decided while it is written: in a round trip less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scheduler.domain.access import Actor
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Occasion
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import UserInput, UserPatch, patched
from scheduler.edited_users import EditedUsers
from scheduler.errors import DaybreakError, InvalidInput, NotFound, VersionConflict
from scheduler.group_writer import LATER, Outcome
from scheduler.planner import Planner
from scheduler.store import audit, user_writes, users
from scheduler.store.bulk_users import AddedMeanwhile
from scheduler.store.planning import Replanned
from scheduler.store.user_writes import LockedUsers, NewUser, Note, PlannedMeanwhile, UserWrites, Written
from scheduler.store.users import StoredUser

UserKey = int | str
"""Which user: by our id, or by the external id that the caller's own system gave them."""


class Action(StrEnum):
    """What a write does, as the audit log calls it."""

    CREATE = "create"
    PUT = "put"
    """Add or replace; the audit log says which."""
    REPLACE = "replace"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class UserWrite:
    """What one caller wants; `values` are the whole user, or what of them is to change (None: to be deleted)."""

    tenant_id: int
    action: Action
    key: UserKey
    values: UserInput | UserPatch | None
    actor: Actor
    expected_version: int | None = None

    @property
    def wanted(self) -> str | None:
        """The external id that the user is to have; None: as it is."""
        return getattr(self.values, "external_id", None) or None


@dataclass(frozen=True, slots=True)
class WrittenUser:
    """A user after a write, whether they are new, and what the write changed in the message log."""

    user: StoredUser
    replanned: Replanned
    is_new: bool = False


Done = WrittenUser | Replanned
"""What a write is answered; a deletion with what it changed in the log."""


@dataclass(frozen=True, slots=True, eq=False)
class _Decision:
    """A write that can be done: None `before`, they are new; None `after`, they are deleted."""

    write: UserWrite
    before: StoredUser | None
    after: UserInput | None

    @property
    def touches(self) -> frozenset[UserKey]:
        """The user and the external ids whose state this needs, or changes."""
        names = [each.external_id for each in (self.before and self.before.values, self.after) if each]
        return frozenset([*names, self.before.id] if self.before else names)


class OutcomeUnknown(Exception):
    """Something failed while a group was being committed, or since; `outcomes` are those of its members."""

    def __init__(self, outcomes: Sequence[Outcome[Done]]) -> None:
        super().__init__()
        self.outcomes = list(outcomes)


_NOBODY: Final = LockedUsers({}, {})


class UserGroup:
    """Writes groups of one database. May be shared between threads."""

    def __init__(
        self,
        planner: Planner,
        tombstones: Tombstones | None,
        problems: Callable[[UserInput], list[FieldError]],
    ) -> None:
        self._planner = planner
        self._tombstones = tombstones
        self._problems = problems

    def write(
        self, connection: Connection, writes: Sequence[UserWrite], now: datetime, *, hurries: bool = False
    ) -> list[Outcome[Done]]:
        """The outcome of each, once the caller commits. Raises PlanningBehind, AddedMeanwhile, PlannedMeanwhile, or
        DBAPIError: then nothing may be committed.

        A group that `hurries` does not wait long for a lock, which is a DBAPIError as well. Where it only adds users
        for whom nothing is to be planned it commits by itself, and may raise OutcomeUnknown.
        """
        tenant_id = writes[0].tenant_id
        is_adding = all(write.action is Action.CREATE for write in writes)
        locked = _NOBODY if is_adding else _lock(connection, tenant_id, writes, hurries=hurries)
        decided = [self._decide(connection, write, locked) for write in writes]
        doing = _apart(each for each in decided if isinstance(each, _Decision))
        known = self._known(tenant_id, doing, now) if is_adding and hurries else []
        try:
            done = self._do(connection, tenant_id, doing, now, is_adding, hurries, known) if doing else {}
        except Exception as error:
            if not known or _has_changed_nothing(error):
                raise
            # It may have been committed: to write it again might be to write it twice.
            raise OutcomeUnknown(_outcomes(decided, dict.fromkeys(doing, error))) from error
        return _outcomes(decided, done)

    def _known(self, tenant_id: int, doing: Sequence[_Decision], now: datetime) -> list[Occasion]:
        """The occasions by which there is nothing to plan for those who are to be added, if so."""
        users = [each.after for each in doing if each.after is not None]
        return self._planner.nothing_to_plan(tenant_id, users, now=now)

    def _decide(
        self, connection: Connection, write: UserWrite, locked: LockedUsers
    ) -> _Decision | DaybreakError | ValidationError:
        try:
            before = _before(write, locked)
            after = self._after(write, before)
            if after is not None and (before is None or before.values.external_id != after.external_id):
                self._check_free(connection, write, after, locked, is_new=before is None)
        except (DaybreakError, ValidationError) as error:
            return error
        return _Decision(write, before, after)

    def _after(self, write: UserWrite, before: StoredUser | None) -> UserInput | None:
        if not isinstance(write.values, UserPatch):
            return write.values
        assert before is not None, "nobody is added by a patch"
        after = patched(before.values, write.values)
        if problems := self._problems(after):
            raise InvalidInput(problems)
        return after

    def _check_free(
        self, connection: Connection, write: UserWrite, after: UserInput, locked: LockedUsers, *, is_new: bool
    ) -> None:
        """Whether the external id may be given to somebody. Who is new is looked for among the erased as they are
        written; to rename somebody is too rare for that.
        """
        if after.external_id in locked.owners:
            raise users.taken(after)
        if is_new:
            return
        tombstone = self._tombstone(write.tenant_id, after)
        if users.is_erased(connection, write.tenant_id, tombstone):
            raise users.erased(tombstone)

    def _do(
        self,
        connection: Connection,
        tenant_id: int,
        doing: Sequence[_Decision],
        now: datetime,
        is_adding: bool,
        hurries: bool,
        known: Sequence[Occasion],
    ) -> dict[_Decision, Outcome[Done]]:
        writes = self._writes(tenant_id, doing)
        if not is_adding:
            written = user_writes.write(connection, tenant_id, writes, now=now)
        else:
            try:
                written = user_writes.create(
                    connection, tenant_id, writes.new, now=now, hurries=hurries, known=known
                )
            except PlannedMeanwhile:
                self._planner.forget_occasions(tenant_id)
                raise
        stored = {each: _stored(each, written, now) for each in doing}
        replanned = {} if known else self._replanned(connection, tenant_id, stored, written, now)
        return {
            each: users.taken(each.after)
            if each.after and each.after.external_id in written.taken
            else self._outcome(tenant_id, each, stored[each], replanned)
            for each in doing
        }

    def _replanned(
        self,
        connection: Connection,
        tenant_id: int,
        stored: Mapping[_Decision, StoredUser | None],
        written: Written,
        now: datetime,
    ) -> dict[int, Replanned]:
        return self._planner.replan_written(
            connection,
            tenant_id,
            [
                EditedUsers.of([user.id], [user.values], are_new=each.before is None)
                for each, user in stored.items()
                if user is not None
            ],
            [each.before.id for each in stored if each.before is not None and each.after is None],
            written.watermarks,
            now=now,
        )

    def _writes(self, tenant_id: int, doing: Sequence[_Decision]) -> UserWrites:
        changes = [each for each in doing if each.before is not None]
        return UserWrites(
            new=[
                NewUser(each.after, each.write.actor, self._tombstone(tenant_id, each.after))
                for each in doing
                if each.before is None and each.after is not None
            ],
            changed={each.before.id: each.after for each in changes if each.before and each.after},
            deleted_ids=[each.before.id for each in changes if each.before and not each.after],
            notes=[_note(each, each.before) for each in changes if each.before],
        )

    def _outcome(
        self,
        tenant_id: int,
        decision: _Decision,
        stored: StoredUser | None,
        replanned: Mapping[int, Replanned],
    ) -> Outcome[Done]:
        before, after = decision.before, decision.after
        if stored is not None:
            return WrittenUser(stored, replanned.get(stored.id, Replanned()), is_new=before is None)
        if after is not None:
            return users.erased(self._tombstone(tenant_id, after))
        assert before is not None, "only somebody who was there is deleted"
        return replanned.get(before.id, Replanned())

    def _tombstone(self, tenant_id: int, user: UserInput) -> bytes | None:
        return None if self._tombstones is None else self._tombstones.of(tenant_id, user.external_id)


def _outcomes(
    decided: Iterable[_Decision | Exception], done: Mapping[_Decision, Outcome[Done]]
) -> list[Outcome[Done]]:
    """The outcome of each; whoever has none is to be written later."""
    return [each if isinstance(each, Exception) else done.get(each, LATER) for each in decided]


def _has_changed_nothing(error: Exception) -> bool:
    """Whether what was to be committed in the same round trip was not, by this error."""
    if isinstance(error, DBAPIError):
        return not error.connection_invalidated
    return isinstance(error, (AddedMeanwhile, PlannedMeanwhile))


def _lock(
    connection: Connection, tenant_id: int, writes: Sequence[UserWrite], *, hurries: bool
) -> LockedUsers:
    return user_writes.lock(
        connection,
        tenant_id,
        user_ids={write.key for write in writes if isinstance(write.key, int)},
        # No external id holds a NUL, and PostgreSQL takes none.
        external_ids={
            write.key
            for write in writes
            if isinstance(write.key, str) and write.action is not Action.CREATE and "\0" not in write.key
        },
        wanted={write.wanted for write in writes if write.wanted is not None},
        hurries=hurries,
    )


def _before(write: UserWrite, locked: LockedUsers) -> StoredUser | None:
    """The user as they are; None: they are to be added. Raises NotFound or VersionConflict."""
    if write.action is Action.CREATE:
        return None
    user_id = write.key if isinstance(write.key, int) else locked.owners.get(write.key)
    found = None if user_id is None else locked.by_id.get(user_id)
    if found is None and write.action is not Action.PUT:
        raise NotFound("user", write.key)
    version = 0 if found is None else found.version
    if write.expected_version not in (None, version):
        raise VersionConflict(write.expected_version, version)
    return found


def _apart(decisions: Iterable[_Decision]) -> list[_Decision]:
    """Those that touch nothing that an earlier one does."""
    touched: set[UserKey] = set()
    found = []
    for each in decisions:
        if touched.isdisjoint(each.touches):
            found.append(each)
            touched |= each.touches
    return found


def _stored(decision: _Decision, written: Written, now: datetime) -> StoredUser | None:
    """The user as they are now; None: they were deleted, or not added."""
    before, after = decision.before, decision.after
    if after is None:
        return None
    if before is not None:
        return StoredUser(before.id, written.versions[before.id], before.created_at, now, after)
    created = written.created.get(after.external_id)
    return None if created is None else StoredUser(*created, now, now, after)


def _note(decision: _Decision, before: StoredUser) -> Note:
    action = Action.REPLACE if decision.write.action is Action.PUT else decision.write.action
    old: Mapping[str, Any] = before.values.model_dump(mode="json")
    new: Mapping[str, Any] | None = None
    if decision.after is not None:
        old, new = audit.changes(old, decision.after.model_dump(mode="json"))
    return Note(before.id, decision.write.actor, action, old, new)
