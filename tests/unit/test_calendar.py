from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest

from scheduler.domain.calendar import Anchor, DateRule, Moment, anchors, dates_between, moments
from scheduler.domain.local_time import GapPolicy, TimeRule
from scheduler.domain.occasion import (
    FixedRule,
    LeapDayPolicy,
    OnceRule,
    RecurrenceRule,
    YearlyRule,
)
from scheduler.domain.zones import allowed_zones
from tests.fixtures.occasions import an_occasion

FEB28, MAR1, SKIP = LeapDayPolicy
EXACT = DateRule.EXACT


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def one_day(day: str) -> tuple[datetime, datetime]:
    return utc(day), utc(day) + timedelta(days=1)


@pytest.mark.parametrize(
    ("offset_days", "leap_day", "local_date", "expected"),
    [
        (0, FEB28, "2026-07-04", [(704, 2026, EXACT)]),
        (0, FEB28, "2027-02-28", [(228, 2027, EXACT), (229, 2027, DateRule.LEAP_FEB28)]),
        (0, FEB28, "2027-03-01", [(301, 2027, EXACT)]),
        (0, MAR1, "2027-02-28", [(228, 2027, EXACT)]),
        (0, MAR1, "2027-03-01", [(301, 2027, EXACT), (229, 2027, DateRule.LEAP_MAR1)]),
        (0, SKIP, "2027-02-28", [(228, 2027, EXACT)]),
        (0, SKIP, "2027-03-01", [(301, 2027, EXACT)]),
        (0, FEB28, "2028-02-28", [(228, 2028, EXACT)]),
        (0, FEB28, "2028-02-29", [(229, 2028, EXACT)]),
        (0, MAR1, "2028-03-01", [(301, 2028, EXACT)]),
        (0, FEB28, "2100-02-28", [(228, 2100, EXACT), (229, 2100, DateRule.LEAP_FEB28)]),
        # A week before, over the new year
        (-7, FEB28, "2026-12-27", [(103, 2027, EXACT)]),
        (-7, FEB28, "2027-02-21", [(228, 2027, EXACT), (229, 2027, DateRule.LEAP_FEB28)]),
        # A week after, over the new year
        (7, FEB28, "2027-01-03", [(1227, 2026, EXACT)]),
        (1, FEB28, "2027-03-01", [(228, 2027, EXACT), (229, 2027, DateRule.LEAP_FEB28)]),
        (1, FEB28, "2028-03-01", [(229, 2028, EXACT)]),
        # More than a year, over one and over no leap day
        (400, FEB28, "2026-07-04", [(530, 2025, EXACT)]),
        (-400, FEB28, "2026-07-04", [(808, 2027, EXACT)]),
        (400, FEB28, "2028-07-04", [(531, 2027, EXACT)]),
    ],
)
def test_what_a_yearly_occasion_celebrates(
    offset_days: int, leap_day: LeapDayPolicy, local_date: str, expected: list[tuple[int, int, DateRule]]
) -> None:
    found = anchors(YearlyRule("birthday", offset_days), leap_day, date.fromisoformat(local_date))
    assert found == tuple(Anchor(*each) for each in expected)


def test_beyond_the_calendar_nothing_is_celebrated() -> None:
    assert anchors(YearlyRule("birthday", 1), FEB28, date.min) == ()
    assert anchors(YearlyRule("birthday", -1), FEB28, date.max) == ()


@pytest.mark.parametrize(
    ("leap_day", "expected"),
    [
        (
            FEB28,
            [("2027-02-28", DateRule.LEAP_FEB28), ("2028-02-29", EXACT), ("2029-02-28", DateRule.LEAP_FEB28)],
        ),
        (
            MAR1,
            [("2027-03-01", DateRule.LEAP_MAR1), ("2028-02-29", EXACT), ("2029-03-01", DateRule.LEAP_MAR1)],
        ),
        (SKIP, [("2028-02-29", EXACT)]),
    ],
)
def test_a_fixed_29_february(leap_day: LeapDayPolicy, expected: list[tuple[str, DateRule]]) -> None:
    found = dates_between(FixedRule(2, 29), leap_day, date(2027, 1, 1), date(2029, 12, 31))
    assert [(day.isoformat(), rule) for day, rule in found] == expected


