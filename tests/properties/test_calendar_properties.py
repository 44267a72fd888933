from datetime import UTC, date, datetime, time, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.domain.calendar import DateRule, Moment, anchors, dates_between, moments
from scheduler.domain.local_time import GapPolicy, OverlapPolicy, TimeRule, resolve
from scheduler.domain.occasion import (
    FixedRule,
    LeapDayPolicy,
    Occasion,
    OnceRule,
    RecurrenceRule,
    Rule,
    YearlyRule,
)
from scheduler.domain.zones import allowed_zones, zone
from tests.fixtures.occasions import an_occasion

settings.register_profile("calendar", deadline=None, max_examples=200)
CALENDAR = settings.get_profile("calendar")

# Clocks change at midnight, by half an hour, at the far ends of the world; a date is missing in Apia.
ODD_ZONES = (
    "America/New_York",
    "America/Havana",
    "America/St_Johns",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "UTC",
)

zone_names = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(allowed_zones()))
local_dates = st.dates(date(1990, 1, 1), date(2037, 12, 31))
minutes = st.builds(time, st.integers(0, 23), st.integers(0, 59))
offsets = st.integers(-7, 7) | st.integers(-400, 400)
gaps, overlaps, leap_days = map(st.sampled_from, (GapPolicy, OverlapPolicy, LeapDayPolicy))
instants = st.integers(0, 19 * 366 * 24 * 60).map(
    lambda minute: datetime(2011, 12, 1, tzinfo=UTC) + timedelta(minutes=minute)
)
month_days = st.dates(date(2024, 1, 1), date(2024, 12, 31)).map(lambda day: (day.month, day.day))
recurrences = st.sampled_from(
    [
        "FREQ=DAILY",
        "FREQ=DAILY;INTERVAL=3;COUNT=500",
        "FREQ=WEEKLY;BYDAY=MO,FR",
        "FREQ=MONTHLY;BYMONTHDAY=-1",
        "FREQ=YEARLY;BYMONTH=11;BYDAY=4TH",
    ]
)
rules: st.SearchStrategy[Rule] = st.one_of(
    st.builds(YearlyRule, st.just("birthday"), offsets),
    month_days.map(lambda month_day: FixedRule(*month_day)),
    st.builds(RecurrenceRule, recurrences, st.dates(date(2009, 1, 1), date(2026, 1, 1))),
    st.builds(OnceRule, local_dates),
)


@st.composite
def occasions(draw: st.DrawFn) -> Occasion:
    return an_occasion(
        rule=draw(rules),
        local_times=tuple(draw(st.lists(minutes, min_size=1, max_size=3, unique=True))),
        honours_preferred_time=draw(st.booleans()),
        gap=draw(gaps),
        overlap=draw(overlaps),
        leap_day=draw(leap_days),
    )


zone_times = st.lists(st.tuples(zone_names, st.none() | minutes), min_size=1, max_size=4)


@CALENDAR
@given(local_dates, minutes, zone_names, gaps, overlaps)
@example(date(2011, 12, 30), time(9), "Pacific/Apia", GapPolicy.FORWARD, OverlapPolicy.FIRST)
@example(date(2011, 12, 30), time(9), "Pacific/Apia", GapPolicy.BACKWARD, OverlapPolicy.FIRST)
@example(date(2026, 3, 8), time(0, 30), "America/Havana", GapPolicy.BACKWARD, OverlapPolicy.SECOND)
def test_the_clock_shows_the_local_time_unless_it_was_skipped(
    local_date: date, local_time: time, name: str, gap: GapPolicy, overlap: OverlapPolicy
) -> None:
    resolved = resolve(local_date, local_time, zone(name), gap, overlap)
    if resolved is None:
        assert gap is GapPolicy.SKIP
        return
    meant = datetime.combine(local_date, local_time, UTC)
    shown = resolved.instant.astimezone(zone(name)).replace(tzinfo=UTC)
    match resolved.rule:
        case TimeRule.GAP_FORWARD:
            assert gap is GapPolicy.FORWARD
            assert shown > meant
        case TimeRule.GAP_BACKWARD:
            assert gap is GapPolicy.BACKWARD
            assert shown < meant
        case _:
            assert shown == meant


@CALENDAR
@given(local_dates, minutes, zone_names)
def test_the_policies_are_in_order(local_date: date, local_time: time, name: str) -> None:
    def at(gap: GapPolicy, overlap: OverlapPolicy) -> datetime:
        resolved = resolve(local_date, local_time, zone(name), gap, overlap)
        assert resolved is not None
        return resolved.instant

    forward, backward = GapPolicy.FORWARD, GapPolicy.BACKWARD
    assert at(forward, OverlapPolicy.FIRST) <= at(forward, OverlapPolicy.SECOND)
    assert at(backward, OverlapPolicy.FIRST) <= at(forward, OverlapPolicy.FIRST)


@CALENDAR
@given(local_dates, offsets, st.sampled_from([LeapDayPolicy.FEB28, LeapDayPolicy.MAR1]))
@example(date(2000, 2, 29), 0, LeapDayPolicy.FEB28)
@example(date(2000, 2, 29), -400, LeapDayPolicy.MAR1)
def test_every_named_date_is_celebrated_once_for_every_year(
    named: date, offset_days: int, leap_day: LeapDayPolicy
) -> None:
    rule = YearlyRule("birthday", offset_days)
    first = date(2026, 1, 1) + timedelta(days=offset_days)
    last = date(2033, 12, 31) + timedelta(days=offset_days)
    years = [
        anchor.year
        for ordinal in range(first.toordinal(), last.toordinal() + 1)
        for anchor in anchors(rule, leap_day, date.fromordinal(ordinal))
        if anchor.month_day == named.month * 100 + named.day
    ]
    assert years == list(range(2026, 2034))


