"""RFC 5545 recurrence rules over local dates: a rule's text in, the dates of a window out.

Covers RRULE (§3.3.10) with date values, daily or slower: INTERVAL, COUNT, UNTIL, WKST and every BY part
of days. The time of day belongs to the occasion, so BYHOUR and finer parts are refused.

Whether a date belongs to a rule is decided from the date itself, so a window costs what the window is
long: no expansion from the first date on, and a rule that never occurs (30 February) costs no more than
one that does. Only COUNT has to count, from the first date on. (python-dateutil, which the tests compare
with, walks from the first date always and needs seconds to find that a rule never occurs.)

Where the RFC is open: a first date that does not match the rule is no occurrence; BYSETPOS counts
within the whole period, also in the period of the first date; BYWEEKNO without BYDAY means the weekday
of the first date; with FREQ=YEARLY, INTERVAL and BYSETPOS count calendar years.
"""

from __future__ import annotations

import re
from calendar import isleap, monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Final

_LONGEST_RULE: Final = 500  # characters
_LARGEST_NUMBER: Final = 10_000  # of INTERVAL and COUNT
_WEEKDAYS: Final = {"MO": 0, "TU": 1, "WE": 2, "TH": 3, "FR": 4, "SA": 5, "SU": 6}
_FREQUENCIES: Final = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_TOO_FINE: Final = ("SECONDLY", "MINUTELY", "HOURLY")
_TIME_PARTS: Final = ("BYHOUR", "BYMINUTE", "BYSECOND")
_DAY_PARTS: Final = ("BYMONTH", "BYWEEKNO", "BYYEARDAY", "BYMONTHDAY", "BYDAY")
_PARTS: Final = ("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYSETPOS", *_DAY_PARTS)
_BY_DAY: Final = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A rule as it was written, its parts as numbers; weekdays count from Monday, 0.

    An empty part does not restrict. `by_day` holds (ordinal, weekday), ordinal 0 where none was given.
    """

    frequency: str
    interval: int
    count: int | None
    until: date | None
    week_start: int
    by_month: frozenset[int]
    by_week_number: frozenset[int]
    by_year_day: frozenset[int]
    by_month_day: frozenset[int]
    by_day: frozenset[tuple[int, int]]
    by_position: frozenset[int]


@lru_cache(maxsize=1024)
def parse_recurrence(text: str) -> Recurrence:
    """Read a rule such as `FREQ=MONTHLY;BYDAY=-1FR`, with or without `RRULE:` before it.

    Raises ValueError that says what is wrong and what is allowed.
    """
    parts = _split(text)
    recurrence = Recurrence(
        frequency=_frequency(parts),
        interval=_count_of(parts, "INTERVAL") or 1,
        count=_count_of(parts, "COUNT"),
        until=_until(parts.get("UNTIL")),
        week_start=_week_start(parts.get("WKST", "MO")),
        by_month=_numbers(parts, "BYMONTH", 12, signed=False),
        by_week_number=_numbers(parts, "BYWEEKNO", 53),
        by_year_day=_numbers(parts, "BYYEARDAY", 366),
        by_month_day=_numbers(parts, "BYMONTHDAY", 31),
        by_day=_by_day(parts),
        by_position=_numbers(parts, "BYSETPOS", 366),
    )
    _check_together(recurrence, parts)
    return recurrence


def occurrences(rule: Recurrence, starts_on: date, first: date, last: date) -> Iterator[date]:
    """The rule's dates from `first` through `last`, ascending; `starts_on` is the rule's DTSTART."""
    rule = _completed(rule, starts_on)
    end = last if rule.until is None else min(last, rule.until)
    begin = starts_on if rule.count is not None else max(first, starts_on)
    remaining = rule.count
    for day in _days(begin, end):
        if not (_in_phase(rule, starts_on, day) and _occurs(rule, day)):
            continue
        if remaining is not None:
            if remaining == 0:
                return
            remaining -= 1
        if day >= first:
            yield day


def _split(text: str) -> Mapping[str, str]:
    if len(text) > _LONGEST_RULE:
        raise ValueError(f"a recurrence rule has at most {_LONGEST_RULE} characters")
    parts: dict[str, str] = {}
    for part in text.strip().upper().removeprefix("RRULE:").split(";"):
        name, _, value = part.partition("=")
        if name in _TIME_PARTS:
            raise ValueError(f"{name} is not allowed: the time of day belongs to the occasion")
        if name not in _PARTS:
            raise ValueError(f"unknown part {name[:20]!r}; a rule is made of {', '.join(_PARTS)}")
        if name in parts:
            raise ValueError(f"{name} is given twice")
        parts[name] = value
    return parts


def _frequency(parts: Mapping[str, str]) -> str:
    frequency = parts.get("FREQ")
    if frequency in _TOO_FINE:
        raise ValueError(f"FREQ={frequency} is too fine; a rule yields dates: {', '.join(_FREQUENCIES)}")
    if frequency not in _FREQUENCIES:
        raise ValueError(f"FREQ is required, one of {', '.join(_FREQUENCIES)}")
    return frequency


def _count_of(parts: Mapping[str, str], name: str) -> int | None:
    value = parts.get(name)
    if value is None:
        return None
    if not _WHOLE.fullmatch(value) or not 1 <= int(value) <= _LARGEST_NUMBER:
        raise ValueError(f"{name} is a whole number from 1 to {_LARGEST_NUMBER}")
    return int(value)


def _until(value: str | None) -> date | None:
    if value is None:
        return None
    try:
        if re.fullmatch("[0-9]{8}", value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("UNTIL is a date written YYYYMMDD: the rule is one of dates, not of times")


def _week_start(value: str) -> int:
    if value not in _WEEKDAYS:
        raise ValueError(f"WKST is one of {', '.join(_WEEKDAYS)}")
    return _WEEKDAYS[value]


def _numbers(parts: Mapping[str, str], name: str, limit: int, *, signed: bool = True) -> frozenset[int]:
    if name not in parts:
        return frozenset()
    texts = parts[name].split(",")
    numbers = frozenset(int(text) for text in texts if _WHOLE.fullmatch(text))
    if not all(map(_WHOLE.fullmatch, texts)) or not all(
        1 <= abs(number) <= limit and (signed or number > 0) for number in numbers
    ):
        signs = f" or -1 to -{limit}" if signed else ""
        raise ValueError(f"{name} lists whole numbers from 1 to {limit}{signs}")
    return numbers


def _by_day(parts: Mapping[str, str]) -> frozenset[tuple[int, int]]:
    if "BYDAY" not in parts:
        return frozenset()
    found = [_BY_DAY.fullmatch(text) for text in parts["BYDAY"].split(",")]
    days = frozenset((int(match[1] or 0), _WEEKDAYS[match[2]]) for match in found if match)
    ordinals = [int(match[1]) for match in found if match and match[1]]
    if not all(found) or not all(1 <= abs(ordinal) <= 53 for ordinal in ordinals):
        raise ValueError("BYDAY lists weekdays such as MO, 2TU or -1FR")
    return days


def _check_together(rule: Recurrence, parts: Mapping[str, str]) -> None:
    """The parts that exclude each other (RFC 5545 §3.3.10)."""
    largest_ordinal = max((abs(ordinal) for ordinal, _ in rule.by_day), default=0)
    has_ordinals = largest_ordinal > 0
    within_month = rule.frequency == "MONTHLY" or bool(rule.by_month)
    weekly_or_daily = rule.frequency in ("WEEKLY", "DAILY")
    refusals = (
        (rule.count is not None and rule.until is not None, "COUNT and UNTIL exclude each other"),
        (has_ordinals and weekly_or_daily, f"BYDAY takes no ordinals with FREQ={rule.frequency}"),
        (largest_ordinal > 5 and within_month, "BYDAY counts to 5 or -5 within a month"),
        (has_ordinals and bool(rule.by_week_number), "BYDAY takes no ordinals with BYWEEKNO"),
        (bool(rule.by_week_number) and rule.frequency != "YEARLY", "BYWEEKNO is for FREQ=YEARLY only"),
        (bool(rule.by_year_day) and rule.frequency != "YEARLY", "BYYEARDAY is for FREQ=YEARLY only"),
        (bool(rule.by_month_day) and rule.frequency == "WEEKLY", "BYMONTHDAY is not for FREQ=WEEKLY"),
        (
            bool(rule.by_position) and not any(part in parts for part in _DAY_PARTS),
            "BYSETPOS needs another BY part to choose from",
        ),
    )
    for is_wrong, message in refusals:
        if is_wrong:
            raise ValueError(message)


def _completed(rule: Recurrence, starts_on: date) -> Recurrence:
    """Fill in what the rule leaves to its first date (RFC 5545 §3.3.10)."""
    if rule.by_year_day or rule.by_month_day or rule.by_day:
        return rule
    if rule.frequency == "WEEKLY" or rule.by_week_number:
        return replace(rule, by_day=frozenset({(0, starts_on.weekday())}))
    if rule.frequency == "MONTHLY":
        return replace(rule, by_month_day=frozenset({starts_on.day}))
    if rule.frequency == "YEARLY":
        months = rule.by_month or frozenset({starts_on.month})
        return replace(rule, by_month=months, by_month_day=frozenset({starts_on.day}))
    return rule


def _days(first: date, last: date) -> Iterator[date]:
    return map(date.fromordinal, range(first.toordinal(), last.toordinal() + 1))


def _in_phase(rule: Recurrence, starts_on: date, day: date) -> bool:
    """Whether `day` lies in a period that INTERVAL does not leave out."""
    if rule.interval == 1:
        return True
    if rule.frequency == "YEARLY":
        periods = day.year - starts_on.year
    elif rule.frequency == "MONTHLY":
        periods = (day.year - starts_on.year) * 12 + day.month - starts_on.month
    elif rule.frequency == "WEEKLY":
        periods = (_week_ordinal(day, rule.week_start) - _week_ordinal(starts_on, rule.week_start)) // 7
    else:
        periods = (day - starts_on).days
    return periods % rule.interval == 0


def _occurs(rule: Recurrence, day: date) -> bool:
    if not _matches(rule, day):
        return False
    if not rule.by_position:
        return True
    chosen = [other for other in _days(*_period(rule, day)) if _matches(rule, other)]
    position = chosen.index(day)
    return position + 1 in rule.by_position or position - len(chosen) in rule.by_position


def _matches(rule: Recurrence, day: date) -> bool:
    """Whether every BY part allows `day`."""
    return (
        (not rule.by_month or day.month in rule.by_month)
        and (not rule.by_month_day or _either(rule.by_month_day, day.day, _month_length(day)))
        and (not rule.by_day or _weekday_allowed(rule, day))
        and (not rule.by_year_day or _either(rule.by_year_day, _year_day(day), _year_length(day.year)))
        and (not rule.by_week_number or _either(rule.by_week_number, *_week_of_year(day, rule.week_start)))
    )


def _either(allowed: frozenset[int], position: int, length: int) -> bool:
    """Whether a position from 1 is allowed, counted from the start or, negative, from the end."""
    return position in allowed or position - length - 1 in allowed


def _weekday_allowed(rule: Recurrence, day: date) -> bool:
    weekday = day.weekday()
    if (0, weekday) in rule.by_day:
        return True
    in_month = rule.frequency == "MONTHLY" or bool(rule.by_month)
    position, length = (day.day, _month_length(day)) if in_month else (_year_day(day), _year_length(day.year))
    from_start = (position - 1) // 7 + 1
    from_end = -((length - position) // 7 + 1)
    return (from_start, weekday) in rule.by_day or (from_end, weekday) in rule.by_day


def _period(rule: Recurrence, day: date) -> tuple[date, date]:
    """The first and last date of the year, month, week or day that BYSETPOS counts in."""
    if rule.frequency == "YEARLY":
        return date(day.year, 1, 1), date(day.year, 12, 31)
    if rule.frequency == "MONTHLY":
        return day.replace(day=1), day.replace(day=_month_length(day))
    if rule.frequency == "DAILY":
        return day, day
    week = _week_ordinal(day, rule.week_start)
    begin, end = max(week, date.min.toordinal()), min(week + 6, date.max.toordinal())
    return date.fromordinal(begin), date.fromordinal(end)


def _week_ordinal(day: date, week_start: int) -> int:
    """The ordinal of the first day of the week; below 1 in the first week of the calendar."""
    return day.toordinal() - (day.weekday() - week_start) % 7


def _week_of_year(day: date, week_start: int) -> tuple[int, int]:
    """The number of the week `day` lies in, with how many weeks that week's year has.

    The first week of a year is the first with at least four days in it (RFC 5545 §3.3.10, BYWEEKNO), so a
    week belongs to the year of its fourth day.
    """
    year, fourth_day = day.year, _year_day(day) + 3 - (day.weekday() - week_start) % 7
    if fourth_day < 1:
        year -= 1
        fourth_day += _year_length(year)
    elif fourth_day > _year_length(year):
        fourth_day -= _year_length(year)
        year += 1
    number = (fourth_day - 1) // 7 + 1
    return number, number + (_year_length(year) - fourth_day) // 7


def _year_day(day: date) -> int:
    return day.timetuple().tm_yday


def _year_length(year: int) -> int:
    return 366 if isleap(year) else 365


def _month_length(day: date) -> int:
    return monthrange(day.year, day.month)[1]
