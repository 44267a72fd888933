"""Users who were written, and what is known of them, which saves looking it up: for replanning them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from scheduler.domain.calendar import Moment, month_days
from scheduler.domain.occasion import Occasion, YearlyRule
from scheduler.domain.user import UserInput
from scheduler.store.users import ZoneTime


@dataclass(frozen=True, slots=True)
class EditedUsers:
    """Users to replan.

    `zone_times` are the zones and preferred times they live by and `days` the names and MMDD of their
    dates (None: not known); more than they have is harmless. `are_new`: none of them was there before.
    `by_day` tells for each of `days` who has it, which saves asking everybody else (None: not known).
    """

    user_ids: Sequence[int]
    zone_times: Sequence[ZoneTime]
    days: frozenset[tuple[str, int]] | None = None
    are_new: bool = False
    by_day: Mapping[tuple[str, int], Sequence[int]] | None = None

    @classmethod
    def many(cls, users: Mapping[int, UserInput], *, are_new: bool) -> Self:
        """Some thousands, by id, who were written with these values."""
        by_day: dict[tuple[str, int], list[int]] = {}
        for user_id, user in users.items():
            for name, value in user.dates.items():
                by_day.setdefault((name, value.month * 100 + value.day), []).append(user_id)
        zone_times = list({(user.timezone, user.preferred_time) for user in users.values()})
        return cls(list(users), zone_times, frozenset(by_day), are_new, by_day)

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
    def merged(cls, several: Sequence[EditedUsers]) -> Self:
        """All of these; as if nobody were new."""
        if len(several) == 1:
            return cls(several[0].user_ids, several[0].zone_times, several[0].days, by_day=several[0].by_day)
        days = [each.days for each in several if each.days is not None]
        return cls(
            [user_id for each in several for user_id in each.user_ids],
            zone_times=list({zone_time for each in several for zone_time in each.zone_times}),
            days=frozenset().union(*days) if len(days) == len(several) else None,
        )

    def may_be_asked(self, occasion: Occasion, starts: datetime, ends: datetime) -> bool:
        """Whether `occasion` can have any moment of theirs in this window."""
        if self.days is None or not isinstance(occasion.rule, YearlyRule):
            return True
        celebrated = month_days(occasion, starts, ends)
        return any(name == occasion.rule.date_name and day in celebrated for name, day in self.days)

    def may_celebrate(self, occasion: Occasion, moment: Moment) -> bool:
        """Whether `moment` can be any of theirs."""
        if self.days is None or not isinstance(occasion.rule, YearlyRule) or moment.month_day is None:
            return True
        return (occasion.rule.date_name, moment.month_day) in self.days

    def celebrating(self, moments: Iterable[tuple[Occasion, Moment]]) -> Sequence[int]:
        """The ids of those for whom there may be one of these moments."""
        if self.by_day is None:
            return self.user_ids if any(True for _ in moments) else []
        found: set[int] = set()
        for occasion, moment in moments:
            if not isinstance(occasion.rule, YearlyRule) or moment.month_day is None:
                return self.user_ids
            found.update(self.by_day.get((occasion.rule.date_name, moment.month_day), ()))
        return sorted(found)
