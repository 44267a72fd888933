"""One row of a state machine: the states an event may find, and the state it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

StateT = TypeVar("StateT", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Transition(Generic[StateT]):
    """An event's effect. An update that finds none of `sources` must change nothing."""

    sources: tuple[StateT, ...]
    target: StateT
