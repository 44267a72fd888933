"""Our recurrence rules against python-dateutil's, which expands them in another way.

Left out, because dateutil decides otherwise: BYDAY with and without ordinals in one rule (it takes the
intersection), BYSETPOS in a first week that is not whole, and BYWEEKNO (it takes 1 January 2022 for no day
of week 52, unlike ISO 8601), which is compared with the definition of a week instead.
"""

import re
from datetime import MAXYEAR, date, datetime, time, timedelta
from itertools import takewhile

from dateutil.rrule import rrulestr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.domain.recurrence import occurrences, parse_recurrence

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
YEARS = range(2015, 2037)  # of all dates that are compared
LATER = 7944  # years; as many after each of them comes one with the same calendar
starts = st.dates(date(2015, 1, 1), date(2026, 12, 31))


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(st.integers(low, high).filter(bool), min_size=1, max_size=4, unique=True).map(
        lambda chosen: ",".join(map(str, chosen))
    )


plain_days = st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=7, unique=True).map(",".join)


def ordinal_days(limit: int) -> st.SearchStrategy[str]:
    one = st.tuples(st.integers(-limit, limit).filter(bool), st.sampled_from(WEEKDAYS))
    return st.lists(one, min_size=1, max_size=3, unique=True).map(
        lambda chosen: ",".join(f"{ordinal}{weekday}" for ordinal, weekday in chosen)
    )


BY_FREQUENCY = {
    "DAILY": {"BYMONTHDAY": numbers(-31, 31), "BYDAY": plain_days},
    "WEEKLY": {"BYDAY": plain_days},
    "MONTHLY": {"BYMONTHDAY": numbers(-31, 31), "BYDAY": plain_days | ordinal_days(5)},
    "YEARLY": {
        "BYMONTHDAY": numbers(-31, 31),
        "BYYEARDAY": numbers(-366, 366),
        "BYDAY": plain_days | ordinal_days(53),
    },
}


INTERVALS = st.sampled_from(["", "INTERVAL=2", "INTERVAL=5"])
WEEK_STARTS = st.sampled_from(["", *(f"WKST={weekday}" for weekday in WEEKDAYS)])
BOUNDS = st.one_of(
    st.just(""),
    st.integers(1, 40).map(lambda count: f"COUNT={count}"),
    st.dates(date(2015, 1, 1), date(2030, 1, 1)).map(lambda day: f"UNTIL={day:%Y%m%d}"),
)


@st.composite
def rule_texts(draw: st.DrawFn) -> str:
    frequency = draw(st.sampled_from(sorted(BY_FREQUENCY)))
    choices = BY_FREQUENCY[frequency] | {"BYMONTH": numbers(1, 12)}
    names = draw(st.lists(st.sampled_from(sorted(choices)), max_size=2, unique=True))
    if "BYMONTH" in names and frequency == "YEARLY":
        choices["BYDAY"] = plain_days | ordinal_days(5)
    parts = [f"FREQ={frequency}", *(f"{name}={draw(choices[name])}" for name in names)]
    if names and frequency != "WEEKLY" and draw(st.booleans()):
        parts.append(f"BYSETPOS={draw(numbers(-6, 6))}")
    parts += [draw(INTERVALS), draw(WEEK_STARTS), draw(BOUNDS)]
    return ";".join(filter(None, parts))


def test_the_years_by_dateutil_have_the_same_calendar() -> None:
    assert YEARS[-1] + LATER <= MAXYEAR
    for year in YEARS:
        first, last = date(year, 1, 1), date(year, 12, 31)
        for day in (first, last):
            assert moved(day, LATER).weekday() == day.weekday()
        assert moved(last, LATER) - moved(first, LATER) == last - first


def by_dateutil(text: str, starts_on: date, first: date, last: date) -> list[date]:
    """The dates by dateutil, asked at the end of its calendar.

    dateutil follows a rule that never occurs to the year 9999: from here on that takes seconds, from there nothing.
    """
    later = re.sub(r"(?<=UNTIL=)[0-9]{4}", lambda year: str(int(year[0]) + LATER), text)
    rule = rrulestr(later, dtstart=datetime.combine(moved(starts_on, LATER), time()))
    found = (moved(each.date(), -LATER) for each in rule)
    return [day for day in takewhile(lambda day: day <= last, found) if day >= first]


def moved(day: date, years: int) -> date:
    return day.replace(year=day.year + years)


def by_us(text: str, starts_on: date, first: date, last: date) -> list[date]:
    return list(occurrences(parse_recurrence(text), starts_on, first, last))


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(rule_texts(), starts, st.integers(0, 2000), st.integers(0, 1500))
def test_a_window_holds_what_dateutil_finds_in_it(
    text: str, starts_on: date, days_before: int, days: int
) -> None:
    first = starts_on + timedelta(days=days_before)
    last = first + timedelta(days=days)
    assert by_us(text, starts_on, first, last) == by_dateutil(text, starts_on, first, last)


def first_week(year: int, week_start: int) -> date:
    """The first day of the week that holds 4 January, and with it at least four days of its year."""
    fourth = date(year, 1, 4)
    return fourth - timedelta(days=(fourth.weekday() - week_start) % 7)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(-53, 53).filter(bool), min_size=1, max_size=4, unique=True),
    st.sampled_from(range(7)),
    st.integers(1990, 2090),
)
def test_weeks_count_from_the_one_that_holds_4_january(weeks: list[int], week_start: int, year: int) -> None:
    text = f"FREQ=YEARLY;BYWEEKNO={','.join(map(str, weeks))};BYDAY={WEEKDAYS[week_start]}"
    text += f";WKST={WEEKDAYS[week_start]}"
    begin, end = first_week(year, week_start), first_week(year + 1, week_start)
    count = (end - begin).days // 7
    numbers_of_weeks = {number if number > 0 else count + 1 + number for number in weeks}
    assert by_us(text, date(1980, 1, 1), begin, end - timedelta(days=1)) == [
        begin + timedelta(weeks=number - 1) for number in range(1, count + 1) if number in numbers_of_weeks
    ]


@settings(deadline=None, max_examples=200)
@given(rule_texts(), starts, st.integers(-100, 1000), st.integers(0, 300), st.integers(0, 300))
def test_a_window_is_the_sum_of_its_parts(
    text: str, starts_on: date, days_before: int, first_days: int, second_days: int
) -> None:
    first = starts_on + timedelta(days=days_before)
    middle = first + timedelta(days=first_days)
    last = middle + timedelta(days=second_days)
    after = middle + timedelta(days=1)
    whole = by_us(text, starts_on, first, last)
    assert by_us(text, starts_on, first, middle) + by_us(text, starts_on, after, last) == whole
    assert all(day >= starts_on for day in whole)