def test_a_window_includes_its_first_and_last_date() -> None:
    christmas = date(2026, 12, 25)
    assert list(dates_between(FixedRule(12, 25), FEB28, christmas, christmas)) == [(christmas, EXACT)]
    assert list(dates_between(OnceRule(christmas), FEB28, christmas, christmas)) == [(christmas, EXACT)]
    assert not list(dates_between(OnceRule(christmas), FEB28, date.min, date(2026, 12, 24)))
    assert not list(dates_between(FixedRule(12, 25), FEB28, date(2026, 12, 26), date(2027, 12, 24)))


def test_a_recurrence_is_exact_under_every_leap_day_policy() -> None:
    rule = RecurrenceRule("FREQ=YEARLY", date(2024, 2, 29))
    for leap_day in LeapDayPolicy:
        found = list(dates_between(rule, leap_day, date(2025, 1, 1), date(2028, 12, 31)))
        assert found == [(date(2028, 2, 29), EXACT)]


def test_a_moment_says_all_that_was_decided() -> None:
    (moment,) = moments(
        an_occasion(rule=OnceRule(date(2026, 3, 8)), local_times=(time(2, 30),)),
        [("America/New_York", None)],
        *one_day("2026-03-08"),
    )
    assert moment == Moment(
        timezone="America/New_York",
        local_time=time(2, 30),
        slot=0,
        local_date=date(2026, 3, 8),
        date_rule=EXACT,
        send_at=utc("2026-03-08T07:30"),
        time_rule=TimeRule.GAP_FORWARD,
        month_day=None,
        year=None,
    )


def test_a_skipped_gap_yields_no_moment() -> None:
    occasion = an_occasion(rule=OnceRule(date(2026, 3, 8)), local_times=(time(2, 30),), gap=GapPolicy.SKIP)
    assert moments(occasion, [("America/New_York", None)], *one_day("2026-03-08")) == []


def test_a_date_that_does_not_exist_follows_the_gap_rule() -> None:
    occasion = an_occasion(rule=OnceRule(date(2011, 12, 30)))

    def found(gap: GapPolicy) -> list[tuple[datetime, date]]:
        changed = an_occasion(rule=occasion.rule, gap=gap)
        window = utc("2011-12-28"), utc("2012-01-02")
        return [
            (each.send_at, each.local_date) for each in moments(changed, [("Pacific/Apia", None)], *window)
        ]

    assert found(GapPolicy.FORWARD) == [(utc("2011-12-30T19:00"), date(2011, 12, 30))]
    assert found(GapPolicy.BACKWARD) == [(utc("2011-12-29T19:00"), date(2011, 12, 30))]
    assert found(GapPolicy.SKIP) == []


def test_the_far_east_is_found_before_the_utc_day_begins() -> None:
    new_year = an_occasion(rule=FixedRule(1, 1))
    zones = [("Pacific/Kiritimati", None), ("Pacific/Pago_Pago", None)]
    found = moments(new_year, zones, utc("2025-12-31T00:00"), utc("2026-01-02T00:00"))
    assert [(each.timezone, each.send_at) for each in found] == [
        ("Pacific/Kiritimati", utc("2025-12-31T19:00")),
        ("Pacific/Pago_Pago", utc("2026-01-01T20:00")),
    ]


def test_one_instant_is_two_local_dates() -> None:
    daily = an_occasion(rule=RecurrenceRule("FREQ=DAILY", date(2026, 1, 1)), local_times=(time(9), time(10)))
    zones = [("Pacific/Kiritimati", None), ("Pacific/Pago_Pago", None)]
    found = moments(daily, zones, utc("2026-01-01T20:00"), utc("2026-01-01T20:01"))
    assert [(each.timezone, each.slot, each.local_date) for each in found] == [
        ("Pacific/Kiritimati", 1, date(2026, 1, 2)),
        ("Pacific/Pago_Pago", 0, date(2026, 1, 1)),
    ]


