"""From rounds of measurements to one result: medians, ratios taken round by round, and their spread.

Every ratio is above one where ours is the better figure, whichever way the unit counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

OURS: Final = "ours"
LIMIT: Final = "limit"
LESS_IS_BETTER: Final = frozenset({"s", "ms", "MB", "messages"})
"""Units of which fewer are better: durations, memory, messages that went wrong."""

Round = Mapping[str, float]
"""One figure for each contestant: `ours`, `limit`, and peers by their names."""

Span = tuple[float, float]
"""The least and the most of all rounds."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain did, in messages a second."""

    steady: float
    """In its middle eight tenths: neither beginning nor end count."""

    whole: float
    """From the beginning to the last outcome."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the report, medians over the rounds; None where there was nothing to compare with.

    `spread` holds the least and the most of `ours` and of each ratio.
    """

    work: str
    ours: float
    unit: str
    peers: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    ratio_to_best_peer: float | None = None
    ratio_to_limit: float | None = None
    spread: Mapping[str, Span] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The entry of the results file, with four significant digits."""
        return {
            "work": self.work,
            "ours": rounded(self.ours),
            "unit": self.unit,
            "peers": {name: rounded(rate) for name, rate in self.peers.items()},
            "limit": rounded(self.limit),
            "ratio_to_best_peer": rounded(self.ratio_to_best_peer),
            "ratio_to_limit": rounded(self.ratio_to_limit),
            "spread": {name: [rounded(end) for end in span] for name, span in self.spread.items()},
        }


def summarize(work: str, unit: str, rounds: Sequence[Round]) -> Result:
    """One result from at least one round, all with the same contestants. Raises ValueError otherwise."""
    if not rounds or any(set(each) != set(rounds[0]) for each in rounds):
        raise ValueError(f"{work}: takes at least one round, all with the same contestants")
    less_is_better = unit in LESS_IS_BETTER
    peers = [name for name in rounds[0] if name not in (OURS, LIMIT)]
    to_peer = [_to_best_peer(each, peers, less_is_better) for each in rounds] if peers else []
    to_limit = [_ratio(each[OURS], each[LIMIT], less_is_better) for each in rounds if LIMIT in each]
    spans = {OURS: [each[OURS] for each in rounds], "ratio_to_best_peer": to_peer, "ratio_to_limit": to_limit}
    return Result(
        work=work,
        ours=median(each[OURS] for each in rounds),
        unit=unit,
        peers={name: median(each[name] for each in rounds) for name in peers},
        limit=_median([each[LIMIT] for each in rounds if LIMIT in each]),
        ratio_to_best_peer=_median(to_peer),
        ratio_to_limit=_median(to_limit),
        spread={name: (min(values), max(values)) for name, values in spans.items() if values},
    )


def single(work: str, unit: str, figure: float, **others: Any) -> Result:
    """A result that was measured once, over many messages: without a spread."""
    return Result(work=work, ours=figure, unit=unit, **others)


def percentile(ascending: Sequence[float], share: float) -> float:
    """The least value that `share` (0 to 1) of the values do not exceed: the nearest-rank percentile."""
    if not ascending:
        raise ValueError("no values")
    rank = -(-len(ascending) * share // 1)
    return ascending[max(0, int(rank) - 1)]


def steady_rate(progress: Sequence[tuple[float, int]]) -> float:
    """Events a second in the middle of a run, from looks at it: instants (seconds) and how many were done by then.

    It is taken from when a tenth is done to when nine tenths are, so that neither the start of processes nor the
    emptying of queues counts against whoever is measured. Raises ValueError where there were too few looks.
    """
    total = progress[-1][1] if progress else 0
    began = next((look for look in progress if look[1] >= total / 10), (0.0, 0))
    ended = next((look for look in progress if look[1] >= total * 9 / 10), (0.0, 0))
    if ended[0] <= began[0]:
        raise ValueError("too few looks to tell a rate")
    return (ended[1] - began[1]) / (ended[0] - began[0])


def rounded(value: float | None) -> float | None:
    """Four significant digits: more than the measurements are good for."""
    return None if value is None else float(f"{value:.4g}")


def _to_best_peer(each: Round, peers: Sequence[str], less_is_better: bool) -> float:
    return min(_ratio(each[OURS], each[name], less_is_better) for name in peers)


def _ratio(ours: float, theirs: float, less_is_better: bool) -> float:
    above, below = (theirs, ours) if less_is_better else (ours, theirs)
    return above / below if below else float("inf")


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
