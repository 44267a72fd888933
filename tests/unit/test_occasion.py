from datetime import UTC, date, time, timedelta
from typing import Any

import pytest

from scheduler.domain.occasion import (
    Channel,
    FixedRule,
    OccasionKind,
    OnceRule,
    RecurrenceRule,
    Rule,
    YearlyRule,
)
from tests.fixtures.occasions import an_occasion


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (YearlyRule("birthday", -7), OccasionKind.YEARLY),
        (FixedRule(12, 24), OccasionKind.FIXED),
        (RecurrenceRule("FREQ=MONTHLY;BYDAY=-1FR", date(2026, 1, 1)), OccasionKind.RRULE),
        (OnceRule(date(2026, 1, 1)), OccasionKind.ONCE),
    ],
)
def test_the_kind_follows_from_the_rule(rule: Rule, kind: OccasionKind) -> None:
    assert an_occasion(rule=rule).kind is kind


@pytest.mark.parametrize(
    "changes",
    [
        {"local_times": ()},
        {"local_times": (time(9), time(9))},
        {"local_times": (time(9, tzinfo=UTC),)},
        {"channels": ()},
        {"channels": (Channel.EMAIL, Channel.EMAIL)},
        {"lateness_limit": timedelta()},
    ],
)
def test_an_occasion_that_cannot_be_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"occasion|local times|lateness"):
        an_occasion(**changes)


@pytest.mark.parametrize(("month", "day"), [(2, 30), (4, 31), (13, 1), (0, 1), (1, 0)])
def test_a_fixed_date_exists_in_some_year(month: int, day: int) -> None:
    with pytest.raises(ValueError, match=f"no year has a day {day} in month {month}"):
        FixedRule(month, day)


def test_a_fixed_29_february_is_a_date() -> None:
    assert FixedRule(2, 29).day == 29


@pytest.mark.parametrize("rule", [("", 0), ("birthday", 3661), ("birthday", -3661)])
def test_a_yearly_rule_names_a_date_within_reach(rule: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"names the date|offset_days"):
        YearlyRule(*rule)


def test_a_wrong_recurrence_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="FREQ is required"):
        RecurrenceRule("BYDAY=MO", date(2026, 1, 1))
