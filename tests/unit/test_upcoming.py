"""What an occasion holds for one user: the same as the calendar plans, and what it does on odd days."""

from datetime import UTC, date, datetime, time, timedelta

import pytest

from scheduler.domain.calendar import moments
from scheduler.domain.local_time import GapPolicy
from scheduler.domain.occasion import (
    FixedRule,
    LeapDayPolicy,
    Occasion,
    OnceRule,
    RecurrenceRule,
    YearlyRule,
)
from scheduler.domain.upcoming import OddDay, Person, odd_days, upcoming
from tests.fixtures.occasions import an_occasion

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
ANN = Person("Europe/Berlin", None, {"birthday": date(1990, 7, 4)})
LEAPLING = Person("Europe/Berlin", None, {"birthday": date(1992, 2, 29)})


@pytest.mark.parametrize(
    "occasion",
    [
        an_occasion(),
        an_occasion(rule=YearlyRule("birthday", -400), local_times=(time(2, 30), time(23, 59))),
        an_occasion(rule=FixedRule(2, 29), leap_day=LeapDayPolicy.MAR1),
        an_occasion(
            rule=RecurrenceRule("FREQ=WEEKLY;BYDAY=SU", date(2026, 1, 1)), local_times=(time(2, 30),)
        ),
        an_occasion(rule=OnceRule(date(2027, 3, 2))),
        an_occasion(rule=OnceRule(date(2027, 3, 1))),
    ],
)
@pytest.mark.parametrize(
    "person", [ANN, LEAPLING, Person("Pacific/Apia", time(7), {"birthday": date(1980, 3, 1)})]
)
def test_the_next_occurrences_are_those_that_are_planned(occasion: Occasion, person: Person) -> None:
    ends = NOW + timedelta(days=3 * 366)
    birthday = person.dates["birthday"]
    planned = [
        (moment.send_at, moment.local_date, moment.slot, moment.date_rule, moment.time_rule)
        for moment in moments(occasion, [(person.timezone, person.preferred_time)], NOW, ends)
        if moment.month_day in (None, birthday.month * 100 + birthday.day)
    ]
    found = [
        (each.send_at, each.local_date, each.slot, each.date_rule, each.time_rule)
        for each in upcoming(occasion, person, NOW, 40)
        if each.send_at is not None and each.send_at < ends
    ]
    assert found == planned[:40]


def test_the_first_anniversary_is_a_year_after_the_date() -> None:
    born_today = Person("UTC", None, {"birthday": date(2027, 3, 1)})
    [first] = upcoming(an_occasion(), born_today, datetime(2027, 3, 1, tzinfo=UTC), 1)
    assert first.local_date == date(2028, 3, 1)


def test_nothing_comes_for_who_lacks_the_date_nor_of_a_date_that_never_comes() -> None:
    assert upcoming(an_occasion(), Person("UTC", None, {}), NOW, 3) == []
    never = an_occasion(rule=RecurrenceRule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", date(2027, 1, 1)))
    assert upcoming(never, ANN, NOW, 3) == []


def days(occasion: Occasion, person: Person) -> list[tuple[str, date, str | None, str | None]]:
    """Each odd day: which, when, and by which rules (None: nothing is sent)."""
    return [
        (
            odd.day.value,
            odd.local_date,
            odd.occurrence.date_rule.value if odd.occurrence else None,
            odd.occurrence.time_rule.value if odd.occurrence and odd.occurrence.time_rule else None,
        )
        for odd in odd_days(occasion, person, NOW)
    ]


def test_odd_days_in_a_zone_with_summer_time() -> None:
    assert days(an_occasion(), ANN) == [
        ("leap_day", date(2028, 2, 29), "exact", "exact"),
        ("no_leap_day", date(2029, 2, 28), "leap_feb28", "exact"),
        ("clocks_forward", date(2027, 3, 28), "exact", "exact"),
        ("clocks_forward", date(2027, 3, 28), "exact", "gap_forward"),
        ("clocks_back", date(2027, 10, 31), "exact", "exact"),
        ("clocks_back", date(2027, 10, 31), "exact", "overlap_first"),
    ]


def test_who_skips_is_shown_to_skip() -> None:
    skips = an_occasion(leap_day=LeapDayPolicy.SKIP, gap=GapPolicy.SKIP, local_times=(time(2, 30),))
    found = days(skips, ANN)
    assert ("no_leap_day", date(2029, 2, 28), None, None) in found
    # Once, though the occasion's own time is the one that does not exist.
    assert found.count(("clocks_forward", date(2027, 3, 28), "exact", None)) == 1


@pytest.mark.parametrize(
    ("timezone", "missing"),
    [
        ("Pacific/Apia", [date(2011, 12, 30)]),
        ("Pacific/Fakaofo", [date(2011, 12, 30)]),
        ("Pacific/Kwajalein", [date(1993, 8, 21)]),
        ("Pacific/Kiritimati", [date(1994, 12, 31)]),
        ("Europe/Berlin", []),
        ("Asia/Tokyo", []),
    ],
)
def test_a_date_that_a_zone_left_out_is_known(timezone: str, missing: list[date]) -> None:
    odd = odd_days(an_occasion(), Person(timezone, None, {}), NOW)
    assert [each.local_date for each in odd if each.day is OddDay.MISSING_DATE] == missing


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FixedRule(2, 29), [date(2028, 2, 29), date(2029, 2, 28)]),
        (FixedRule(3, 1), []),
        (RecurrenceRule("FREQ=DAILY", date(2027, 1, 1)), [date(2028, 2, 29), date(2029, 2, 28)]),
        (OnceRule(date(2027, 5, 1)), []),
    ],
)
def test_leap_days_of_other_rules(rule: FixedRule | RecurrenceRule | OnceRule, expected: list[date]) -> None:
    odd = odd_days(an_occasion(rule=rule), Person("UTC", None, {}), NOW)
    assert [each.local_date for each in odd if "leap" in each.day] == expected
