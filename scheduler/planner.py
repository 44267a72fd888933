"""Decide what is due and write it into the log: a window for everyone, or everything for some.

Planning and replanning meet in the log without waiting for each other:

- Planning goes forward from an occasion's watermark and only ever adds.
- Whoever adds or edits users replans them, in the same transaction, through an hour past everything
  that planning may be writing at that moment. So a user that planning did not see has planned itself.
- Planning that saw a user before their edit leaves messages of an older version of the user; a worker
  that claims one notices and replans the user instead of sending (`worker/delivery.py`).
- Editing an occasion excludes planning and replanning of its tenant until the edit is committed, and again for
  each of the transactions that replan everyone (`occasion_edits.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.domain.batch import MAX_BATCH_SIZE
from scheduler.domain.calendar import Moment
from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import AdHocRule, Occasion
from scheduler.domain.planning_window import first_whole_date, is_at_once
from scheduler.domain.user import UserInput
from scheduler.edited_users import EditedUsers
from scheduler.occasion_planning import GoOn, OccasionPlanning, always
from scheduler.store import ad_hoc_edits, locks, messages, occasions, planning, users, watermarks
from scheduler.store.database import in_transaction
from scheduler.store.known_occasions import KnownOccasions
from scheduler.store.partitions import Partitions
from scheduler.store.planning import OccasionMoment, Planned, Replanned, sum_of

REPLAN_MARGIN: Final = timedelta(hours=1)
"""How far past the horizon an edit plans: more than the clocks of two machines differ by."""

PARTITIONS_AHEAD: Final = timedelta(days=62)
"""How far ahead of the horizon the log's partitions are made."""

# The same local time in Kiritimati (+14) and in Pago Pago (-11) is 25 hours apart, and clocks may change meanwhile.
_WIDEST_MOVE: Final = timedelta(hours=27)
_LEAST_LOOKBACK: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class PlanningPolicy:
    """The settings that planning follows."""

    horizon: timedelta
    lateness_limit: timedelta
    batch_size: int = MAX_BATCH_SIZE
    slices_at_once: int = 1


class PlanningBehind(Exception):
    """The log is not planned up to the present: `Planner.catch_up` first, then the edit again."""