@CALENDAR
@given(offsets)
def test_a_leap_day_that_is_skipped_is_celebrated_in_leap_years_only(offset_days: int) -> None:
    rule = YearlyRule("birthday", offset_days)
    first = date(2026, 1, 1) + timedelta(days=offset_days)
    found = [
        anchor
        for day in range(8 * 366)
        for anchor in anchors(rule, LeapDayPolicy.SKIP, first + timedelta(days=day))
        if anchor.month_day == 229
    ]
    assert [anchor.year for anchor in found] == [2028, 2032]
    assert {anchor.rule for anchor in found} == {DateRule.EXACT}


@CALENDAR
@given(st.dates(date(2, 2, 5), date(9997, 11, 1)), offsets, leap_days)
def test_an_offset_shifts_what_is_celebrated_by_as_many_days(
    local_date: date, offset_days: int, leap_day: LeapDayPolicy
) -> None:
    shifted = local_date + timedelta(days=offset_days)
    assert anchors(YearlyRule("birthday", offset_days), leap_day, shifted) == anchors(
        YearlyRule("birthday", 0), leap_day, local_date
    )


@CALENDAR
@given(month_days, leap_days, local_dates, st.integers(0, 3000))
def test_a_fixed_date_is_a_yearly_one_of_everyone(
    month_day: tuple[int, int], leap_day: LeapDayPolicy, first: date, length_days: int
) -> None:
    last = first + timedelta(days=length_days)
    month, day = month_day
    assert list(dates_between(FixedRule(month, day), leap_day, first, last)) == [
        (local_date, anchor.rule)
        for local_date in map(date.fromordinal, range(first.toordinal(), last.toordinal() + 1))
        for anchor in anchors(YearlyRule("any", 0), leap_day, local_date)
        if anchor.month_day == month * 100 + day
    ]


@CALENDAR
@given(occasions(), zone_times, instants, st.integers(0, 240), st.integers(0, 240))
def test_windows_partition_the_moments(
    occasion: Occasion,
    zones: list[tuple[str, time | None]],
    starts: datetime,
    first_hours: int,
    second_hours: int,
) -> None:
    middle = starts + timedelta(hours=first_hours)
    ends = middle + timedelta(hours=second_hours)
    whole = moments(occasion, zones, starts, ends)
    assert moments(occasion, zones, starts, middle) + moments(occasion, zones, middle, ends) == whole
    assert len(set(whole)) == len(whole)


def searched_moments(
    occasion: Occasion, zones: list[tuple[str, time | None]], starts: datetime, ends: datetime
) -> set[Moment]:
    """Every moment of the window, by trying a week of dates around it one by one."""
    found = set()
    for name, preferred in zones:
        local_times = list(occasion.local_times)
        if preferred is not None and occasion.honours_preferred_time:
            local_times[0] = preferred
        for days in range(-4, (ends - starts).days + 5):
            local_date = starts.date() + timedelta(days=days)
            for slot, local_time in enumerate(local_times):
                resolved = resolve(local_date, local_time, zone(name), occasion.gap, occasion.overlap)
                if resolved is None or not starts <= resolved.instant < ends:
                    continue
                for date_rule, month_day, year in celebrated(occasion, local_date):
                    found.add(
                        Moment(name, local_time, slot, local_date, date_rule, *resolved, month_day, year)
                    )
    return found


def celebrated(occasion: Occasion, local_date: date) -> list[tuple[DateRule, int | None, int | None]]:
    if isinstance(occasion.rule, YearlyRule):
        found = anchors(occasion.rule, occasion.leap_day, local_date)
        return [(anchor.rule, anchor.month_day, anchor.year) for anchor in found]
    dates = dates_between(occasion.rule, occasion.leap_day, local_date, local_date)
    return [(date_rule, None, None) for _, date_rule in dates]


@CALENDAR
@given(occasions(), zone_times, instants, st.integers(0, 60))
def test_no_moment_of_the_window_is_missed_whatever_the_zone(
    occasion: Occasion, zones: list[tuple[str, time | None]], starts: datetime, hours: int
) -> None:
    ends = starts + timedelta(hours=hours)
    assert set(moments(occasion, zones, starts, ends)) == searched_moments(occasion, zones, starts, ends)


@CALENDAR
@given(zone_names, st.sampled_from([OverlapPolicy.FIRST, OverlapPolicy.SECOND]))
def test_a_daily_occasion_falls_due_once_for_every_local_date(name: str, overlap: OverlapPolicy) -> None:
    daily = an_occasion(
        rule=RecurrenceRule("FREQ=DAILY", date(2026, 1, 1)), local_times=(time(1, 30),), overlap=overlap
    )
    found = moments(daily, [(name, None)], datetime(2026, 1, 3, tzinfo=UTC), datetime(2028, 1, 3, tzinfo=UTC))
    days = [moment.local_date for moment in found]
    assert days == [days[0] + timedelta(days=index) for index in range(len(days))]
    assert len(days) == 730
