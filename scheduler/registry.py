"""The register of users: every write replans its users in the same transaction and says what it replanned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput, UserPatch, check_dates, patched
from scheduler.domain.zones import zone
from scheduler.errors import InvalidInput, NotFound
from scheduler.planner import EditedUsers, Planner, PlanningBehind
from scheduler.store import users
from scheduler.store.database import in_transaction
from scheduler.store.planning import Replanned
from scheduler.store.users import StoredUser

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WrittenUser:
    """A user after a write, and what the write changed in the message log."""

    user: StoredUser
    replanned: Replanned


@dataclass(frozen=True, slots=True)
class WrittenUsers:
    """What a bulk write did, in users, and what it changed in the message log."""

    created: int = 0
    updated: int = 0
    replanned: Replanned = field(default_factory=Replanned)


class Registry:
    """Adds, edits and deletes users of one database, each edit with its plan."""

    def __init__(self, engine: Engine, planner: Planner, clock: Clock) -> None:
        self._engine = engine
        self._planner = planner
        self._clock = clock

    def create(self, tenant_id: int, user: UserInput) -> WrittenUser:
        """Add a user. Raises InvalidInput, or Conflict where the external id is taken."""

        def work(connection: Connection, now: datetime) -> WrittenUser:
            stored = users.create(connection, tenant_id, user, now=now)
            return self._replanned(connection, tenant_id, stored, now, is_new=True)

        self._check(user)
        return self._write(work)

    def replace(self, tenant_id: int, user_id: int, user: UserInput) -> WrittenUser:
        """Replace all of a user. Raises InvalidInput, NotFound, or Conflict where the external id is taken."""

        def work(connection: Connection, now: datetime) -> WrittenUser:
            stored = users.replace(connection, tenant_id, user_id, user, now=now)
            return self._replanned(connection, tenant_id, _found(stored, user_id), now)

        self._check(user)
        return self._write(work)

    def patch(self, tenant_id: int, user_id: int, patch: UserPatch) -> WrittenUser:
        """Change what `patch` names (RFC 7396). Raises InvalidInput, NotFound, Conflict or ValidationError."""

        def work(connection: Connection, now: datetime) -> WrittenUser:
            users.lock(connection, [user_id])
            before = _found(users.find(connection, tenant_id, user_id), user_id)
            user = patched(before.values, patch)
            self._check(user)
            stored = users.replace(connection, tenant_id, user_id, user, now=now)
            return self._replanned(connection, tenant_id, _found(stored, user_id), now)

        return self._write(work)

    def delete(self, tenant_id: int, user_id: int) -> Replanned:
        """Delete a user, all that is personal of them and all that is scheduled for them. Raises NotFound."""

        def work(connection: Connection, now: datetime) -> Replanned:
            if not users.delete(connection, tenant_id, user_id, now=now):
                raise NotFound("user", user_id)
            return self._planner.remove(connection, tenant_id, [user_id], now=now)

        return self._write(work)

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """Add or replace some thousands of users at once; their external ids differ and they are checked."""

        def work(connection: Connection, now: datetime) -> WrittenUsers:
            upserted = users.upsert(connection, tenant_id, batch, now=now)
            updated = len(upserted.user_ids) - upserted.created
            edited = _edited(upserted.user_ids, batch, are_new=not updated)
            replanned = self._planner.replan_edited(connection, tenant_id, edited, now=now)
            return WrittenUsers(upserted.created, updated, replanned)

        return self._write(work) if batch else WrittenUsers()

    def problems(self, user: UserInput) -> list[FieldError]:
        """What is wrong with a user that only today's date tells, where the user lives."""
        today = self._clock.now().astimezone(zone(user.timezone)).date()
        return check_dates(user, today)

    def _check(self, user: UserInput) -> None:
        if problems := self.problems(user):
            raise InvalidInput(problems)

    def _replanned(
        self,
        connection: Connection,
        tenant_id: int,
        stored: StoredUser,
        now: datetime,
        *,
        is_new: bool = False,
    ) -> WrittenUser:
        edited = _edited([stored.id], [stored.values], are_new=is_new)
        return WrittenUser(stored, self._planner.replan_edited(connection, tenant_id, edited, now=now))

    def _write(self, work: Callable[[Connection, datetime], Result]) -> Result:
        """Run `work` in a transaction at the instant it begins; the log is planned up to then first."""
        while True:
            try:
                return in_transaction(self._engine, lambda connection: work(connection, self._clock.now()))
            except PlanningBehind:
                logger.info("planning_was_behind")
                self._planner.catch_up(self._clock.now())


def _found(stored: StoredUser | None, user_id: int) -> StoredUser:
    if stored is None:
        raise NotFound("user", user_id)
    return stored


def _edited(user_ids: Sequence[int], batch: Sequence[UserInput], *, are_new: bool) -> EditedUsers:
    return EditedUsers(
        user_ids,
        zone_times=list({(user.timezone, user.preferred_time) for user in batch}),
        days=frozenset(
            (name, value.month * 100 + value.day) for user in batch for name, value in user.dates.items()
        ),
        are_new=are_new,
    )
