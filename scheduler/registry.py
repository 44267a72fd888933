"""The register of users: every write replans its users in the same transaction and says what it replanned.

So does the audit log learn of it: in the same transaction, by whom and what changed; of an import as it begins and as
it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final, TypeVar

from loguru import logger
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from scheduler.clock import Clock
from scheduler.domain.access import SYSTEM, Actor
from scheduler.domain.field_error import FieldError
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import BIRTHDAY, UserInput, UserPatch, check_dates
from scheduler.domain.user_columns import UserColumns
from scheduler.domain.zones import zone
from scheduler.edited_users import EditedUsers
from scheduler.errors import InvalidInput
from scheduler.group_writer import LATER, GroupWriter, Outcome
from scheduler.planner import Planner, PlanningBehind
from scheduler.store import audit, bulk_users, erasure, new_users
from scheduler.store.bulk_users import AddedMeanwhile
from scheduler.store.database import in_transaction
from scheduler.store.planning import Replanned
from scheduler.store.user_writes import PlannedMeanwhile
from scheduler.user_group import Action, OutcomeUnknown, UserGroup, UserKey, UserWrite, WrittenUser

Result = TypeVar("Result")

_KIND: Final = "user"
_A_DAY: Final = timedelta(days=1)
_TRIES: Final = 10


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


def never() -> bool:
    """Nobody's writes are to stand apart."""
    return False


