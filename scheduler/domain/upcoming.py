"""What an occasion holds for one user: its next occurrences, and the days on which clocks and calendars are odd.

The calendar's own answers (`calendar`, `local_time`), asked for one user, however far ahead, and nothing planned.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import isleap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Final

from scheduler.domain.calendar import LEAP_DAY, DateRule, anchors, dates_between
from scheduler.domain.local_time import ResolvedTime, TimeRule, resolve
from scheduler.domain.occasion import AdHocRule, Occasion, YearlyRule
from scheduler.domain.zones import zone

YEARS_AHEAD: Final = 12
"""How far to look: 29 February may stay away for eight years."""

_DAY: Final = timedelta(days=1)
_A_LEAP_BIRTHDAY: Final = date(2000, 2, 29)
_CHANGES_WITHIN: Final = timedelta(days=400)
_MISSING_SINCE: Final = date(1970, 1, 1)
_WIDEST_CHANGE: Final = timedelta(hours=12)
"""No clock is set by more than this without leaving out or repeating a whole date."""


@dataclass(frozen=True, slots=True)
class Person:
    """What the calendar asks of a user."""

    timezone: str
    preferred_time: time | None
    dates: Mapping[str, date]


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One local date and time of an occasion for one user. No `send_at`: the occasion skips a time in a gap."""

    local_date: date
    local_time: time
    slot: int
    date_rule: DateRule
    send_at: datetime | None
    time_rule: TimeRule | None


class OddDay(StrEnum):
    """Why a day is odd."""

    LEAP_DAY = "leap_day"
    """29 February, in a year that has one."""
    NO_LEAP_DAY = "no_leap_day"
    """29 February, in a year that has none."""
    CLOCKS_FORWARD = "clocks_forward"
    CLOCKS_BACK = "clocks_back"
    MISSING_DATE = "missing_date"
    """A date that the zone left out altogether."""


@dataclass(frozen=True, slots=True)
class OddOccurrence:
    """An occurrence as it is, was or would be on an odd day."""

    day: OddDay
    occurrence: Occurrence | None
    """None: the occasion does not fall on that day at all."""
    local_date: date


def upcoming(occasion: Occasion, person: Person, starts: datetime, most: int) -> list[Occurrence]:
    """Up to `most` occurrences from the instant `starts` on, in order, as far as `YEARS_AHEAD`."""
    if isinstance(occasion.rule, AdHocRule) or most < 1:
        return []
    found: list[Occurrence] = []
    for local_date, date_rule in _dates(occasion, person, starts.date() - _DAY):
        # Dates come in order and instants of one date are within two days of it: the rest is later.
        if len(found) >= most and _later(found, most, local_date):
            break
        found += [
            each
            for each in _on(occasion, person, local_date, date_rule)
            if each.send_at is not None and each.send_at >= starts
        ]
    return sorted(found, key=_instant)[:most]


def odd_days(occasion: Occasion, person: Person, now: datetime) -> list[OddOccurrence]:
    """What the occasion would do on 29 February, where clocks change next, and on dates the zone left out."""
    odd = list(_leap_days(occasion, person, now))
    for day, local_date, inside in _clock_changes(person.timezone, now):
        times = list(_times(occasion, person))
        if occasion.honours_preferred_time and inside not in {at for _, at in times}:
            times.append((0, inside))
        odd += [
            OddOccurrence(day, _at(occasion, person, local_date, slot, at), local_date) for slot, at in times
        ]
    for local_date in _missing_dates(person.timezone):
        odd += [
            OddOccurrence(OddDay.MISSING_DATE, each, local_date)
            for each in _on(occasion, person, local_date, DateRule.EXACT)
        ]
    return odd


def _later(found: Sequence[Occurrence], most: int, local_date: date) -> bool:
    last = sorted(map(_instant, found))[most - 1]
    return last < datetime.combine(local_date, time(), UTC) - 2 * _DAY


def _instant(occurrence: Occurrence) -> datetime:
    assert occurrence.send_at is not None, "what is skipped is not sorted"
    return occurrence.send_at


def _dates(occasion: Occasion, person: Person, first: date) -> Iterator[tuple[date, DateRule]]:
    rule = occasion.rule
    last = date(min(first.year + YEARS_AHEAD, date.max.year - 1), 12, 30)
    if isinstance(rule, YearlyRule):
        celebrated = person.dates.get(rule.date_name)
        if celebrated is not None:
            yield from _yearly_dates(occasion, rule, celebrated, first, last)
    elif not isinstance(rule, AdHocRule):
        yield from dates_between(rule, occasion.leap_day, first, last)


def _yearly_dates(
    occasion: Occasion, rule: YearlyRule, celebrated: date, first: date, last: date
) -> Iterator[tuple[date, DateRule]]:
    month_day = celebrated.month * 100 + celebrated.day
    offset = timedelta(days=rule.offset_days)
    years_off = abs(rule.offset_days) // 365 + 1
    for year in range(max(celebrated.year + 1, first.year - years_off), last.year + years_off + 1):
        for local_date in {day + offset for day in _candidates(month_day, year)}:
            for anchor in anchors(rule, occasion.leap_day, local_date):
                if (anchor.month_day, anchor.year) == (month_day, year) and first <= local_date <= last:
                    yield local_date, anchor.rule


