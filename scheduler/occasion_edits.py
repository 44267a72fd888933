"""Edit an occasion: store it, and have the log follow for everyone.

An edit that changes who gets a message when is committed at once and then replanned user by user, some thousands
to a transaction, so that a tenant of millions can go on editing its users meanwhile. It is sound because

- until the last user is replanned, a worker sends nothing of the occasion (`worker/claiming.py`);
- everyone is replanned as of the instant of the edit, however late their turn comes: what fell due since then
  under the new rule is due, not lost;
- how far it got is kept with the occasion, so that whoever is cut short, or killed, is continued by the next
  recovery, and several who do it at once share the work;
- whoever edits a user in between plans them by the new rule already, and their turn finds nothing to change.

What only says how a message is sent (texts, retries, quiet hours, the group, how late it may be) is read when it
is sent, and replans nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.domain.occasion import Occasion
from scheduler.errors import Conflict, InvalidInput
from scheduler.occasion_planning import GoOn, always
from scheduler.planner import Planner
from scheduler.store import batch_holds, locks, occasion_groups, occasions, users
from scheduler.store.database import in_transaction
from scheduler.store.planning import Replanned
from scheduler.texts.checking import check_texts

_USERS_AT_ONCE: Final = 2_000
"""So few that users can be edited in between within a fifth of a second, and that no plan for them goes astray."""

_PLANNED_BY: Final = attrgetter(
    "active", "rule", "local_times", "honours_preferred_time", "channels", "gap", "overlap", "leap_day"
)


@dataclass(frozen=True, slots=True)
class OccasionReplanned:
    """What replanning everyone for an occasion has changed so far, and whether everyone has had their turn."""

    replanned: Replanned
    is_done: bool


class OccasionEdits:
    """Edits the occasions of one database."""

    def __init__(self, engine: Engine, planner: Planner, *, users_at_once: int = _USERS_AT_ONCE) -> None:
        self._engine = engine
        self._planner = planner
        self._users_at_once = users_at_once

    def save(self, occasion: Occasion, *, now: datetime) -> Replanned:
        """Store an edited occasion and replan everyone. Raises Conflict or InvalidInput as `change` does."""
        self.prepare(occasion, now=now)
        in_transaction(self._engine, lambda connection: self.change(connection, occasion, now=now))
        return self.replan(occasion).replanned

    def prepare(self, occasion: Occasion, *, now: datetime) -> None:
        """Plan what an absent scheduler has left out, before the occasion is edited."""
        if occasion.planned_through is not None and occasion.planned_through < now:
            self._planner.catch_up(now)

    def change(self, connection: Connection, occasion: Occasion, *, now: datetime) -> None:
        """Store an edited occasion in the caller's transaction; once that is committed, `replan` is to follow.

        Raises Conflict where somebody else edited it first, and InvalidInput where there is no such group or its
        texts are wrong. One that is turned off may keep the texts it has, whatever they are.
        """
        locks.exclude_planning(connection, occasion.tenant_id)
        before = occasions.by_id(connection, [occasion.id]).get(occasion.id)
        if before is None or before.version != occasion.version:
            raise Conflict(f"occasion {occasion.key!r} was edited by somebody else; read it again")
        occasion_groups.check_group(connection, occasion)
        mistakes = check_texts(occasion)
        if mistakes and (occasion.active or not _say_the_same(before, occasion)):
            raise InvalidInput(mistakes)
        occasions.change(connection, occasion, now=now, replans=_plan_differently(before, occasion))
        if before.paused_at is not None and not occasion.active:
            batch_holds.release(connection, occasion.id)
        if before.priority is not occasion.priority:
            batch_holds.reprioritise(connection, occasion.id, occasion.priority)

    def replan(self, occasion: Occasion, *, go_on: GoOn = always) -> OccasionReplanned:
        """Replan everyone for an occasion that was changed, or as many as it may `go_on` for."""
        return self._replan(occasion.tenant_id, occasion.id, go_on)

    def finish(self) -> Replanned:
        """Replan all that was cut short."""
        with self._engine.connect() as connection:
            unfinished = occasions.being_replanned(connection)
        total = Replanned()
        for tenant_id, occasion_id in unfinished:
            total += self._replan(tenant_id, occasion_id, always).replanned
        return total

    def _replan(self, tenant_id: int, occasion_id: int, go_on: GoOn) -> OccasionReplanned:
        total, is_done = Replanned(), False
        while not is_done:
            step = in_transaction(
                self._engine, lambda connection: self._replan_some(connection, tenant_id, occasion_id)
            )
            total, is_done = total + step.replanned, step.is_done
            if not go_on():
                break
        if total != Replanned():
            logger.bind(occasion_id=occasion_id, is_done=is_done).info("occasion_replanned")
        return OccasionReplanned(total, is_done)

    def _replan_some(self, connection: Connection, tenant_id: int, occasion_id: int) -> OccasionReplanned:
        """Replan the users whose turn it is."""
        locks.exclude_planning(connection, tenant_id)
        found = occasions.next_to_replan(connection, occasion_id)
        if found is None:
            return OccasionReplanned(Replanned(), is_done=True)
        occasion, as_of, after = found
        user_ids = users.ids_after(connection, tenant_id, after=after, most=self._users_at_once)
        is_done = len(user_ids) < self._users_at_once
        occasions.replanned_through(connection, occasion_id, None if is_done else user_ids[-1])
        return OccasionReplanned(self._planner.replan_for(connection, occasion, user_ids, now=as_of), is_done)


def _say_the_same(before: Occasion, after: Occasion) -> bool:
    """Whether an edit leaves the texts alone."""
    return (before.text, before.translations) == (after.text, after.translations)


def _plan_differently(before: Occasion, after: Occasion) -> bool:
    """Whether an edit changes who gets a message when."""
    return (before.active or after.active) and bool(_PLANNED_BY(before) != _PLANNED_BY(after))