class Planner:
    """Plans the occasions and the users of one database."""

    def __init__(self, engine: Engine, policy: PlanningPolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._partitions = Partitions()
        self._known = KnownOccasions()
        self._forward = OccasionPlanning(
            engine, self._partitions, batch_size=policy.batch_size, slices_at_once=policy.slices_at_once
        )

    @property
    def policy(self) -> PlanningPolicy:
        """The settings this planner follows."""
        return self._policy

    def create_partitions(self, now: datetime) -> int:
        """Make the log's partitions for all that may be written from `now` on, and well ahead of it."""
        first = (now - self._lookback([])).date() - timedelta(days=1)
        last = (now + self._policy.horizon + PARTITIONS_AHEAD).date()
        return in_transaction(
            self._engine, lambda connection: self._partitions.ensure(connection, first, last)
        )

    def plan(self, *, now: datetime, through: datetime) -> Planned:
        """Plan every active occasion from its watermark up to `through`; harmless to repeat.

        An occasion that was never planned is planned from `now` on, or from when it first had users. One
        that fails does not keep the others from being planned; its error is raised in the end.
        """
        with self._engine.connect() as connection:
            due = occasions.active(connection)
        total = Planned()
        failures: list[Exception] = []
        for occasion in due:
            try:
                total += self._forward.plan(occasion, now, through)
            except Exception as error:
                logger.bind(occasion=occasion.key).exception("planning_failed")
                failures.append(error)
        if failures:
            raise failures[0]
        return total

    def plan_occasion(self, occasion: Occasion, *, now: datetime, go_on: GoOn = always) -> Planned:
        """Plan one occasion through the horizon, or for as long as it may `go_on`: a later run does the rest."""
        return self._forward.plan(occasion, now, now + self._policy.horizon, go_on)

    def catch_up(self, now: datetime) -> Planned:
        """Plan as recovery would: what an absent scheduler has left out, and a good part of the horizon."""
        return self.plan(now=now, through=now + self._policy.horizon / 2)

    def replan_edited(
        self, connection: Connection, tenant_id: int, edited: EditedUsers, *, now: datetime
    ) -> Replanned:
        """Make the log agree with users who were just written in the caller's transaction.

        Raises PlanningBehind where an occasion is not planned up to `now`: what these users were owed
        before the edit is then not known to the log, and the edit would make it forgotten.
        """
        locks.share_planning(connection, tenant_id)
        return sum_of(self.replan_written(connection, tenant_id, [edited], [], None, now=now))

    def replan_written(
        self,
        connection: Connection,
        tenant_id: int,
        edited: Sequence[EditedUsers],
        removed_ids: Sequence[int],
        watermarks: Sequence[Any] | None,
        *,
        now: datetime,
    ) -> dict[int, Replanned]:
        """As `replan_edited` for each of `edited` and `remove` for the others; returns what changed, by user.

        Planning is shared already; `watermarks` are read since (None: not yet).
        """
        known = self._known.all_of(connection, tenant_id, watermarks)
        active = [occasion for occasion in known if occasion.active]
        if edited and any(each.planned_through and each.planned_through < now for each in active):
            raise PlanningBehind
        return self._agree(connection, tenant_id, edited, removed_ids, known, now)

    def nothing_to_plan(self, tenant_id: int, users: Sequence[UserInput], *, now: datetime) -> list[Occasion]:
        """All occasions as last known, if by these nothing is to be planned for users who are new; else none."""
        known = self._known.last_known(tenant_id)
        active = [occasion for occasion in known if occasion.active]
        if any(each.planned_through is None or each.planned_through < now for each in active):
            return []
        edited = EditedUsers.of([], users, are_new=True)
        return [] if self._may_be_asked(edited, active, known, now) else known

    def forget_occasions(self, tenant_id: int) -> None:
        """What is known of a tenant's occasions is no longer so."""
        self._known.forget(tenant_id)

    def replan_stored(
        self, connection: Connection, tenant_id: int, user_ids: Sequence[int], *, now: datetime
    ) -> Replanned:
        """Make the log agree with users as they are stored; the caller's transaction has locked them."""
        locks.share_planning(connection, tenant_id)
        known = self._known.all_of(connection, tenant_id)
        stored = EditedUsers(user_ids, users.zone_times_of(connection, user_ids))
        return sum_of(self._agree(connection, tenant_id, [stored], [], known, now))

    def remove(
        self, connection: Connection, tenant_id: int, user_ids: Sequence[int], *, now: datetime
    ) -> Replanned:
        """Remove what is scheduled for users who were deleted, of occasions that pause as well.

        What was sent to them ad hoc is cancelled.
        """
        locks.share_planning(connection, tenant_id)
        return sum_of(self.replan_written(connection, tenant_id, [], user_ids, None, now=now))

    def replan_for(
        self, connection: Connection, occasion: Occasion, user_ids: Sequence[int], *, now: datetime
    ) -> Replanned:
        """Make the log agree with one occasion for these users, as of `now`; the caller has excluded planning."""
        stored = EditedUsers(user_ids, users.zone_times_of(connection, user_ids))
        found = self._begin(connection, stored, [occasion] if occasion.active else [], [occasion], now)
        scheduled = planning.lock_scheduled(
            connection,
            user_ids,
            date_first=self._date_first([occasion], now),
            occasion_ids=[occasion.id],
        )
        subject_ids = user_ids if found else list(scheduled)
        return sum_of(self._replan(connection, subject_ids, found, [occasion], now))

    def _agree(
        self,
        connection: Connection,
        tenant_id: int,
        edited: Sequence[EditedUsers],
        removed_ids: Sequence[int],
        known: Sequence[Occasion],
        now: datetime,
    ) -> dict[int, Replanned]:
        """Make the log agree with users who were edited, or removed; `known` are all occasions that are planned.

        Asked about are only those for whom there may be something to plan, or something is scheduled.
        """
        active = [occasion for occasion in known if occasion.active and edited]
        asked = EditedUsers.merged([each for each in edited if self._may_be_asked(each, active, known, now)])
        starts = now - self._lookback(known)
        asked = asked.narrowed((each, starts, self._replanned_through(each, now)) for each in active)
        found = self._begin(connection, asked, active, known, now)
        to_plan = asked.celebrating((each.occasion, each.moment) for each in found)
        before = [user_id for each in edited if not each.are_new for user_id in each.user_ids]
        scheduled = planning.lock_scheduled(
            connection,
            sorted({*to_plan, *before, *removed_ids}),
            date_first=self._date_first(known, now),
        )
        planned = {occasion.id for occasion in known}
        subjects = {*to_plan, *(user_id for user_id, ids in scheduled.items() if ids & planned)}
        replanned = self._replan(connection, sorted(subjects), found, known, now)
        if sent_to := {user_id for user_id, ids in scheduled.items() if ids - planned}:
            for each in (
                self._follow(connection, tenant_id, sorted(sent_to.intersection(before)), known, now),
                self._withdraw(connection, sorted(sent_to.intersection(removed_ids)), known, now),
            ):
                for user_id, changed in each.items():
                    replanned[user_id] = replanned.get(user_id, Replanned()) + changed
        return replanned

    def _may_be_asked(
        self, users: EditedUsers, active: Sequence[Occasion], known: Sequence[Occasion], now: datetime
    ) -> bool:
        starts = now - self._lookback(known)
        return any(users.may_be_asked(each, starts, self._replanned_through(each, now)) for each in active)

    def _begin(
        self,
        connection: Connection,
        edited: EditedUsers,
        planned: Sequence[Occasion],
        covered: Sequence[Occasion],
        now: datetime,
    ) -> list[OccasionMoment]:
        """What users may be owed of the `planned` occasions, which have a watermark from then on, and partitions."""
        never_planned = [occasion.id for occasion in planned if occasion.planned_through is None]
        watermarks.begin(connection, never_planned, now=now)
        if not edited.user_ids:
            return []
        starts = now - self._lookback(covered)
        found = [
            OccasionMoment(occasion, moment, at_once=is_at_once(occasion, moment, now))
            for occasion in planned
            if edited.may_be_asked(occasion, starts, self._replanned_through(occasion, now))
            for moment in edited.moments(occasion, starts, self._replanned_through(occasion, now))
        ]
        self._ensure_partitions(connection, [each.moment for each in found])
        return found

    def _replan(
        self,
        connection: Connection,
        user_ids: Sequence[int],
        found: Sequence[OccasionMoment],
        covered: Sequence[Occasion],
        now: datetime,
    ) -> dict[int, Replanned]:
        """Replan users for the `covered` occasions; what is scheduled for them is locked."""
        if not user_ids:
            return {}
        return planning.replan_users(
            connection,
            user_ids,
            [occasion.id for occasion in covered],
            found,
            date_first=self._date_first(covered, now),
            deferred_first=first_whole_date(now - self._lookback(covered)),
            now=now,
            batch_size=self._policy.batch_size,
        )

    def follows_deferred_from(self, occasion: Occasion, *, now: datetime) -> date:
        """The first local date whose messages follow edits also where quiet hours have put them off.

        What was put off time and again lies further back than replanning looks: it is history, as if its
        sending had begun.
        """
        return first_whole_date(now - self._lookback([occasion]))

    def follows_edits(self, occasion: Occasion, local_date: date, *, now: datetime) -> bool:
        """Whether messages of this local date are moved by an edit of their user, as far as they wait.

        Of what was sent ad hoc, what goes by the user's clock is, as far back as any replanning looks.
        """
        rule = occasion.rule
        if not isinstance(rule, AdHocRule):
            return True
        return rule.is_local and local_date >= first_whole_date(now - self._lookback([]))

    def _follow(
        self,
        connection: Connection,
        tenant_id: int,
        user_ids: Sequence[int],
        known: Sequence[Occasion],
        now: datetime,
    ) -> dict[int, Replanned]:
        """Have what was sent ad hoc to users follow them; `known` are all occasions that are planned."""
        return ad_hoc_edits.follow(
            connection,
            tenant_id,
            user_ids,
            [occasion.id for occasion in known],
            date_first=self._date_first(known, now),
            now=now,
            batch_size=self._policy.batch_size,
        )

    def _withdraw(
        self, connection: Connection, user_ids: Sequence[int], known: Sequence[Occasion], now: datetime
    ) -> dict[int, Replanned]:
        """Cancel what was sent ad hoc to users who were deleted."""
        cancelled = messages.withdraw_ad_hoc(
            connection,
            user_ids,
            [occasion.id for occasion in known],
            date_first=self._date_first(known, now),
            reason=NotSentReason.USER_DELETED,
        )
        return {user_id: Replanned(removed=number) for user_id, number in cancelled.items()}

    def _date_first(self, covered: Sequence[Occasion], now: datetime) -> date:
        """The first local date that an edit looks at."""
        return (now - self._lookback(covered)).date() - timedelta(days=1)

    def _replanned_through(self, occasion: Occasion, now: datetime) -> datetime:
        written = [each for each in (occasion.planned_through, occasion.ahead_through) if each is not None]
        return max([now + self._policy.horizon + REPLAN_MARGIN, *written])

    def _lookback(self, covered: Sequence[Occasion]) -> timedelta:
        """How far back the send time of a message may lie that is still to be sent, wherever its user moves."""
        limits = [occasion.lateness_limit for occasion in covered if occasion.lateness_limit is not None]
        return max([_LEAST_LOOKBACK, self._policy.lateness_limit, *limits]) + _WIDEST_MOVE

    def _ensure_partitions(self, connection: Connection, found: Sequence[Moment]) -> None:
        local_dates: list[date] = [moment.local_date for moment in found]
        if local_dates:
            self._partitions.ensure(connection, min(local_dates), max(local_dates))
