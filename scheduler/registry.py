"""The register of users: every write replans its users in the same transaction and says what it replanned.

So does the audit log learn of it: in the same transaction, by whom and what changed; of an import once, at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import SYSTEM, Actor
from scheduler.domain.field_error import FieldError
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import UserInput, UserPatch, check_dates, patched
from scheduler.domain.zones import zone
from scheduler.errors import Conflict, InvalidInput, NotFound, PersonErased, VersionConflict
from scheduler.planner import EditedUsers, Planner, PlanningBehind
from scheduler.store import audit, bulk_users, creation, erasure, users
from scheduler.store.bulk_users import AddedMeanwhile
from scheduler.store.database import in_transaction
from scheduler.store.planning import Replanned
from scheduler.store.users import StoredUser

Result = TypeVar("Result")

_KIND: Final = "user"


UserKey = int | str
"""Which user: by our id, or by the external id that the caller's own system gave them."""


@dataclass(frozen=True, slots=True)
class WrittenUser:
    """A user after a write, whether they are new, and what the write changed in the message log."""

    user: StoredUser
    replanned: Replanned
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class WrittenUsers:
    """What a bulk write did, in users, and what it changed in the message log.

    `unchanged` were as they are already. `erased` are the external ids of people who were erased: nothing is written
    of them.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    erased: frozenset[str] = frozenset()
    replanned: Replanned = field(default_factory=Replanned)


class Registry:
    """Adds, edits and deletes users of one database, each edit with its plan."""

    def __init__(
        self, engine: Engine, planner: Planner, clock: Clock, tombstones: Tombstones | None = None
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._clock = clock
        self._tombstones = tombstones

    def create(self, tenant_id: int, user: UserInput, *, actor: Actor = SYSTEM) -> WrittenUser:
        """Add a user. Raises InvalidInput, Conflict where the external id is taken, or PersonErased."""
        self._check(user)
        return self._write(lambda connection, now: self._create(connection, tenant_id, user, actor, now))

    def replace(
        self,
        tenant_id: int,
        key: UserKey,
        user: UserInput,
        *,
        expected_version: int | None = None,
        actor: Actor = SYSTEM,
    ) -> WrittenUser:
        """Replace all of a user.

        Raises InvalidInput, NotFound, VersionConflict, Conflict where the external id is taken, or PersonErased.
        """

        def work(connection: Connection, now: datetime) -> WrittenUser:
            before = _locked(connection, tenant_id, key, expected_version)
            return self._replace(connection, tenant_id, before, user, _Act(actor, "replace", now))

        self._check(user)
        return self._write(work)

    def put(
        self, tenant_id: int, user: UserInput, *, expected_version: int | None = None, actor: Actor = SYSTEM
    ) -> WrittenUser:
        """Add the user of this external id, or replace all of them where there is one.

        Raises InvalidInput, PersonErased, or VersionConflict, also where a version is expected and there is nobody.
        """

        def work(connection: Connection, now: datetime) -> WrittenUser:
            if users.lock_external(connection, tenant_id, user.external_id) is not None:
                before = _locked(connection, tenant_id, user.external_id, expected_version)
                return self._replace(connection, tenant_id, before, user, _Act(actor, "replace", now))
            if expected_version is not None:
                raise VersionConflict(expected_version, 0)
            try:
                return self._create(connection, tenant_id, user, actor, now)
            except PersonErased:
                raise
            except Conflict:  # somebody else has added them since
                raise AddedMeanwhile from None

        self._check(user)
        return self._write(work)

    def patch(
        self,
        tenant_id: int,
        key: UserKey,
        patch: UserPatch,
        *,
        expected_version: int | None = None,
        actor: Actor = SYSTEM,
    ) -> WrittenUser:
        """Change what `patch` names (RFC 7396). Raises what `replace` does, or ValidationError."""

        def work(connection: Connection, now: datetime) -> WrittenUser:
            before = _locked(connection, tenant_id, key, expected_version)
            user = patched(before.values, patch)
            self._check(user)
            return self._replace(connection, tenant_id, before, user, _Act(actor, "change", now))

        return self._write(work)

    def delete(
        self,
        tenant_id: int,
        key: UserKey,
        *,
        expected_version: int | None = None,
        actor: Actor = SYSTEM,
    ) -> Replanned:
        """Delete a user, all that is personal of them and all that is scheduled for them.

        Their external id stays known, so that they have their history if they come back; `Privacy.erase` forgets
        that as well. Raises NotFound or VersionConflict.
        """

        def work(connection: Connection, now: datetime) -> Replanned:
            before = _locked(connection, tenant_id, key, expected_version)
            users.delete(connection, tenant_id, before.id, now=now)
            _Act(actor, "delete", now).note(connection, tenant_id, before.id, before.values, None)
            return self._planner.remove(connection, tenant_id, [before.id], now=now)

        return self._write(work)

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """Add or replace some thousands of users at once; their external ids differ and they are checked."""

        def work(connection: Connection, now: datetime) -> WrittenUsers:
            known = bulk_users.stage(connection, tenant_id, batch)
            # Now that they are locked: an erasure under way has been waited for.
            erased = self._erased(connection, tenant_id, batch)
            done = bulk_users.write_staged(connection, tenant_id, len(batch), known, erased, now=now)
            edited = _edited(done.user_ids, batch, are_new=not done.updated_ids)
            replanned = self._planner.replan_edited(connection, tenant_id, edited, now=now)
            return WrittenUsers(
                len(done.created_ids), len(done.updated_ids), done.unchanged, erased, replanned
            )

        return self._write(work) if batch else WrittenUsers()

    def erased(self, tenant_id: int, batch: Sequence[UserInput]) -> frozenset[str]:
        """The external ids in `batch` whose owners were erased; all of them, once anybody was and there is no key."""
        with self._engine.connect() as connection:
            return self._erased(connection, tenant_id, batch)

    def note_import(self, tenant_id: int, counts: Mapping[str, int], *, actor: Actor = SYSTEM) -> None:
        """Keep that an import has ended, or broken off: in one entry, however many users it wrote."""
        by = replace(actor, tenant_id=tenant_id)
        with self._engine.begin() as connection:
            audit.add(connection, by, "import", _KIND, "", None, counts, now=self._clock.now())

    def problems(self, user: UserInput) -> list[FieldError]:
        """What is wrong with a user that only today's date tells, where the user lives."""
        today = self._clock.now().astimezone(zone(user.timezone)).date()
        return check_dates(user, today)

    def _check(self, user: UserInput) -> None:
        if problems := self.problems(user):
            raise InvalidInput(problems)

    def _create(
        self, connection: Connection, tenant_id: int, user: UserInput, actor: Actor, now: datetime
    ) -> WrittenUser:
        tombstone = self._tombstone(tenant_id, user)
        by = replace(actor, tenant_id=tenant_id)
        created = creation.create(connection, tenant_id, user, by, now=now, tombstone=tombstone)
        edited = _edited([created.user.id], [user], are_new=True)
        replanned = self._planner.replan_written(connection, tenant_id, edited, created.watermarks, now=now)
        return WrittenUser(created.user, replanned, is_new=True)

    def _replace(
        self, connection: Connection, tenant_id: int, before: StoredUser, user: UserInput, act: _Act
    ) -> WrittenUser:
        stored = users.replace(connection, tenant_id, before.id, user, now=act.now)
        assert stored is not None, "it is locked"
        if user.external_id != before.values.external_id:
            # After the write, which has waited for an erasure under way of whoever had this external id.
            tombstone = self._tombstone(tenant_id, user)
            if users.is_erased(connection, tenant_id, tombstone):
                raise users.erased(tombstone)
        act.note(connection, tenant_id, before.id, before.values, user)
        return self._replanned(connection, tenant_id, stored, act.now)

    def _tombstone(self, tenant_id: int, user: UserInput) -> bytes | None:
        return None if self._tombstones is None else self._tombstones.of(tenant_id, user.external_id)

    def _erased(self, connection: Connection, tenant_id: int, batch: Sequence[UserInput]) -> frozenset[str]:
        """Who of these is not to be written."""
        if not erasure.anybody(connection, tenant_id):
            return frozenset()
        if self._tombstones is None:
            return frozenset(user.external_id for user in batch)
        owners = {self._tombstones.of(tenant_id, user.external_id): user.external_id for user in batch}
        return frozenset(owners[found] for found in erasure.among(connection, tenant_id, list(owners)))

    def _replanned(
        self,
        connection: Connection,
        tenant_id: int,
        stored: StoredUser,
        now: datetime,
    ) -> WrittenUser:
        edited = _edited([stored.id], [stored.values], are_new=False)
        return WrittenUser(stored, self._planner.replan_edited(connection, tenant_id, edited, now=now))

    def _write(self, work: Callable[[Connection, datetime], Result]) -> Result:
        """Run `work` in a transaction at the instant it begins; the log is planned up to then first."""
        while True:
            try:
                return in_transaction(self._engine, lambda connection: work(connection, self._clock.now()))
            except PlanningBehind:
                logger.info("planning_was_behind")
                self._planner.catch_up(self._clock.now())
            except AddedMeanwhile:
                logger.info("user_added_meanwhile")


