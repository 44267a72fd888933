"""How the benchmark gets from rounds to ratios: pure functions, with the figures given."""

from __future__ import annotations

import pytest

from tests.bench.measures import (
    LIMIT,
    OURS,
    Drained,
    percentile,
    rounded,
    single,
    steady_rate,
    summarize,
)
from tests.bench.rounds import Drains

ROUNDS = [
    {OURS: 1000.0, "celery": 100.0, "pgqueuer": 200.0, LIMIT: 2000.0},
    {OURS: 1200.0, "celery": 300.0, "pgqueuer": 200.0, LIMIT: 2000.0},
    {OURS: 900.0, "celery": 100.0, "pgqueuer": 100.0, LIMIT: 3000.0},
]


def test_figures_are_medians_of_the_rounds() -> None:
    result = summarize("drain", "messages/s", ROUNDS)

    assert (result.ours, result.limit) == (1000.0, 2000.0)
    assert result.peers == {"celery": 100.0, "pgqueuer": 200.0}


def test_ratios_are_taken_round_by_round_against_the_best_peer_of_the_round() -> None:
    result = summarize("drain", "messages/s", ROUNDS)

    # Of 5, 4 and 9: the ratio of the medians would be 5 as well against pgqueuer, but the middle round is celery's.
    assert result.ratio_to_best_peer == 5.0
    assert result.spread["ratio_to_best_peer"] == (4.0, 9.0)
    assert result.ratio_to_limit == 0.5
    assert result.spread["ratio_to_limit"] == pytest.approx((0.3, 0.6))
    assert result.spread[OURS] == (900.0, 1200.0)


def test_a_ratio_is_above_one_where_less_is_better_and_ours_is_less() -> None:
    result = summarize("lateness", "ms", [{OURS: 10.0, "celery": 50.0, "taskiq": 30.0, LIMIT: 5.0}])

    assert result.ratio_to_best_peer == 3.0
    assert result.ratio_to_limit == 0.5


def test_without_peers_or_limit_there_are_no_ratios() -> None:
    result = summarize("plan", "messages/s", [{OURS: 10.0}])

    assert result.peers == {}
    assert (result.limit, result.ratio_to_best_peer, result.ratio_to_limit) == (None, None, None)
    assert set(result.spread) == {OURS}


@pytest.mark.parametrize("rounds", [[], [{OURS: 1.0}, {OURS: 1.0, LIMIT: 2.0}]])
def test_rounds_with_different_contestants_are_refused(rounds: list[dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="the same contestants"):
        summarize("drain", "messages/s", rounds)


def test_an_entry_has_exactly_the_members_of_the_issue() -> None:
    entry = summarize("drain", "messages/s", ROUNDS).as_json()

    assert list(entry) == [
        "work",
        "ours",
        "unit",
        "peers",
        "limit",
        "ratio_to_best_peer",
        "ratio_to_limit",
        "spread",
    ]
    assert entry["spread"]["ratio_to_best_peer"] == [4.0, 9.0]


def test_an_entry_that_was_measured_once_says_so_by_having_no_spread() -> None:
    entry = single("lost", "messages", 0).as_json()

    assert (entry["ours"], entry["spread"], entry["limit"]) == (0.0, {}, None)


def test_figures_keep_four_digits() -> None:
    assert rounded(12_345.678) == 12_350.0
    assert rounded(0.123456) == 0.1235
    assert rounded(None) is None


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.995, 100.0), (1.0, 100.0)]
)
def test_percentiles_are_of_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == expected


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_steady_rate_leaves_out_a_slow_start_and_a_slow_end() -> None:
    start = [(0.0, 0), (50.0, 100)]
    middle = [(50.0 + number, 100 * number) for number in range(2, 10)]
    end = [(500.0, 1000)]

    assert steady_rate([*start, *middle, *end]) == pytest.approx(800 / 9)


@pytest.mark.parametrize("progress", [[], [(1.0, 100)], [(1.0, 0), (1.1, 100)]])
def test_a_rate_of_too_few_looks_is_refused(progress: list[tuple[float, int]]) -> None:
    with pytest.raises(ValueError, match="too few"):
        steady_rate(progress)


def test_both_measures_of_a_drain_are_reported_each_against_the_same_of_the_limit() -> None:
    ours = iter([Drained(steady=300.0, whole=150.0), Drained(steady=200.0, whole=100.0)])
    drains = Drains(lambda: next(ours), lambda: Drained(steady=400.0, whole=300.0))
    rounds = [
        {name: measure() for name, measure in drains.contestants.items()} | {"celery": 50.0} for _ in range(2)
    ]

    steady, whole = drains.results("drain", "messages/s", rounds)

    assert (steady.work, steady.ours) == ("drain", 250)
    assert (steady.ratio_to_limit, steady.ratio_to_best_peer) == (0.625, 5)
    assert (whole.work, whole.ours) == ("drain, from first to last", 125)
    assert whole.ratio_to_limit == pytest.approx(5 / 12)
    assert whole.peers == {}
