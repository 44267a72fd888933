"""Which dates are celebrated: leap days, recurrences, dates for everyone, several times a day."""

from datetime import date, time

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.occasion import (
    Channel,
    FixedRule,
    LeapDayPolicy,
    OnceRule,
    RecurrenceRule,
    SameDayPolicy,
    YearlyRule,
)
from tests.fixtures.time_travel import MONTHLY, TimeTravel, utc

NOBODYS_BIRTHDAY = {"birthday": date(1990, 8, 1)}


@pytest.mark.parametrize("year", [2027, 2028])
@pytest.mark.parametrize("policy", list(LeapDayPolicy))
def test_a_leap_day_birthday(engine: Engine, year: int, policy: LeapDayPolicy) -> None:
    travel = TimeTravel(engine, SettableClock(utc(f"{year}-02-23 23:50")))
    travel.change_occasion(leap_day=policy)
    for born in (date(1992, 2, 28), date(1992, 2, 29), date(1992, 3, 1)):
        travel.add(f"{born:%m%d}", timezone="America/Havana", dates={"birthday": born})
    travel.run(f"{year}-03-04 00:00")
    found = {
        external_id: (message.local_date, message.date_rule)
        for (external_id, _), message in zip(travel.accepted(), travel.messages(), strict=True)
        if external_id == "0229"
    }
    leap_day = (
        {"0229": (date(2028, 2, 29), "exact")}
        if year == 2028
        else {
            LeapDayPolicy.FEB28: {"0229": (date(2027, 2, 28), "leap_feb28")},
            LeapDayPolicy.MAR1: {"0229": (date(2027, 3, 1), "leap_mar1")},
            LeapDayPolicy.SKIP: {},
        }[policy]
    )
    assert found == leap_day
    assert {external_id for external_id, _ in travel.accepted()} == {"0228", "0301", *leap_day}


def test_the_leap_day_policy_changed_between_two_celebrations_sends_once(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-23 23:50")))
    travel.add(dates={"birthday": date(1992, 2, 29)})
    travel.at("2027-02-28 12:00", lambda: travel.change_occasion(leap_day=LeapDayPolicy.MAR1))
    travel.run("2027-03-04 00:00")
    assert travel.accepted() == [("ann", utc("2027-02-28 09:00"))]


@pytest.mark.parametrize(("offset_days", "send_at"), [(-7, "2027-02-22 09:00"), (7, "2027-03-08 09:00")])
def test_a_week_before_and_after(engine: Engine, offset_days: int, send_at: str) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-17 23:50")))
    travel.change_occasion(rule=YearlyRule("birthday", offset_days))
    travel.add()
    travel.run("2027-03-12 00:00")
    assert travel.accepted() == [("ann", utc(send_at))]


def test_an_offset_across_the_new_year_belongs_to_the_year_it_celebrates(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-12-19 23:50")))
    travel.change_occasion(rule=YearlyRule("birthday", -5))
    user_id = travel.add(dates={"birthday": date(1990, 1, 2)})
    # 2028's has gone out; in that year there is no second, whatever the date.
    travel.edit_at("2027-12-29 00:00", user_id, dates={"birthday": date(1990, 1, 8)})
    travel.run("2028-01-12 00:00")
    assert travel.accepted() == [("ann", utc("2027-12-28 09:00"))]


def test_the_first_celebration_is_a_year_after_the_date(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-24 23:50")), **MONTHLY)
    travel.add(dates={"anniversary": date(2027, 3, 1)})
    travel.run("2028-03-05 00:00")
    assert travel.accepted() == [("ann", utc("2028-03-01 09:00"))]


def test_a_weekly_recurrence_follows_the_local_calendar(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")))
    travel.add_occasion(
        "weekly", rule=RecurrenceRule("FREQ=WEEKLY;BYDAY=MO", date(2027, 1, 4)), local_times=(time(8),)
    )
    travel.add("east", timezone="Pacific/Kiritimati", dates=NOBODYS_BIRTHDAY)
    travel.add("west", timezone="Pacific/Pago_Pago", dates=NOBODYS_BIRTHDAY)
    travel.run("2027-03-12 00:00")
    assert travel.accepted() == [
        ("east", utc("2027-02-28 18:00")),
        ("west", utc("2027-03-01 19:00")),
        ("east", utc("2027-03-07 18:00")),
        ("west", utc("2027-03-08 19:00")),
    ]


def test_a_calendar_date_and_a_single_date_are_everyones(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2026-12-27 23:50")), **MONTHLY)
    travel.add_occasion("new_year", rule=FixedRule(1, 1), local_times=(time(0),))
    travel.add_occasion("jubilee", rule=OnceRule(date(2026, 12, 31)))
    travel.add("auckland", timezone="Pacific/Auckland", dates={})
    travel.add("lima", timezone="America/Lima", dates={})
    travel.run("2028-01-03 00:00")
    assert travel.accepted() == [
        ("auckland", utc("2026-12-30 20:00")),
        ("auckland", utc("2026-12-31 11:00")),
        ("lima", utc("2026-12-31 14:00")),
        ("lima", utc("2027-01-01 05:00")),
        ("auckland", utc("2027-12-31 11:00")),
        ("lima", utc("2028-01-01 05:00")),
    ]


def test_several_times_a_day_and_channels_are_messages_of_their_own(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")))
    travel.change_occasion(local_times=(time(9), time(18)), channels=(Channel.EMAIL, Channel.SMS))
    travel.add("both", phone="+4930123456", at=time(7))
    travel.add("mail")
    travel.run("2027-03-03 00:00")
    assert sorted(travel.accepted()) == [
        ("both", utc("2027-03-01 07:00")),
        ("both", utc("2027-03-01 07:00")),
        ("both", utc("2027-03-01 18:00")),
        ("both", utc("2027-03-01 18:00")),
        ("mail", utc("2027-03-01 09:00")),
        ("mail", utc("2027-03-01 18:00")),
    ]


def test_somebody_new_on_their_day_is_greeted_at_once_or_as_the_occasion_has_it(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")))
    travel.change_occasion("anniversary", same_day=SameDayPolicy.SKIP)
    dates = {"birthday": date(1990, 3, 1), "anniversary": date(2010, 3, 1)}
    travel.at("2027-03-01 15:00", lambda: travel.add("late", dates=dates))
    travel.at("2027-03-02 00:00", lambda: travel.add("too_late", dates=dates))
    travel.run("2027-03-05 00:00")
    assert travel.accepted() == [("late", utc("2027-03-01 15:00"))]
    assert travel.message().time_rule == "same_day"


def test_a_zone_nobody_lived_in_before_is_planned_from_then_on(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-09 23:50")), **MONTHLY)
    travel.add("old", timezone="Europe/Paris")
    travel.at("2027-02-20 12:34", lambda: travel.add("new", timezone="Asia/Kathmandu"))
    travel.run("2028-03-05 00:00")
    assert travel.accepted() == [
        ("new", utc("2027-03-01 03:15")),
        ("old", utc("2027-03-01 08:00")),
        ("new", utc("2028-03-01 03:15")),
        ("old", utc("2028-03-01 08:00")),
    ]
