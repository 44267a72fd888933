"""Rounds: each contestant in turn, and again, so that whatever the machine does meanwhile it does to all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loguru import logger

from tests.bench.environment import Environment
from tests.bench.measures import OURS, Round
from tests.bench.report import number

Contestants = Mapping[str, Callable[[], float]]
"""By name: ours, the limit and the peers, each giving one figure when it is called."""


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