@dataclass(frozen=True, slots=True)
class _Act:
    """Who does what to a user, and when."""

    actor: Actor
    action: str
    now: datetime

    def note(
        self,
        connection: Connection,
        tenant_id: int,
        user_id: int,
        before: UserInput | None,
        after: UserInput | None,
    ) -> None:
        """Keep in the audit log what changed; None: there was or is no such user."""
        old, new = _as_json(before), _as_json(after)
        if old is not None and new is not None:
            old, new = audit.changes(old, new)
        by = replace(self.actor, tenant_id=tenant_id)
        audit.add(connection, by, self.action, _KIND, str(user_id), old, new, now=self.now)


def _locked(connection: Connection, tenant_id: int, key: UserKey, expected_version: int | None) -> StoredUser:
    """A user as they are, and stay until the transaction ends. Raises NotFound or VersionConflict."""
    if isinstance(key, str):
        user_id = None if "\0" in key else users.lock_external(connection, tenant_id, key)
    else:
        user_id = next(iter(users.lock(connection, [key])), None)
    found = None if user_id is None else users.find(connection, tenant_id, user_id)
    if found is None:
        raise NotFound("user", key)
    if expected_version is not None and expected_version != found.version:
        raise VersionConflict(expected_version, found.version)
    return found


def _as_json(user: UserInput | None) -> dict[str, Any] | None:
    return None if user is None else user.model_dump(mode="json")


def _edited(user_ids: Sequence[int], batch: Sequence[UserInput], *, are_new: bool) -> EditedUsers:
    return EditedUsers(
        user_ids,
        zone_times=list({(user.timezone, user.preferred_time) for user in batch}),
        days=frozenset(
            (name, value.month * 100 + value.day) for user in batch for name, value in user.dates.items()
        ),
        are_new=are_new,
    )
