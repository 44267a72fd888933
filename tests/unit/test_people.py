"""Made-up people are valid, the same for the same seed, and celebrate when they are meant to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

import pytest

from deploy.celebrations import OPENING, TOP_UP, Person, celebrating, fitting
from deploy.people import cities, make_people, names
from scheduler.domain.user import UserInput, check_dates
from scheduler.domain.zones import allowed_zones, zone

NOWS = [
    datetime(2026, 11, 22, 0, 30, 56, tzinfo=UTC),
    datetime(2027, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2028, 2, 28, 23, 50, 12, tzinfo=UTC),
    datetime(2027, 3, 14, 6, 58, tzinfo=UTC),
]


def test_people_are_valid_users_with_ids_of_their_own() -> None:
    people = [UserInput.model_validate(person) for person in make_people(2_000, 7, prefix="load")]
    assert [person.external_id for person in people] == [f"load-{number}" for number in range(1, 2_001)]
    assert not [person for person in people if check_dates(person, date(2026, 1, 1))]


def test_the_same_seed_gives_the_same_people_and_another_gives_others() -> None:
    assert list(make_people(50, 7)) == list(make_people(50, 7))
    assert list(make_people(50, 7)) != list(make_people(50, 8))


def test_people_live_in_every_zone_of_the_table_and_mostly_where_most_live() -> None:
    lived_in = Counter(person["timezone"] for person in make_people(10_000, 7))
    assert set(lived_in) == {city.timezone for city in cities()}
    assert lived_in["Asia/Shanghai"] > lived_in["Europe/London"] > lived_in["Pacific/Auckland"] > 0


def test_few_people_live_where_most_do() -> None:
    populations = {city.name: city.population for city in cities()}
    homes = [person["attributes"]["city"] for person in islice(make_people(100, 7), 100)]
    assert sum(populations[home] for home in homes) / 100 > 5_000_000


def test_the_tables_agree_with_each_other_and_with_the_zones() -> None:
    assert {city.culture for city in cities()} == set(names())
    assert {city.timezone for city in cities()} <= allowed_zones()
    assert len(cities()) == len({city.name for city in cities()})


def strikes(person: Person, now: datetime) -> Iterator[datetime]:
    """When a person is greeted within two days of `now`."""
    home = zone(person["timezone"])
    chosen = time.fromisoformat(person.get("preferred_time", "09:00"))
    today = now.astimezone(home).date()
    for day in (today + timedelta(days=offset) for offset in range(-1, 3)):
        for value in person["dates"].values():
            if (day.month, day.day) == (int(value[5:7]), int(value[8:10])):
                yield datetime.combine(day, chosen, home).astimezone(UTC)


@pytest.mark.parametrize("now", NOWS, ids=str)
def test_greetings_stream_from_the_first_minute_and_none_is_overdue(now: datetime) -> None:
    people = celebrating(list(make_people(1_000, 7)), OPENING, at_nine=450, now=now, seed=7)
    instants = sorted(instant for person in people for instant in strikes(person, now))
    minutes = Counter((instant - now) // timedelta(minutes=1) for instant in instants)
    assert instants[0] > now + timedelta(seconds=2)
    assert instants[0] <= now + timedelta(seconds=64)
    assert all(minutes[minute] >= 8 for minute in range(1, 10))
    assert all(minutes[minute] >= 3 for minute in range(1, 60))
    assert len(instants) == fitting(OPENING) + 450


@pytest.mark.parametrize("now", NOWS, ids=str)
def test_whoever_celebrates_is_still_a_valid_user(now: datetime) -> None:
    people: Sequence[Person] = list(make_people(300, 7))
    changed = celebrating(people, TOP_UP, at_nine=200, now=now, seed=7)
    assert [person["external_id"] for person in changed] == [person["external_id"] for person in people]
    for person in changed:
        user = UserInput.model_validate(dict(person))
        assert not check_dates(user, now.date() - timedelta(days=1))


def test_half_of_the_greetings_strike_at_nine_where_people_live() -> None:
    now = NOWS[0]
    people = celebrating(list(make_people(1_000, 7)), OPENING, at_nine=450, now=now, seed=7)
    at_nine = [person for person in people if "preferred_time" not in person and any(strikes(person, now))]
    assert len(at_nine) == 450
    assert len({person["timezone"] for person in at_nine}) > 50