class Registry:
    """Adds, edits and deletes users of one database, each edit with its plan. May be shared between threads.

    What several threads write at the same time is written together (`user_group`). `writes_apart` tells whether the
    present caller must have transactions of their own.
    """

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        clock: Clock,
        tombstones: Tombstones | None = None,
        writes_apart: Callable[[], bool] = never,
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._clock = clock
        self._tombstones = tombstones
        self._writes_apart = writes_apart
        self._past = date.min
        self._group = UserGroup(planner, tombstones, self.problems)
        self._writer = GroupWriter(self._write_group, self._write_alone)

    def create(self, tenant_id: int, user: UserInput, *, actor: Actor = SYSTEM) -> WrittenUser:
        """Add a user. Raises InvalidInput, Conflict where the external id is taken, or PersonErased."""
        self._check(user)
        return self._write(UserWrite(tenant_id, Action.CREATE, user.external_id, user, actor))

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
        self._check(user)
        return self._write(UserWrite(tenant_id, Action.REPLACE, key, user, actor, expected_version))

    def put(
        self, tenant_id: int, user: UserInput, *, expected_version: int | None = None, actor: Actor = SYSTEM
    ) -> WrittenUser:
        """Add the user of this external id, or replace all of them where there is one.

        Raises InvalidInput, PersonErased, or VersionConflict, also where a version is expected and there is nobody.
        """
        self._check(user)
        return self._write(UserWrite(tenant_id, Action.PUT, user.external_id, user, actor, expected_version))

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
        return self._write(UserWrite(tenant_id, Action.CHANGE, key, patch, actor, expected_version))

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
        done = self._done(UserWrite(tenant_id, Action.DELETE, key, None, actor, expected_version))
        assert isinstance(done, Replanned), "only a deletion leaves no user"
        return done

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """Add or replace some thousands of users at once; their external ids differ and they are checked."""
        users = batch if isinstance(batch, UserColumns) else UserColumns.of(batch)

        def work(connection: Connection) -> WrittenUsers:
            now = self._clock.now()
            new_ids = new_users.ids_for(connection, tenant_id, users)
            # Who was there until now is erased by now, if they are: whoever looks at them is waited for.
            if new_ids is not None and not self._erased(connection, tenant_id, users.external_ids):
                new_users.add(connection, tenant_id, new_ids, users, now=now)
                edited = EditedUsers.many(new_ids, users, are_new=True)
                replanned = self._planner.replan_edited(connection, tenant_id, edited, now=now)
                return WrittenUsers(created=len(users), replanned=replanned)
            return self._replaced(connection, tenant_id, users, now)

        return self._repeated(lambda: in_transaction(self._engine, work)) if users else WrittenUsers()

    def _replaced(
        self, connection: Connection, tenant_id: int, users: UserColumns, now: datetime
    ) -> WrittenUsers:
        """As `upsert`, where some of them are there already, or were."""
        known = bulk_users.stage(connection, tenant_id, users)
        # Now that they are locked: an erasure under way has been waited for.
        erased = self._erased(connection, tenant_id, users.external_ids)
        done = bulk_users.write_staged(connection, tenant_id, len(users), known, erased, now=now)
        written = done.users_of(users)
        edited = EditedUsers.many(
            list(written), UserColumns.of(list(written.values())), are_new=not done.updated_ids
        )
        replanned = self._planner.replan_edited(connection, tenant_id, edited, now=now)
        return WrittenUsers(len(done.created_ids), len(done.updated_ids), done.unchanged, erased, replanned)

    def erased(self, tenant_id: int, batch: Sequence[UserInput]) -> frozenset[str]:
        """The external ids in `batch` whose owners were erased; all of them, once anybody was and there is no key."""
        with self._engine.connect() as connection:
            return self._erased(connection, tenant_id, [user.external_id for user in batch])

    def note_import(self, tenant_id: int, counts: Mapping[str, int], *, actor: Actor = SYSTEM) -> None:
        """Keep that an import has begun, has ended or was broken off: in one entry, however many users it wrote."""
        by = replace(actor, tenant_id=tenant_id)
        with self._engine.begin() as connection:
            audit.add(connection, by, "import", _KIND, "", None, counts, now=self._clock.now())

    def problems(self, user: UserInput) -> list[FieldError]:
        """What is wrong with a user that only today's date tells, where the user lives."""
        birthday = user.dates.get(BIRTHDAY)
        # Past wherever they live, and for ever: an import asks this of everyone.
        if birthday is None or birthday <= self._past or birthday <= self.past():
            return []
        now = self._clock.now()
        return check_dates(user, now.astimezone(zone(user.timezone)).date())

    def past(self) -> date:
        """A day that is past wherever a user lives, and for ever: nothing is wrong with a birthday up to it."""
        self._past = self._clock.now().date() - _A_DAY
        return self._past

    def _check(self, user: UserInput) -> None:
        if problems := self.problems(user):
            raise InvalidInput(problems)

    def _erased(self, connection: Connection, tenant_id: int, external_ids: Sequence[str]) -> frozenset[str]:
        """Who of these is not to be written."""
        if not erasure.anybody(connection, tenant_id):
            return frozenset()
        if self._tombstones is None:
            return frozenset(external_ids)
        owners = {self._tombstones.of(tenant_id, external_id): external_id for external_id in external_ids}
        return frozenset(owners[found] for found in erasure.among(connection, tenant_id, list(owners)))

    def _write(self, write: UserWrite) -> WrittenUser:
        done = self._done(write)
        assert isinstance(done, WrittenUser), "only a deletion leaves no user"
        return done

    def _done(self, write: UserWrite) -> WrittenUser | Replanned:
        if self._writes_apart():
            return self._write_alone(write)
        return self._writer.write(write.tenant_id, write)

    def _write_group(self, writes: Sequence[UserWrite]) -> list[Outcome[WrittenUser | Replanned]]:
        """Write all of these in one transaction. What it raises is raised before the commit, or instead of it."""
        outcomes: list[Outcome[WrittenUser | Replanned]] = []

        def transaction() -> None:
            with self._engine.begin() as connection:
                outcomes[:] = self._group.write(connection, writes, self._clock.now(), hurries=True)

        try:
            self._repeated(transaction)
        except OutcomeUnknown as unknown:
            return unknown.outcomes
        except DBAPIError as error:
            if not (outcomes and error.connection_invalidated):
                raise
            # Nobody knows whether it was committed: to write it again might be to write it twice.
            return [each if each is LATER else error for each in outcomes]
        return outcomes

    def _write_alone(self, write: UserWrite) -> WrittenUser | Replanned:
        def work(connection: Connection) -> WrittenUser | Replanned:
            [outcome] = self._group.write(connection, [write], self._clock.now())
            if isinstance(outcome, Exception):
                raise outcome
            assert outcome is not LATER, "there is nobody to wait for"
            return outcome

        return self._repeated(lambda: in_transaction(self._engine, work))

    def _repeated(self, transaction: Callable[[], Result]) -> Result:
        """Run a transaction; again once the log is planned up to now, or where somebody else added the same user."""
        for tries_left in reversed(range(_TRIES)):
            try:
                return transaction()
            except PlanningBehind:
                if not tries_left:
                    raise
                logger.info("planning_was_behind")
                self._planner.catch_up(self._clock.now())
            except AddedMeanwhile:
                if not tries_left:
                    raise
                logger.info("user_added_meanwhile")
            except PlannedMeanwhile:
                if not tries_left:
                    raise
                logger.info("planned_meanwhile")
        raise AssertionError("unreachable: the last try returns or raises")
