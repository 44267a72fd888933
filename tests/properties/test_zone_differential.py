"""Our instants against the standard library's zone rules, found in another way.

Ours asks a zone for the offset of a local time. This asks the opposite question only: what a clock shows
at an instant of UTC. The periods between two changes of a clock are found by searching over instants; a
local time means every instant at which a clock shows it: none in a gap, two in an overlap.

Within two days of a change every time of day is compared under every policy. Elsewhere one time of day stands for all,
each day another, because all that there is to find is a wrong offset.
"""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise, product
from typing import NamedTuple

import pytest

from scheduler.domain.local_time import GapPolicy, OverlapPolicy, ResolvedTime, TimeRule, resolve
from scheduler.domain.zones import allowed_zones, zone

FIRST, LAST = date(2024, 1, 1), date(2030, 12, 31)
TIMES = (time(0, 0), time(0, 30), time(1, 30), time(2, 30), time(9, 0), time(23, 59))
POLICIES = tuple(product(GapPolicy, OverlapPolicy))
MARGIN = timedelta(days=2)
# Two changes within one step would be missed here and not by ours: the test would fail, not pass.
STEP = timedelta(hours=12)
# Enough for pytest-xdist to share them out evenly.
GROUPS = 40
ZONES = sorted(allowed_zones())


class Period(NamedTuple):
    """The instants from `starts` to `ends` during which a clock keeps one offset from UTC."""

    starts: datetime
    ends: datetime
    offset: timedelta


def standard_zone(name: str) -> zoneinfo.ZoneInfo:
    """The zone as the standard library itself loads it from the tzdata package."""
    system_path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([])
    try:
        return zoneinfo.ZoneInfo.no_cache(name)
    finally:
        zoneinfo.reset_tzpath(system_path)


def offset_at(instant: datetime, rules: zoneinfo.ZoneInfo) -> timedelta:
    """What a clock shows at an instant, as a difference from UTC."""
    return instant.astimezone(rules).replace(tzinfo=UTC) - instant


def change_between(before: datetime, after: datetime, rules: zoneinfo.ZoneInfo) -> datetime:
    """The first second of the later offset."""
    earlier = offset_at(before, rules)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if offset_at(middle, rules) == earlier:
            before = middle
        else:
            after = middle
    return after


def periods_of(rules: zoneinfo.ZoneInfo) -> list[Period]:
    begin = datetime.combine(FIRST, time(), UTC) - 2 * MARGIN
    end = datetime.combine(LAST, time(), UTC) + 2 * MARGIN
    changes = [begin]
    instant, offset = begin, offset_at(begin, rules)
    while instant < end:
        following = instant + STEP
        if (new_offset := offset_at(following, rules)) != offset:
            changes.append(change_between(instant, following, rules))
            offset = new_offset
        instant = following
    return [Period(starts, ends, offset_at(starts, rules)) for starts, ends in pairwise([*changes, end])]


def instants_showing(wall: datetime, periods: list[Period]) -> list[datetime]:
    """Every instant at which clocks show `wall` (a local time, written as if it were UTC), ascending."""
    return [
        wall - offset for starts, ends, offset in periods if starts <= wall - offset and wall - offset < ends
    ]


def gap_length(wall: datetime, periods: list[Period]) -> timedelta:
    """How far the clock was put forward over `wall`."""
    (length,) = [
        later.offset - earlier.offset
        for earlier, later in pairwise(periods)
        if earlier.ends + earlier.offset <= wall < later.starts + later.offset
    ]
    return length


def expected(
    wall: datetime, periods: list[Period], gap: GapPolicy, overlap: OverlapPolicy
) -> ResolvedTime | None:
    found = instants_showing(wall, periods)
    if len(found) == 1:
        return ResolvedTime(found[0], TimeRule.EXACT)
    if len(found) == 2 and overlap is OverlapPolicy.FIRST:
        return ResolvedTime(found[0], TimeRule.OVERLAP_FIRST)
    if len(found) == 2:
        return ResolvedTime(found[1], TimeRule.OVERLAP_SECOND)
    assert not found
    if gap is GapPolicy.SKIP:
        return None
    length = gap_length(wall, periods)
    if gap is GapPolicy.FORWARD:
        (instant,) = instants_showing(wall + length, periods)
        return ResolvedTime(instant, TimeRule.GAP_FORWARD)
    (instant,) = instants_showing(wall - length, periods)
    return ResolvedTime(instant, TimeRule.GAP_BACKWARD)


def differences(name: str) -> Iterator[str]:
    ours, all_periods = zone(name), periods_of(standard_zone(name))
    for ordinal in range(FIRST.toordinal(), LAST.toordinal() + 1):
        day = date.fromordinal(ordinal)
        midnight = datetime.combine(day, time(), UTC)
        periods = [
            period
            for period in all_periods
            if period.starts < midnight + 2 * MARGIN and period.ends > midnight - MARGIN
        ]
        is_near_a_change = len(periods) > 1
        times = TIMES if is_near_a_change else (TIMES[ordinal % len(TIMES)],)
        policies = POLICIES if is_near_a_change else POLICIES[:1]
        for local_time in times:
            wall = datetime.combine(day, local_time, UTC)
            for gap, overlap in policies:
                answer = resolve(day, local_time, ours, gap, overlap)
                if answer != (wanted := expected(wall, periods, gap, overlap)):
                    yield f"{name} {day} {local_time} {gap} {overlap}: {answer}, expected {wanted}"


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_zone_agrees_with_the_standard_library(group: int) -> None:
    # Every 40th zone: the neighbours in a list of names cost about the same.
    assert [line for name in ZONES[group::GROUPS] for line in differences(name)] == []


def test_the_search_finds_the_changes_that_are_known() -> None:
    new_york = periods_of(standard_zone("America/New_York"))
    assert [period.starts.isoformat() for period in new_york[1:5]] == [
        "2024-03-10T07:00:00+00:00",
        "2024-11-03T06:00:00+00:00",
        "2025-03-09T07:00:00+00:00",
        "2025-11-02T06:00:00+00:00",
    ]
    assert len(new_york) == 15


def test_gaps_and_overlaps_of_every_kind_are_among_the_dates_compared() -> None:
    rules = {
        answer.rule
        for name in ("America/Havana", "Africa/Cairo", "Australia/Lord_Howe", "America/New_York")
        for ordinal in range(FIRST.toordinal(), LAST.toordinal() + 1)
        for local_time in TIMES
        for gap, overlap in POLICIES
        if (answer := resolve(date.fromordinal(ordinal), local_time, zone(name), gap, overlap))
    }
    assert rules == set(TimeRule) - {TimeRule.SAME_DAY, TimeRule.QUIET_HOURS}