def test_the_window_includes_its_start_and_excludes_its_end() -> None:
    once = an_occasion(rule=OnceRule(date(2026, 7, 4)))
    nine = utc("2026-07-04T09:00")
    instant = timedelta(microseconds=1)
    assert len(moments(once, [("UTC", None)], nine, nine + instant)) == 1
    assert moments(once, [("UTC", None)], nine - instant, nine) == []
    assert moments(once, [("UTC", None)], nine + instant, nine + timedelta(days=1)) == []
    assert moments(once, [("UTC", None)], nine, nine) == []


def test_the_window_may_be_given_in_any_zone() -> None:
    far_west = timezone(timedelta(hours=-12))
    daily = an_occasion(
        rule=RecurrenceRule("FREQ=DAILY", date(2026, 1, 1)), local_times=(time(0), time(23, 59))
    )
    zone_times: list[tuple[str, time | None]] = [("Pacific/Kiritimati", None), ("Pacific/Pago_Pago", None)]
    starts, ends = utc("2026-07-04T20:00"), utc("2026-07-05T11:00")
    there = moments(daily, zone_times, starts.astimezone(far_west), ends.astimezone(far_west))
    assert there == moments(daily, zone_times, starts, ends)
    assert [moment.send_at.tzinfo for moment in there] == [UTC] * 3


def test_a_yearly_occasion_has_a_moment_for_each_anchor() -> None:
    found = moments(an_occasion(), [("UTC", None)], *one_day("2027-02-28"))
    assert [(each.month_day, each.year, each.date_rule) for each in found] == [
        (228, 2027, EXACT),
        (229, 2027, DateRule.LEAP_FEB28),
    ]


def local_times_and_slots(honoured: bool, preferred: list[time | None]) -> list[tuple[time, int]]:
    occasion = an_occasion(
        rule=OnceRule(date(2026, 7, 4)), local_times=(time(9), time(18)), honours_preferred_time=honoured
    )
    found = moments(occasion, [("UTC", each) for each in preferred], *one_day("2026-07-04"))
    return [(each.local_time, each.slot) for each in found]


def test_a_preferred_time_takes_the_place_of_the_first_slot() -> None:
    assert local_times_and_slots(True, [time(7)]) == [(time(7), 0), (time(18), 1)]


def test_midnight_is_a_preferred_time_like_others() -> None:
    assert local_times_and_slots(True, [time(0)]) == [(time(0), 0), (time(18), 1)]


def test_equal_moments_are_given_once() -> None:
    preferred = [None, time(7), time(9), None]
    assert local_times_and_slots(True, preferred) == [(time(7), 0), (time(9), 0), (time(18), 1)]
    assert local_times_and_slots(False, preferred) == [(time(9), 0), (time(18), 1)]


def test_moments_come_in_order() -> None:
    zone_times: list[tuple[str, time | None]] = [(name, None) for name in allowed_zones()]
    found = moments(an_occasion(), zone_times, utc("2026-10-31"), utc("2026-11-02T02:00"))
    assert found == sorted(found, key=lambda each: (each.send_at, each.timezone))
    assert {each.timezone for each in found} == allowed_zones()


@pytest.mark.parametrize(
    ("starts", "ends"),
    [
        (datetime.min.replace(tzinfo=UTC), utc("0001-01-05")),
        (utc("9999-12-28"), datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_the_ends_of_the_calendar_do_no_harm(starts: datetime, ends: datetime) -> None:
    zone_times: list[tuple[str, time | None]] = [(name, None) for name in allowed_zones()]
    for rule in (YearlyRule("birthday", -1), RecurrenceRule("FREQ=DAILY", date.min), FixedRule(2, 29)):
        found = moments(an_occasion(rule=rule, local_times=(time(0), time(23, 59))), zone_times, starts, ends)
        assert all(starts <= each.send_at < ends for each in found)


def test_a_naive_window_is_refused() -> None:
    aware = utc("2026-01-01")
    naive = aware.replace(tzinfo=None)
    for starts, ends in ((naive, aware), (aware, naive)):
        with pytest.raises(ValueError, match="aware"):
            moments(an_occasion(), [], starts, ends)


def test_a_zone_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'Europe/Berlin'"):
        moments(an_occasion(), [("Europe/Berlni", None)], *one_day("2026-01-01"))
