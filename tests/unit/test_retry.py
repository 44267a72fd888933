from datetime import timedelta
from random import Random
from typing import Any

import pytest

from scheduler.domain.retry import RetryDecision, RetryPolicy, decide_retry

PATIENT = RetryPolicy(max_attempts=100_000)


class Highest(Random):
    """Draws as high as it can, always."""

    def random(self) -> float:
        return 1.0


class Lowest(Random):
    """Draws as low as it can, always."""

    def random(self) -> float:
        return 0.0


def wait_seconds(decision: RetryDecision | None) -> float:
    assert decision is not None
    return decision.retry_in.total_seconds()


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 1), (2, 2), (3, 4), (4, 8), (12, 2048), (13, 3600), (99_999, 3600)]
)
def test_the_bound_doubles_up_to_the_cap(attempt: int, bound: int) -> None:
    assert wait_seconds(decide_retry(PATIENT, attempt, None, Highest())) == bound


def test_the_jitter_is_full_but_never_nothing() -> None:
    assert wait_seconds(decide_retry(PATIENT, 10, None, Lowest())) == 1
    waits = {wait_seconds(decide_retry(PATIENT, 4, None, Random(seed))) for seed in range(200)}
    assert waits == {1, 2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize(("attempt", "is_tried_again"), [(1, True), (4, True), (5, False), (6, False)])
def test_the_last_attempt_is_the_last(attempt: int, is_tried_again: bool) -> None:
    assert (decide_retry(RetryPolicy(), attempt, None, Random(1)) is not None) is is_tried_again


@pytest.mark.parametrize(
    ("retry_after_seconds", "expected"),
    [(30, 30), (29.001, 30), (0, 1), (-5, 1), (3600, 3600), (10**9, 3600)],
)
def test_retry_after_is_a_lower_bound_within_the_cap(retry_after_seconds: float, expected: int) -> None:
    decision = decide_retry(PATIENT, 1, timedelta(seconds=retry_after_seconds), Lowest())
    assert wait_seconds(decision) == expected


def test_a_longer_backoff_outweighs_retry_after() -> None:
    assert wait_seconds(decide_retry(PATIENT, 8, timedelta(seconds=5), Highest())) == 128


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        decide_retry(RetryPolicy(), 0, None, Random(1))


@pytest.mark.parametrize(
    "values",
    [
        {"max_attempts": 0},
        {"base_seconds": -1},
        {"base_seconds": float("nan")},
        {"cap_seconds": 0.5},
        {"cap_seconds": float("inf")},
    ],
)
def test_a_senseless_policy_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RetryPolicy(**values)
