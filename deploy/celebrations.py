"""Gives made-up people something to celebrate soon, so that a demonstration shows greetings at any time of day.

Nobody is greeted early or late for it: each person gets a birthday or an anniversary that falls on a local
date of theirs, and either no time of their own (09:00 strikes where they live) or one that is about to strike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from random import Random
from typing import Any, Final

from scheduler.domain.zones import zone

Person = Mapping[str, Any]
"""A user as `make_people` makes them."""

_NINE: Final = time(9)
_MINUTE: Final = timedelta(minutes=1)

_LEAST_NOTICE: Final = timedelta(seconds=3)
"""Writing people takes a moment, and a minute that strikes meanwhile would be sent late."""

_ANNIVERSARY_SHARE: Final = 0.2
_MOST_YEARS: Final = 40
_GROWN_UP_YEARS: Final = 20
_WAKING_HOURS: Final = range(6, 22)
_NEAR_DAYS: Final = 3


@dataclass(frozen=True, slots=True)
class Stretch:
    """From the previous stretch's end to `minutes` after the start, `people` are greeted every `every` minutes."""

    minutes: int
    every: int
    people: int


OPENING: Final = (
    Stretch(minutes=10, every=1, people=8),
    Stretch(minutes=60, every=1, people=3),
    Stretch(minutes=360, every=3, people=1),
)
"""Many at first, then a stream for an hour, then one now and then for hours."""

TOP_UP: Final = (Stretch(minutes=15, every=1, people=4),)
"""What is added where nothing much is to come."""


def celebrating(
    people: Sequence[Person], stretches: Sequence[Stretch], *, at_nine: int, now: datetime, seed: int
) -> list[Person]:
    """`people`, in the same order, with celebrations ahead of `now`.

    As many as `stretches` take are greeted at a minute of theirs, at a time of their own; `at_nine` more at
    09:00 within a day, where they live; for the rest the coming days are like any others.
    """
    random = Random(seed)
    changed = [_on_another_day(person, now) for person in people]
    waiting = random.sample(range(len(people)), len(people))
    for instant in _minutes(stretches, now):
        if waiting:
            index = _somebody_awake(waiting, people, instant)
            waiting.remove(index)
            changed[index] = _greeted_at(people[index], instant, random)
    for index in waiting[:at_nine]:
        changed[index] = _greeted_at_nine(people[index], now, random)
    return changed


def fitting(stretches: Sequence[Stretch]) -> int:
    """How many people it takes to fill the stretches."""
    return sum(1 for _ in _offsets(stretches))


def _minutes(stretches: Sequence[Stretch], now: datetime) -> Iterator[datetime]:
    """The instants to fill, one for each person, from the first whole minute that can still be met."""
    first = (now + _LEAST_NOTICE).replace(second=0, microsecond=0) + _MINUTE
    for offset in _offsets(stretches):
        yield first + offset * _MINUTE


def _offsets(stretches: Sequence[Stretch]) -> Iterator[int]:
    begins = 0
    for stretch in stretches:
        for minute in range(begins, stretch.minutes, stretch.every):
            for _ in range(stretch.people):
                yield minute
        begins = stretch.minutes


def _somebody_awake(waiting: Sequence[int], people: Sequence[Person], instant: datetime) -> int:
    """The first for whom it is a decent hour; where it is one for nobody, the first."""
    return next(
        (index for index in waiting if _local(people[index], instant).hour in _WAKING_HOURS), waiting[0]
    )


def _greeted_at(person: Person, instant: datetime, random: Random) -> Person:
    local = _local(person, instant)
    return _celebrates(person, local.date(), random) | {"preferred_time": f"{local:%H:%M}"}


def _greeted_at_nine(person: Person, now: datetime, random: Random) -> Person:
    local = _local(person, now + _LEAST_NOTICE)
    day = local.date() if local.time() < _NINE else local.date() + timedelta(days=1)
    changed = _celebrates(person, day, random)
    changed.pop("preferred_time", None)
    return changed


def _celebrates(person: Person, day: date, random: Random) -> dict[str, Any]:
    """The person with a date that is celebrated on `day`, and no other that is near."""
    birthday = date.fromisoformat(person["dates"]["birthday"])
    if random.random() >= _ANNIVERSARY_SHARE:
        return {**person, "dates": {"birthday": _in_year(day, birthday.year).isoformat()}}
    years = random.randint(1, max(1, min(_MOST_YEARS, day.year - birthday.year - _GROWN_UP_YEARS)))
    dates = {"birthday": _away_from(birthday, day), "anniversary": _in_year(day, day.year - years)}
    return {**person, "dates": {name: value.isoformat() for name, value in dates.items()}}


def _on_another_day(person: Person, now: datetime) -> Person:
    """The person as they are, with dates that are not about now."""
    today = _local(person, now).date()
    dates = {
        name: _away_from(date.fromisoformat(value), today).isoformat()
        for name, value in person["dates"].items()
    }
    return {**person, "dates": dates}


def _away_from(value: date, day: date) -> date:
    """`value`, or a month before it where its day of the year is within a few days of `day`'s."""
    apart = abs((_in_year(value, 2000) - _in_year(day, 2000)).days)
    return value - timedelta(days=30) if min(apart, 366 - apart) <= _NEAR_DAYS else value


def _in_year(day: date, year: int) -> date:
    """The same day in another year; of 29 February, in the last leap year up to then."""
    return day.replace(year=year - year % 4 if (day.month, day.day) == (2, 29) else year)


def _local(person: Person, instant: datetime) -> datetime:
    return instant.astimezone(zone(person["timezone"]))
