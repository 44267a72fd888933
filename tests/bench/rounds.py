"""Rounds: each contestant in turn, and again, so that whatever the machine does meanwhile it does to all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from loguru import logger

from tests.bench.environment import Environment
from tests.bench.measures import LIMIT, OURS, Drained, Result, Round, summarize
from tests.bench.report import number

Contestants = Mapping[str, Callable[[], float]]
"""By name: ours, the limit and the peers, each giving one figure when it is called."""


class Drains:
    """Ours and the limit draining in turn: the steady rates are compared, those of the whole drains as well."""

    def __init__(self, ours: Callable[[], Drained], limit: Callable[[], Drained]) -> None:
        self._drains = {OURS: ours, LIMIT: limit}
        self._wholes: dict[str, list[float]] = {name: [] for name in self._drains}

    @property
    def contestants(self) -> Contestants:
        """Each giving its steady rate."""
        return {name: partial(self._steady, name) for name in self._drains}

    def results(self, work: str, unit: str, rounds: Sequence[Round]) -> list[Result]:
        """The row of the steady rates, of peers too, and that of the whole drains."""
        names = [name for name in self._drains if name in rounds[0]]
        wholes = [{name: self._wholes[name][turn] for name in names} for turn in range(len(rounds))]
        return [summarize(work, unit, rounds), summarize(f"{work}, from first to last", unit, wholes)]

    def _steady(self, name: str) -> float:
        drained = self._drains[name]()
        self._wholes[name].append(drained.whole)
        return drained.steady


def alternate(environment: Environment, unit: str, contestants: Contestants) -> list[Round]:
    """As many rounds as the run has; each begins with another contestant.

    One that fails is noted and left out of all rounds, unless it is ours: then there is nothing to compare.
    """
    names = list(contestants)
    rounds: list[dict[str, float]] = []
    for turn in range(environment.sizes.rounds):
        shift = turn % len(names)
        figures: dict[str, float] = {}
        for name in names[shift:] + names[:shift]:
            try:
                figures[name] = contestants[name]()
            except Exception as error:
                if name == OURS:
                    raise
                logger.exception("contestant_failed")
                environment.note(f"{name.upper()} FAILED and is left out: {error}")
        names = [name for name in names if name in figures]
        said = ", ".join(f"{name} {number(figures[name])}" for name in names)
        environment.say(f"  round {turn + 1}: {said} {unit}")
        rounds.append(figures)
    return [{name: each[name] for name in names} for each in rounds]
