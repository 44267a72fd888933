"""Which occasion falls on which local date, at which instant in which zone.

Dates first, zones second: the dates of an occasion are the same everywhere, so they are found once per
window; each zone then turns a date and a local time into its own instant (see `local_time`).

A yearly occasion is asked backwards. Given a local date, `anchors` says which month and day a user's
named date must have for the occasion to fall on it, so that the store finds the users by one index.
"""

from __future__ import annotations

from calendar import isleap
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

from scheduler.domain.local_time import TimeRule, resolve
from scheduler.domain.occasion import (
    AdHocRule,
    FixedRule,
    LeapDayPolicy,
    Occasion,
    OnceRule,
    RecurrenceRule,
    Rule,
    YearlyRule,
)
from scheduler.domain.recurrence import occurrences, parse_recurrence
from scheduler.domain.zones import zone

LEAP_DAY: Final = 229
"""29 February as month and day (MMDD)."""

_ONE_DAY: Final = timedelta(days=1)
# On the very first and last date the instant may lie outside the calendar.
_FIRST_DATE: Final = date.min + _ONE_DAY
_LAST_DATE: Final = date.max - _ONE_DAY


class DateRule(StrEnum):
    """How a local date was found, recorded with every message."""

    EXACT = "exact"
    LEAP_FEB28 = "leap_feb28"
    LEAP_MAR1 = "leap_mar1"


_SUBSTITUTES: Final = {
    (LeapDayPolicy.FEB28, 2, 28): DateRule.LEAP_FEB28,
    (LeapDayPolicy.MAR1, 3, 1): DateRule.LEAP_MAR1,
}


class Anchor(NamedTuple):
    """The named dates that are celebrated on one local date, and of which year.

    `month_day` is MMDD (229: 29 February); `year` is the year celebrated, which differs from the local
    date's own where an offset crosses the new year.
    """

    month_day: int
    year: int
    rule: DateRule


class Moment(NamedTuple):
    """One instant at which an occasion falls due in one zone; `month_day` and `year` for yearly ones only."""

    timezone: str
    local_time: time
    slot: int
    local_date: date
    date_rule: DateRule
    send_at: datetime
    time_rule: TimeRule
    month_day: int | None
    year: int | None


class _Celebration(NamedTuple):
    """A local date of an occasion, before any zone has turned it into an instant."""

    local_date: date
    date_rule: DateRule
    month_day: int | None
    year: int | None


def anchors(rule: YearlyRule, leap_day: LeapDayPolicy, local_date: date) -> tuple[Anchor, ...]:
    """What a yearly occasion celebrates on `local_date`: two anchors where 29 February is moved there.

    None at all where the date celebrated lies outside the calendar (years 1 to 9999).
    """
    try:
        celebrated = local_date - timedelta(days=rule.offset_days)
    except OverflowError:
        return ()
    exact = Anchor(celebrated.month * 100 + celebrated.day, celebrated.year, DateRule.EXACT)
    moved = _substitute(leap_day, celebrated)
    if moved is None:
        return (exact,)
    return exact, Anchor(LEAP_DAY, celebrated.year, moved)


def dates_between(
    rule: FixedRule | RecurrenceRule | OnceRule | AdHocRule, leap_day: LeapDayPolicy, first: date, last: date
) -> Iterator[tuple[date, DateRule]]:
    """The occasion's local dates from `first` through `last`, ascending, with how each was found.

    What is sent ad hoc at an instant has none. Only a fixed 29 February follows `leap_day`; a recurrence leaves out
    dates that do not exist (RFC 5545 §3.3.10).
    """
    match rule:
        case FixedRule():
            yield from _fixed_dates(rule, leap_day, first, last)
        case RecurrenceRule():
            recurrence = parse_recurrence(rule.rrule)
            for local_date in occurrences(recurrence, rule.starts_on, first, last):
                yield local_date, DateRule.EXACT
        case OnceRule():
            if first <= rule.on <= last:
                yield rule.on, DateRule.EXACT
        case AdHocRule():
            if rule.is_local and first <= rule.at.date() <= last:
                yield rule.at.date(), DateRule.EXACT


def moments(
    occasion: Occasion, zone_times: Iterable[tuple[str, time | None]], starts: datetime, ends: datetime
) -> list[Moment]:
    """Every moment of `occasion` with `starts` <= send_at < `ends`, in order of send_at.

    `zone_times` are the zones to plan, each with a preferred time or None for the occasion's own times. A
    preferred time takes the place of slot 0's where the occasion honours it, and counts as None where it
    does not; moments that become equal by that are given once. `occasion.active` is not looked at. Raises
    ValueError for a zone that does not exist or an instant without a zone.
    """
    if starts.tzinfo is None or ends.tzinfo is None:
        raise ValueError("a window is bounded by aware instants")
    celebrations = _celebrations(occasion, starts, ends)
    if not celebrations or starts >= ends:
        return []
    found = []
    for timezone, local_time, slot in _zone_slots(occasion, zone_times):
        rules = zone(timezone)
        for local_date, date_rule, month_day, year in celebrations:
            resolved = resolve(local_date, local_time, rules, occasion.gap, occasion.overlap)
            if resolved is None or not starts <= resolved.instant < ends:
                continue
            instant, time_rule = resolved
            found.append(
                Moment(timezone, local_time, slot, local_date, date_rule, instant, time_rule, month_day, year)
            )
    found.sort(key=attrgetter("send_at", "timezone", "slot", "local_time", "local_date"))
    return found


