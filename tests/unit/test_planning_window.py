"""A window of planning is cut into hours that end one after the other."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest

from scheduler.domain.calendar import moments
from scheduler.domain.occasion import OnceRule
from scheduler.domain.planning_window import slices
from tests.fixtures.occasions import an_occasion

NOON = datetime(2027, 3, 2, 12, tzinfo=UTC)
OCCASION = replace(
    an_occasion(rule=OnceRule(date(2027, 3, 2)), local_times=(time(9), time(9, 30), time(11, 59))),
    honours_preferred_time=False,
)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (NOON, [(2, 10), (1, 12)]),
        (NOON + timedelta(minutes=1), [(2, 10), (1, 12), (0, None)]),
        (NOON - timedelta(seconds=30), [(2, 10), (1, None)]),
        (NOON - timedelta(hours=4), [(0, None)]),
    ],
)
def test_each_slice_ends_later_than_the_one_before_and_the_last_with_the_window(
    ends: datetime, expected: list[tuple[int, int | None]]
) -> None:
    found = moments(OCCASION, [("UTC", None)], NOON - timedelta(hours=6), ends)
    assert [(len(each.moments), each.ends) for each in slices(found, ends)] == [
        (count, ends if hour is None else NOON.replace(hour=hour)) for count, hour in expected
    ]