def _candidates(month_day: int, year: int) -> list[date]:
    """The days of a year on which a month and day may be celebrated."""
    if month_day != LEAP_DAY:
        return [date(year, month_day // 100, month_day % 100)]
    try:
        return [date(year, 2, 29)]
    except ValueError:
        return [date(year, 2, 28), date(year, 3, 1)]


def _times(occasion: Occasion, person: Person) -> Iterator[tuple[int, time]]:
    for slot, local_time in enumerate(occasion.local_times):
        chosen = person.preferred_time if slot == 0 and occasion.honours_preferred_time else None
        yield slot, chosen or local_time


def _on(occasion: Occasion, person: Person, local_date: date, date_rule: DateRule) -> Iterator[Occurrence]:
    for slot, local_time in _times(occasion, person):
        yield _at(occasion, person, local_date, slot, local_time, date_rule)


def _at(
    occasion: Occasion,
    person: Person,
    local_date: date,
    slot: int,
    local_time: time,
    date_rule: DateRule = DateRule.EXACT,
) -> Occurrence:
    resolved: ResolvedTime | None = resolve(
        local_date, local_time, zone(person.timezone), occasion.gap, occasion.overlap
    )
    send_at, time_rule = resolved or (None, None)
    return Occurrence(local_date, local_time, slot, date_rule, send_at, time_rule)


def _leap_days(occasion: Occasion, person: Person, now: datetime) -> Iterator[OddOccurrence]:
    """For who was born on 29 February, or where the occasion itself is on it: the next years with and without one."""
    rule = occasion.rule
    if isinstance(rule, YearlyRule):
        person = Person(person.timezone, person.preferred_time, {rule.date_name: _A_LEAP_BIRTHDAY})
    elif not isinstance(rule, AdHocRule):
        leap = date(_next_year(now, leap=True), 2, 29)
        if not list(dates_between(rule, occasion.leap_day, leap, leap)):
            return
    for day, year in (
        (OddDay.LEAP_DAY, _next_year(now, leap=True)),
        (OddDay.NO_LEAP_DAY, _next_year(now, leap=False)),
    ):
        yield from _leap_day_in(occasion, person, day, year)


def _leap_day_in(occasion: Occasion, person: Person, day: OddDay, year: int) -> Iterator[OddOccurrence]:
    rule = occasion.rule
    if isinstance(rule, YearlyRule):
        first, last = date(year - 11, 1, 1), date(year + 11, 12, 31)
        dates = [
            (local_date, date_rule)
            for local_date, date_rule in _yearly_dates(occasion, rule, _A_LEAP_BIRTHDAY, first, last)
            if (local_date - timedelta(days=rule.offset_days)).year == year
        ]
    else:
        dates = [
            found
            for found in _dates(occasion, person, date(year, 2, 28))
            if found[0].year == year
            and (found[0] == date(year, 2, 29) if isleap(year) else _is_moved(*found))
        ]
    nominal = date(year, 2, 29) if day is OddDay.LEAP_DAY else date(year, 2, 28)
    if not dates:
        yield OddOccurrence(day, None, nominal)
    for local_date, date_rule in dates:
        for each in _on(occasion, person, local_date, date_rule):
            yield OddOccurrence(day, each, local_date)


def _is_moved(local_date: date, date_rule: DateRule) -> bool:
    return date_rule is not DateRule.EXACT and local_date.month in (2, 3)


def _next_year(now: datetime, *, leap: bool) -> int:
    """The first year with, or without, a 29 February whose end of February is still to come."""
    year = now.year if now.month == 1 else now.year + 1
    while isleap(year) is not leap:
        year += 1
    return year


def _clock_changes(timezone: str, now: datetime) -> Iterator[tuple[OddDay, date, time]]:
    """The next change of clocks either way: its local date, and a time that does not exist or exists twice."""
    rules = zone(timezone)
    wanted = {OddDay.CLOCKS_FORWARD, OddDay.CLOCKS_BACK}
    instant = now.astimezone(UTC)
    while wanted and instant < now + _CHANGES_WITHIN:
        following = instant + _DAY
        before, after = _offset(instant, rules), _offset(following, rules)
        if before != after:
            change = _change_between(instant, following, rules)
            day = OddDay.CLOCKS_FORWARD if after > before else OddDay.CLOCKS_BACK
            if day in wanted:
                wanted.remove(day)
                inside = change.replace(tzinfo=None) + (before + after) / 2
                yield day, inside.date(), inside.time()
        instant = following


def _change_between(starts: datetime, ends: datetime, rules: tzinfo) -> datetime:
    """The first minute (UTC) by whose clocks differ from UTC as they do at `ends`."""
    starts = starts.replace(second=0, microsecond=0)
    minutes = range((ends - starts) // timedelta(minutes=1) + 1)
    offset = _offset(ends, rules)
    passed = bisect_left(
        minutes, True, key=lambda each: _offset(starts + each * timedelta(minutes=1), rules) == offset
    )
    return starts + passed * timedelta(minutes=1)


@lru_cache(maxsize=1024)
def _missing_dates(timezone: str) -> tuple[date, ...]:
    """The dates since 1970 that a zone left out: it moved across the date line."""
    rules = zone(timezone)
    missing = []
    instant = datetime.combine(_MISSING_SINCE, time(12), UTC)
    last = datetime(2038, 1, 1, tzinfo=UTC)
    offset = _offset(instant, rules)
    while instant < last:
        following = instant + 30 * _DAY
        if _offset(following, rules) - offset > _WIDEST_CHANGE:
            change = _change_between(instant, following, rules)
            missing.append((change + offset).date())
        instant, offset = following, _offset(following, rules)
    return tuple(missing)


def _offset(instant: datetime, rules: tzinfo) -> timedelta:
    return instant.astimezone(rules).utcoffset() or timedelta()