def ad_hoc_moments(occasion: Occasion, rule: AdHocRule, timezones: Iterable[str]) -> list[Moment]:
    """When the messages of an ad hoc send fall due in each zone, in order of send_at; none where a gap skips it."""
    if rule.is_local:
        around = rule.at.replace(tzinfo=UTC)
        zone_times = [(timezone, None) for timezone in timezones]
        return moments(occasion, zone_times, around - 2 * _ONE_DAY, around + 2 * _ONE_DAY)
    return [
        Moment(
            timezone=timezone,
            local_time=occasion.local_times[0],
            slot=0,
            local_date=rule.at.astimezone(zone(timezone)).date(),
            date_rule=DateRule.EXACT,
            send_at=rule.at,
            time_rule=TimeRule.EXACT,
            month_day=None,
            year=None,
        )
        for timezone in sorted(timezones)
    ]


def _substitute(leap_day: LeapDayPolicy, local_date: date) -> DateRule | None:
    """How 29 February comes to be celebrated on `local_date`, if it does."""
    if isleap(local_date.year):
        return None
    return _SUBSTITUTES.get((leap_day, local_date.month, local_date.day))


def _fixed_dates(
    rule: FixedRule, leap_day: LeapDayPolicy, first: date, last: date
) -> Iterator[tuple[date, DateRule]]:
    for year in range(first.year, last.year + 1):
        found = _fixed_date(rule, leap_day, year)
        if found is not None and first <= found[0] <= last:
            yield found


def _fixed_date(rule: FixedRule, leap_day: LeapDayPolicy, year: int) -> tuple[date, DateRule] | None:
    if (rule.month, rule.day) != (2, 29) or isleap(year):
        return date(year, rule.month, rule.day), DateRule.EXACT
    for (policy, month, day), date_rule in _SUBSTITUTES.items():
        if policy is leap_day:
            return date(year, month, day), date_rule
    return None


def month_days(occasion: Occasion, starts: datetime, ends: datetime) -> frozenset[int | None]:
    """The months and days (MMDD) of named dates that `moments` of this window can be for; None: of none."""
    return frozenset(each.month_day for each in _celebrations(occasion, starts, ends))


def _celebrations(occasion: Occasion, starts: datetime, ends: datetime) -> tuple[_Celebration, ...]:
    """The occasion's local dates that can have an instant of the window in any zone.

    A local time is less than 24 hours from UTC, whatever the zone, and a gap is read by one of the zone's
    own offsets: a day on either side of the window is enough.
    """
    first = max(_FIRST_DATE, _date_near(starts, -_ONE_DAY))
    last = min(_LAST_DATE, _date_near(ends, _ONE_DAY))
    return _celebrations_between(occasion.rule, occasion.leap_day, first, last)


# Each write to a user asks for the same days, all day long.
@lru_cache(maxsize=1024)
def _celebrations_between(
    rule: Rule, leap_day: LeapDayPolicy, first: date, last: date
) -> tuple[_Celebration, ...]:
    if isinstance(rule, YearlyRule):
        return tuple(
            _Celebration(local_date, anchor.rule, anchor.month_day, anchor.year)
            for local_date in map(date.fromordinal, range(first.toordinal(), last.toordinal() + 1))
            for anchor in anchors(rule, leap_day, local_date)
        )
    return tuple(
        _Celebration(local_date, date_rule, None, None)
        for local_date, date_rule in dates_between(rule, leap_day, first, last)
    )


def _date_near(instant: datetime, distance: timedelta) -> date:
    """The UTC date at `distance` from `instant`, or the end of the calendar that lies on the way."""
    try:
        return (instant + distance - (instant.utcoffset() or timedelta())).date()
    except OverflowError:
        return date.min if distance < timedelta() else date.max


def _zone_slots(
    occasion: Occasion, zone_times: Iterable[tuple[str, time | None]]
) -> dict[tuple[str, time, int], None]:
    """Zone, local time and slot, each combination once, in the order given."""
    slots: dict[tuple[str, time, int], None] = {}
    for timezone, preferred in zone_times:
        for slot, local_time in enumerate(occasion.local_times):
            if slot == 0 and preferred is not None and occasion.honours_preferred_time:
                slots[timezone, preferred, slot] = None
            else:
                slots[timezone, local_time, slot] = None
    return slots
