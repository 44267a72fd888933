"""Rounds: each contestant in turn, and again, so that whatever the machine does meanwhile it does to all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.bench.environment import Environment
from tests.bench.measures import Round
from tests.bench.report import number

Contestants = Mapping[str, Callable[[], float]]
"""By name: ours, the limit and the peers, each giving one figure when it is called."""


def alternate(environment: Environment, unit: str, contestants: Contestants) -> list[Round]:
    """As many rounds as the run has; each begins with another contestant."""
    names = list(contestants)
    rounds: list[Round] = []
    for turn in range(environment.sizes.rounds):
        shift = turn % len(names)
        figures = {name: contestants[name]() for name in names[shift:] + names[:shift]}
        said = ", ".join(f"{name} {number(figures[name])}" for name in names)
        environment.say(f"  round {turn + 1}: {said} {unit}")
        rounds.append(figures)
    return rounds
