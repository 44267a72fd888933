import re
from datetime import date
from time import process_time

import pytest

from scheduler.domain.recurrence import occurrences, parse_recurrence

JANUARY_2026 = date(2026, 1, 1)


def dates(rule: str, starts_on: date, first: date, last: date) -> list[str]:
    return [day.isoformat() for day in occurrences(parse_recurrence(rule), starts_on, first, last)]


def in_2026(rule: str, starts_on: date = JANUARY_2026) -> list[str]:
    """Month and day of the rule's dates in 2026."""
    return [day[5:] for day in dates(rule, starts_on, date(2026, 1, 1), date(2026, 12, 31))]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=DAILY;COUNT=3", ["01-01", "01-02", "01-03"]),
        ("RRULE:FREQ=DAILY;INTERVAL=150", ["01-01", "05-31", "10-28"]),
        ("freq=daily;until=20260102", ["01-01", "01-02"]),
        ("FREQ=WEEKLY;COUNT=2", ["01-01", "01-08"]),
        ("FREQ=WEEKLY;BYDAY=MO,FR;COUNT=3", ["01-02", "01-05", "01-09"]),
        ("FREQ=MONTHLY;COUNT=2", ["01-01", "02-01"]),
        ("FREQ=MONTHLY;BYMONTHDAY=31", [f"{m:02}-31" for m in (1, 3, 5, 7, 8, 10, 12)]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=2", ["01-31", "02-28"]),
        ("FREQ=MONTHLY;BYDAY=-1FR;COUNT=3", ["01-30", "02-27", "03-27"]),
        ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", ["02-13", "03-13", "11-13"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1;COUNT=3", ["01-30", "02-27", "03-31"]),
        ("FREQ=MONTHLY;BYDAY=MO,2TU;BYMONTH=1", ["01-05", "01-12", "01-13", "01-19", "01-26"]),
        ("FREQ=YEARLY;BYMONTH=11;BYDAY=4TH", ["11-26"]),
        ("FREQ=YEARLY;BYDAY=20MO", ["05-18"]),
        ("FREQ=YEARLY;BYDAY=-1SU", ["12-27"]),
        ("FREQ=YEARLY;BYYEARDAY=100,-1", ["04-10", "12-31"]),
        ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", ["05-11"]),
        ("FREQ=YEARLY;BYWEEKNO=53;BYDAY=TH", ["12-31"]),
        ("FREQ=YEARLY;BYWEEKNO=-1;BYDAY=TH", ["12-31"]),
        ("FREQ=YEARLY;BYWEEKNO=20", ["05-14"]),
        ("FREQ=YEARLY;BYMONTH=6", ["06-01"]),
    ],
)
def test_rules_as_people_write_them(rule: str, expected: list[str]) -> None:
    assert in_2026(rule) == expected


def test_the_week_start_decides_which_weeks_count() -> None:
    """The example of RFC 5545 §3.8.5.3."""
    first, last = date(1997, 8, 5), date(1997, 12, 31)
    rule = "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST="
    assert dates(rule + "MO", first, first, last) == ["1997-08-05", "1997-08-10", "1997-08-19", "1997-08-24"]
    assert dates(rule + "SU", first, first, last) == ["1997-08-05", "1997-08-17", "1997-08-19", "1997-08-31"]


def test_a_yearly_29_february_comes_in_leap_years_only() -> None:
    starts_on = date(2024, 2, 29)
    assert dates("FREQ=YEARLY", starts_on, starts_on, date(2033, 1, 1)) == [
        "2024-02-29",
        "2028-02-29",
        "2032-02-29",
    ]


def test_the_count_runs_from_the_first_date_not_from_the_window() -> None:
    assert in_2026("FREQ=DAILY;COUNT=3", starts_on=date(2025, 12, 31)) == ["01-01", "01-02"]
    assert in_2026("FREQ=DAILY;COUNT=3", starts_on=date(2025, 12, 1)) == []


def test_a_first_date_that_does_not_match_is_no_occurrence() -> None:
    assert in_2026("FREQ=WEEKLY;BYDAY=MO;COUNT=1") == ["01-05"]


def test_nothing_occurs_before_the_first_date() -> None:
    assert in_2026("FREQ=MONTHLY", starts_on=date(2026, 11, 30)) == ["11-30", "12-30"]


