"""Thousands of users as columns: what an import holds of them, checked, without an object for each.

A user of their own is made of them where one is asked for. The values are those that `UserInput` takes; nothing is
checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from itertools import compress
from typing import Any, Final, NamedTuple, Self, overload

from scheduler.domain.user import UserInput

REQUIRED_TEXTS: Final = ("external_id", "first_name", "last_name", "timezone", "locale")
OPTIONAL_TEXTS: Final = ("email", "phone", "push_token", "webhook_url")


class Dates(NamedTuple):
    """Who has a date, by their place among the users, and which day it is."""

    places: Sequence[int]
    days: Sequence[date]


def dates_of(column: Sequence[date | None]) -> Dates:
    """A column of dates, of which None stands for none."""
    if None not in column:
        return Dates(range(len(column)), [day for day in column if day is not None])
    return Dates(
        [place for place, day in enumerate(column) if day is not None],
        [day for day in column if day is not None],
    )


@dataclass(frozen=True)
class UserColumns(Sequence[UserInput]):
    """Users by place, each column as long as the others; an empty text stands for none where a user may lack it.

    `texts` has a column for each of `REQUIRED_TEXTS` and `OPTIONAL_TEXTS`, `dates` are by name.
    """

    texts: Mapping[str, Sequence[str]]
    preferred_times: Sequence[time | None]
    attributes: Sequence[Mapping[str, Any]]
    dates: Mapping[str, Dates]

    @classmethod
    def of(cls, users: Sequence[UserInput]) -> Self:
        """These users."""
        texts: dict[str, Sequence[str]] = {
            name: [getattr(user, name) for user in users] for name in REQUIRED_TEXTS
        }
        texts |= {name: [getattr(user, name) or "" for user in users] for name in OPTIONAL_TEXTS}
        found: dict[str, tuple[list[int], list[date]]] = {}
        for place, user in enumerate(users):
            for name, day in user.dates.items():
                places, days = found.setdefault(name, ([], []))
                places.append(place)
                days.append(day)
        return cls(
            texts,
            [user.preferred_time for user in users],
            [user.attributes for user in users],
            {name: Dates(*each) for name, each in found.items()},
        )

    @property
    def external_ids(self) -> Sequence[str]:
        """Their external ids."""
        return self.texts["external_id"]

    @property
    def without_address(self) -> int:
        """How many have nothing but their inbox."""
        columns = [column for name in OPTIONAL_TEXTS if any(column := self.texts[name])]
        if any(all(column) for column in columns):
            return 0
        return len(self) - sum(map(any, zip(*columns, strict=True)))

    def zone_times(self) -> Iterator[tuple[str, time | None]]:
        """The zones they live in and the times they prefer."""
        return zip(self.texts["timezone"], self.preferred_times, strict=True)

    def kept(self, keep: Sequence[bool]) -> UserColumns:
        """Those of whom `keep` says so, in their order."""
        moved = [-1] * len(self)
        for now_at, place in enumerate(compress(range(len(self)), keep)):
            moved[place] = now_at
        dates = {}
        for name, (places, days) in self.dates.items():
            kept = [(moved[place], day) for place, day in zip(places, days, strict=True) if keep[place]]
            if kept:
                dates[name] = Dates([place for place, _ in kept], [day for _, day in kept])
        return UserColumns(
            {name: list(compress(column, keep)) for name, column in self.texts.items()},
            list(compress(self.preferred_times, keep)),
            list(compress(self.attributes, keep)),
            dates,
        )

    def __len__(self) -> int:
        return len(self.preferred_times)

    @overload
    def __getitem__(self, place: int) -> UserInput: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[UserInput]: ...
    def __getitem__(self, place: int | slice) -> UserInput | Sequence[UserInput]:
        return self._users[place]

    def __iter__(self) -> Iterator[UserInput]:
        return iter(self._users)

    @cached_property
    def _users(self) -> list[UserInput]:
        dates: list[dict[str, date]] = [{} for _ in range(len(self))]
        for name in sorted(self.dates):
            for place, day in zip(*self.dates[name], strict=True):
                dates[place][name] = day
        texts = (self._texts_or_none(name) for name in self.texts)
        rows = zip(*texts, self.preferred_times, self.attributes, dates, strict=True)
        names = (*self.texts, "preferred_time", "attributes", "dates")
        return [UserInput.model_construct(**dict(zip(names, row, strict=True))) for row in rows]

    def _texts_or_none(self, name: str) -> Iterable[str | None]:
        column = self.texts[name]
        return [text or None for text in column] if name in OPTIONAL_TEXTS else column
