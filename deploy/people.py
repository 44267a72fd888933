"""Made-up people: names that fit their city, cities by population, the same for the same seed.

The cities stand in `data/cities.csv` (populations are rounded, and of the whole agglomeration where that is
how the place is known), the names in `data/names.csv`, in Latin letters where many machines have no others for
them. Nobody in it is real: first and last names are drawn apart from each other, and mail to `example.org`
reaches no one (RFC 2606 §3).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import cache
from importlib.resources import files
from itertools import accumulate, islice, repeat
from random import Random
from typing import Any, Final

_FIRST_BIRTHDAY: Final = date(1940, 1, 1)
_DAYS_OF_BIRTHDAYS: Final = (date(2008, 1, 1) - _FIRST_BIRTHDAY).days
_MAJORITY: Final = timedelta(days=20 * 366)
_LAST_ANNIVERSARY: Final = date(2025, 12, 31)

_SHARE_WITH_ANNIVERSARY: Final = 0.4
_SHARE_WITH_PREFERRED_TIME: Final = 0.2
_PREFERRED_HOURS: Final = (6, 7, 8, 10, 12, 13, 17, 18, 19, 20)


@dataclass(frozen=True, slots=True)
class City:
    """A city: where on the clock it lies, how many live there (rounded), and how its people are called."""

    name: str
    timezone: str
    population: int
    culture: str


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a culture, and the language it is greeted in."""

    locale: str
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]


@cache
def cities() -> tuple[City, ...]:
    """All cities of the table, in its order."""
    return tuple(
        City(row["city"], row["timezone"], int(row["population"]), row["culture"])
        for row in _table("cities.csv")
    )


@cache
def names() -> Mapping[str, Names]:
    """The names of each culture."""
    return {
        row["culture"]: Names(
            row["locale"], tuple(row["first_names"].split(";")), tuple(row["last_names"].split(";"))
        )
        for row in _table("names.csv")
    }


def make_people(count: int, seed: int, *, prefix: str = "made-up") -> Iterator[dict[str, Any]]:
    """`count` people as input for `UserInput`, fit for JSON; equal arguments give equal people.

    Their external ids are `{prefix}-1` to `{prefix}-{count}`. Where `count` allows, each city has a person,
    so that no zone is missing; all others live where people live, by population.
    """
    random = Random(seed)
    for number, city in enumerate(islice(_homes(count, random), count), start=1):
        yield _person(f"{prefix}-{number}", city, random)


def _homes(count: int, random: Random) -> Iterator[City]:
    if count >= len(cities()):
        yield from cities()
    summed = list(accumulate(city.population for city in cities()))
    for _ in repeat(None):
        yield random.choices(cities(), cum_weights=summed)[0]


def _person(external_id: str, city: City, random: Random) -> dict[str, Any]:
    culture = names()[city.culture]
    birthday = _FIRST_BIRTHDAY + timedelta(days=random.randrange(_DAYS_OF_BIRTHDAYS))
    dates = {"birthday": birthday.isoformat()}
    if random.random() < _SHARE_WITH_ANNIVERSARY:
        dates["anniversary"] = _anniversary(birthday, random).isoformat()
    person: dict[str, Any] = {
        "external_id": external_id,
        "first_name": random.choice(culture.first_names),
        "last_name": random.choice(culture.last_names),
        "email": f"{external_id}@example.org",
        "timezone": city.timezone,
        "locale": culture.locale,
        "dates": dates,
        "attributes": {"city": city.name},
    }
    if random.random() < _SHARE_WITH_PREFERRED_TIME:
        chosen = time(random.choice(_PREFERRED_HOURS), random.choice((0, 15, 30, 45)))
        person["preferred_time"] = f"{chosen:%H:%M}"
    return person


def _anniversary(birthday: date, random: Random) -> date:
    """A date of a grown-up's life, long enough ago for it to have been celebrated."""
    first = birthday + _MAJORITY
    return first + timedelta(days=random.randrange(max(1, (_LAST_ANNIVERSARY - first).days)))


def _table(name: str) -> list[dict[str, str]]:
    table = files("deploy").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(table.splitlines()))