@pytest.mark.parametrize(
    "rule", ["FREQ=DAILY", "FREQ=WEEKLY;BYDAY=MO,SU;BYSETPOS=-1", "FREQ=YEARLY;BYWEEKNO=1,-1,53;BYDAY=MO,FR"]
)
def test_the_ends_of_the_calendar_are_dates_like_others(rule: str) -> None:
    recurrence = parse_recurrence(rule)
    assert list(occurrences(recurrence, date.min, date.min, date(1, 2, 1)))
    assert list(occurrences(recurrence, date.min, date(9999, 12, 1), date.max))


@pytest.mark.parametrize("count", ["", ";COUNT=10000"])
def test_a_rule_that_never_occurs_costs_little(count: str) -> None:
    begun = process_time()
    assert in_2026("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30" + count, starts_on=date(1900, 1, 1)) == []
    # Some milliseconds; walking on to the year 9999, as libraries do, takes seconds.
    assert process_time() - begun < 1.5


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("", "unknown part ''"),
        ("INTERVAL=2", "FREQ is required"),
        ("FREQ=FORTNIGHTLY", "FREQ is required, one of DAILY"),
        ("FREQ=HOURLY", "FREQ=HOURLY is too fine"),
        ("FREQ=DAILY;BYHOUR=9", "BYHOUR is not allowed: the time of day belongs to the occasion"),
        ("FREQ=DAILY;BYMINUTE=9", "BYMINUTE is not allowed"),
        ("FREQ=DAILY;BYSECOND=9", "BYSECOND is not allowed"),
        ("FREQ=DAILY;BYEASTER=1", "unknown part 'BYEASTER'"),
        ("FREQ=DAILY;FREQ=DAILY", "FREQ is given twice"),
        ("FREQ=DAILY;", "unknown part ''"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL is a whole number from 1"),
        ("FREQ=DAILY;INTERVAL=1.5", "INTERVAL is a whole number from 1"),
        ("FREQ=DAILY;INTERVAL=99999999999999999999", "INTERVAL is a whole number from 1"),
        ("FREQ=DAILY;COUNT=-1", "COUNT is a whole number from 1"),
        ("FREQ=DAILY;COUNT=10001", "COUNT is a whole number from 1 to 10000"),
        ("FREQ=DAILY;COUNT=1;UNTIL=20270101", "COUNT and UNTIL exclude each other"),
        ("FREQ=DAILY;UNTIL=20270101T000000Z", "UNTIL is a date written YYYYMMDD"),
        ("FREQ=DAILY;UNTIL=20270229", "UNTIL is a date written YYYYMMDD"),
        ("FREQ=DAILY;UNTIL=2027W011", "UNTIL is a date written YYYYMMDD"),
        ("FREQ=YEARLY;BYMONTH=0", "BYMONTH lists whole numbers from 1 to 12"),
        ("FREQ=YEARLY;BYMONTH=-1", "BYMONTH lists whole numbers from 1 to 12"),
        ("FREQ=YEARLY;BYMONTH=1,", "BYMONTH lists whole numbers"),
        ("FREQ=MONTHLY;BYMONTHDAY=32", "BYMONTHDAY lists whole numbers from 1 to 31 or -1 to -31"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "BYMONTHDAY lists whole numbers"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "BYMONTHDAY is not for FREQ=WEEKLY"),
        ("FREQ=MONTHLY;BYYEARDAY=1", "BYYEARDAY is for FREQ=YEARLY only"),
        ("FREQ=MONTHLY;BYWEEKNO=1", "BYWEEKNO is for FREQ=YEARLY only"),
        ("FREQ=WEEKLY;BYDAY=1MO", "BYDAY takes no ordinals with FREQ=WEEKLY"),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO", "BYDAY takes no ordinals with BYWEEKNO"),
        ("FREQ=MONTHLY;BYDAY=6MO", "BYDAY counts to 5 or -5 within a month"),
        ("FREQ=YEARLY;BYMONTH=5;BYDAY=-6MO", "BYDAY counts to 5 or -5 within a month"),
        ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY lists weekdays such as MO"),
        ("FREQ=MONTHLY;BYDAY=1", "BYDAY lists weekdays such as MO"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS needs another BY part"),
        ("FREQ=DAILY;WKST=1", "WKST is one of MO"),
        ("FREQ=DAILY;BYMONTH=" + "1," * 300 + "1", "at most 500 characters"),
        ("DTSTART:20260101\nRRULE:FREQ=DAILY", "unknown part"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_reason(rule: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_recurrence(rule)
