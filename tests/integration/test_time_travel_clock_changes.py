"""Days on which clocks change, at the very times that are skipped or repeated; zones as far apart as can be."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.local_time import GapPolicy, OverlapPolicy
from tests.fixtures.time_travel import TimeTravel, utc

GAPS = {
    # Skipped 02:00 to 03:00, 00:00 to 01:00 (not in 2027: Cuba had no winter time), 02:00 to 02:30, 00:00 to 01:00.
    ("America/New_York", date(2027, 3, 14), time(2, 30)): ("2027-03-14 07:30", "2027-03-14 06:30"),
    ("America/Havana", date(2028, 3, 12), time(0, 30)): ("2028-03-12 05:30", "2028-03-12 04:30"),
    ("Australia/Lord_Howe", date(2027, 10, 3), time(2, 15)): ("2027-10-02 15:45", "2027-10-02 15:15"),
    ("Africa/Cairo", date(2027, 4, 30), time(0, 30)): ("2027-04-29 22:30", "2027-04-29 21:30"),
}
OVERLAPS = {
    # Repeated 01:00 to 02:00, 00:00 to 01:00, 01:30 to 02:00, 23:00 to midnight.
    ("America/New_York", date(2027, 11, 7), time(1, 30)): ("2027-11-07 05:30", "2027-11-07 06:30"),
    ("America/Havana", date(2027, 11, 7), time(0, 30)): ("2027-11-07 04:30", "2027-11-07 05:30"),
    ("Australia/Lord_Howe", date(2027, 4, 4), time(1, 45)): ("2027-04-03 14:45", "2027-04-03 15:15"),
    ("Africa/Cairo", date(2027, 10, 28), time(23, 30)): ("2027-10-28 20:30", "2027-10-28 21:30"),
}


def celebrate(
    engine: Engine, place: tuple[str, date, time], gap: GapPolicy, overlap: OverlapPolicy
) -> TimeTravel:
    """Somebody's birthday at a time of their choice, lived through from days before until days after it."""
    timezone, day, chosen = place
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    travel = TimeTravel(engine, SettableClock(midnight - timedelta(days=3, minutes=10)))
    travel.change_occasion(gap=gap, overlap=overlap)
    travel.add(timezone=timezone, at=chosen, dates={"birthday": day.replace(year=1990)})
    travel.simulation.run(midnight + timedelta(days=3))
    return travel


@pytest.mark.parametrize("place", GAPS, ids=lambda place: place[0])
@pytest.mark.parametrize("policy", [GapPolicy.FORWARD, GapPolicy.BACKWARD])
def test_a_time_that_is_skipped_is_moved_once(
    engine: Engine, place: tuple[str, date, time], policy: GapPolicy
) -> None:
    travel = celebrate(engine, place, policy, OverlapPolicy.FIRST)
    expected = utc(GAPS[place][policy is GapPolicy.BACKWARD])
    message = travel.message()
    assert (message.state, message.local_date) == ("sent", place[1])
    assert (message.send_at, message.time_rule) == (expected, f"gap_{policy}")
    assert travel.accepted() == [("ann", expected)]


@pytest.mark.parametrize("place", GAPS, ids=lambda place: place[0])
def test_a_time_that_is_skipped_may_be_left_out(engine: Engine, place: tuple[str, date, time]) -> None:
    travel = celebrate(engine, place, GapPolicy.SKIP, OverlapPolicy.FIRST)
    assert not travel.messages()
    assert not travel.accepted()


@pytest.mark.parametrize("place", OVERLAPS, ids=lambda place: place[0])
@pytest.mark.parametrize("policy", list(OverlapPolicy))
def test_a_time_that_comes_twice_is_taken_once(
    engine: Engine, place: tuple[str, date, time], policy: OverlapPolicy
) -> None:
    travel = celebrate(engine, place, GapPolicy.FORWARD, policy)
    expected = utc(OVERLAPS[place][policy is OverlapPolicy.SECOND])
    message = travel.message()
    assert (message.state, message.local_date) == ("sent", place[1])
    assert (message.send_at, message.time_rule) == (expected, f"overlap_{policy}")
    assert travel.accepted() == [("ann", expected)]


def test_the_day_before_and_the_day_after_a_change_keep_their_hour(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-03-09 23:50")))
    for day in (13, 14, 15):
        travel.add(f"p{day}", timezone="America/New_York", dates={"birthday": date(1990, 3, day)})
    travel.run("2027-03-18 00:00")
    assert travel.accepted() == [
        ("p13", utc("2027-03-13 14:00")),
        ("p14", utc("2027-03-14 13:00")),
        ("p15", utc("2027-03-15 13:00")),
    ]


def test_two_ends_of_the_earth_are_served_at_one_instant(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-24 23:50")))
    travel.add("kiritimati", timezone="Pacific/Kiritimati", dates={"birthday": date(1990, 3, 2)})
    travel.add("pago", timezone="Pacific/Pago_Pago", at=time(8), dates={"birthday": date(1990, 3, 1)})
    travel.run("2027-03-05 00:00")
    one_instant = utc("2027-03-01 19:00")
    assert sorted(travel.accepted()) == [("kiritimati", one_instant), ("pago", one_instant)]
    assert {message.local_date for message in travel.messages()} == {date(2027, 3, 1), date(2027, 3, 2)}


def test_a_zone_ahead_is_planned_before_the_day_begins_in_utc(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-19 23:50")))
    travel.add(timezone="Pacific/Kiritimati")
    travel.run("2027-03-01 00:00")
    assert travel.accepted() == [("ann", utc("2027-02-28 19:00"))]
