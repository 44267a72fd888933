"""Users who were written, and what is known of them, which saves looking it up: for replanning them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from scheduler.domain.calendar import Moment, moments, month_days
from scheduler.domain.occasion import Occasion, YearlyRule
from scheduler.domain.user import UserInput
from scheduler.domain.user_columns import UserColumns
from scheduler.store.users import ZoneTime

Day = tuple[str, int]
"""The name of a date, and its month and day (MMDD)."""


@dataclass(frozen=True, slots=True)
class EditedUsers:
    """Users to replan.

    `zone_times` are the zones and preferred times they live by and `days` the names and MMDD of their
    dates (None: not known); more than they have is harmless. `are_new`: none of them was there before.
    `values` are what some thousands were written with, in the order of `user_ids` (None: not known); once those are
    known who have one of the days that matter (`narrowed`), `celebrants` are their ids by day and by how they live,
    and nobody else is asked.
    """

    user_ids: Sequence[int]
    zone_times: Sequence[ZoneTime]
    days: frozenset[Day] | None = None
    are_new: bool = False
    values: UserColumns | None = None
    celebrants: Mapping[Day, Mapping[ZoneTime, Sequence[int]]] | None = None

    @classmethod
    def many(cls, user_ids: Sequence[int], users: UserColumns, *, are_new: bool) -> Self:
        """Some thousands who were written with these values."""
        return cls(user_ids, zone_times=list(set(users.zone_times())), are_new=are_new, values=users)

    @classmethod
    def of(cls, user_ids: Sequence[int], users: Sequence[UserInput], *, are_new: bool) -> Self:
        """Those who were written with these values."""
        return cls(
            user_ids,
            zone_times=list({(user.timezone, user.preferred_time) for user in users}),
            days=frozenset(
                (name, value.month * 100 + value.day) for user in users for name, value in user.dates.items()
            ),
            are_new=are_new,
        )

    @classmethod
    def merged(cls, several: Sequence[EditedUsers]) -> EditedUsers:
        """All of these; as if nobody were new."""
        if len(several) == 1:
            return replace(several[0], are_new=False)
        days = [each.days for each in several if each.days is not None]
        return cls(
            [user_id for each in several for user_id in each.user_ids],
            zone_times=list({zone_time for each in several for zone_time in each.zone_times}),
            days=frozenset().union(*days) if len(days) == len(several) else None,
        )

    def narrowed(self, windows: Iterable[tuple[Occasion, datetime, datetime]]) -> EditedUsers:
        """The same, and who of them has a day in the windows of these occasions, if that is known without asking."""
        if self.values is None:
            return self
        celebrated: dict[str, set[int]] = {}
        for occasion, starts, ends in windows:
            if isinstance(occasion.rule, YearlyRule):
                days = celebrated.setdefault(occasion.rule.date_name, set())
                days.update(each for each in month_days(occasion, starts, ends) if each is not None)
        found: dict[Day, dict[ZoneTime, list[int]]] = {}
        for name in celebrated.keys() & self.values.dates.keys():
            for place, month_day in self._on(name, celebrated[name]):
                by_zone_time = found.setdefault((name, month_day), {})
                zone_time = self.values.texts["timezone"][place], self.values.preferred_times[place]
                by_zone_time.setdefault(zone_time, []).append(self.user_ids[place])
        return replace(self, days=frozenset(found), celebrants=found)

    def _on(self, name: str, month_days: Collection[int]) -> Iterator[tuple[int, int]]:
        """The places of those who have a date on one of these days (MMDD), and the day."""
        assert self.values is not None
        dates = self.values.dates[name]
        wanted = {(each // 100, each % 100): each for each in month_days}
        for place, day in zip(dates.places, dates.days, strict=True):
            if (day.month, day.day) in wanted:
                yield place, wanted[day.month, day.day]

    def may_be_asked(self, occasion: Occasion, starts: datetime, ends: datetime) -> bool:
        """Whether `occasion` can have any moment of theirs in this window."""
        if self.days is None or not isinstance(occasion.rule, YearlyRule):
            return True
        celebrated = month_days(occasion, starts, ends)
        return any(name == occasion.rule.date_name and day in celebrated for name, day in self.days)

    def moments(self, occasion: Occasion, starts: datetime, ends: datetime) -> list[Moment]:
        """The moments of `occasion` in this window that can be any of theirs."""
        if not isinstance(occasion.rule, YearlyRule):
            return moments(occasion, self.zone_times, starts, ends)
        name, zone_times = occasion.rule.date_name, self.zone_times
        if self.celebrants is not None:
            theirs = [by_zone for day, by_zone in self.celebrants.items() if day[0] == name]
            zone_times = list({zone_time for by_zone in theirs for zone_time in by_zone})
        return [
            moment
            for moment in moments(occasion, zone_times, starts, ends)
            if self._may_celebrate(name, moment)
        ]

    def _may_celebrate(self, name: str, moment: Moment) -> bool:
        if self.days is None or moment.month_day is None:
            return True
        if self.celebrants is None:
            return (name, moment.month_day) in self.days
        return bool(self._celebrants(name, moment))

    def celebrating(self, found: Iterable[tuple[Occasion, Moment]]) -> Sequence[int]:
        """The ids of those for whom there may be one of these moments, which `moments` has told."""
        if self.celebrants is None:
            return self.user_ids if any(True for _ in found) else []
        ids: set[int] = set()
        for occasion, moment in found:
            if not isinstance(occasion.rule, YearlyRule):
                return self.user_ids
            ids.update(self._celebrants(occasion.rule.date_name, moment))
        return sorted(ids)

    def _celebrants(self, name: str, moment: Moment) -> list[int]:
        """Who has this date on the day of a moment, where the moment is."""
        assert self.celebrants is not None
        assert moment.month_day is not None, "asked of yearly occasions only"
        by_zone_time = self.celebrants.get((name, moment.month_day), {})
        return [
            user_id
            for (timezone, _), user_ids in by_zone_time.items()
            if timezone == moment.timezone
            for user_id in user_ids
        ]
