"""Writes of several threads, gathered into one: what came while the last group was written is the next group.

There is no timer and no thread of its own. Who finds nobody writing writes at once; who comes meanwhile waits in
line. When a group is done, the first in line leads the next one, which takes in all who wait by then. So nobody waits
for more than the group under way and those in line before them, and nobody writes for others again and again.

A group that fails as a whole has changed nothing: each of its members then writes alone, in their own thread. So what
is wrong with one is never an error of another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from threading import Lock
from typing import Final, Generic, TypeAlias, TypeVar

from loguru import logger

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MOST_AT_ONCE: Final = 100
"""A group's members: more wait for the next one."""


class Later(Enum):
    """Instead of an answer: to be written in a later group, for another member must come first."""

    LATER = auto()


LATER: Final = Later.LATER

Outcome: TypeAlias = "Answer | Exception | Later"
"""What a member of a group is answered, or raised, or that it is to be written later."""


class _Turn(Enum):
    """What a member is to do once it is woken."""

    TAKE_OUTCOME = auto()
    LEAD = auto()
    WRITE_ALONE = auto()


def _held() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Member(Generic[Request, Answer]):
    """Somebody's request, and what became of it."""

    request: Request
    turn: _Turn = _Turn.WRITE_ALONE
    outcome: Outcome[Answer] = LATER
    # A bare lock, held until there is a turn: an `Event` takes three, and as many switches of threads.
    _sleep: Lock = field(default_factory=_held)

    def wait(self) -> None:
        """Sleep until there is a turn."""
        self._sleep.acquire()

    def wake(self) -> None:
        """Say that there is a turn; once."""
        self._sleep.release()


class GroupWriter(Generic[Request, Answer]):
    """Gathers the requests of each line; those of different lines never meet. May be shared between threads.

    `write_group` gives an outcome for each request in their order, once it has taken effect; the first of them is
    never `LATER`. What it raises means that nothing did.
    """

    def __init__(
        self,
        write_group: Callable[[Sequence[Request]], Sequence[Outcome[Answer]]],
        write_alone: Callable[[Request], Answer],
        *,
        most: int = MOST_AT_ONCE,
    ) -> None:
        self._write_group = write_group
        self._write_alone = write_alone
        self._most = most
        self._lock = Lock()
        # A line is there for as long as somebody writes for it.
        self._lines: dict[Hashable, deque[_Member[Request, Answer]]] = {}

    def write(self, line: Hashable, request: Request) -> Answer:
        """Have a request written with whatever else waits in its line. Raises what is wrong with this one."""
        member: _Member[Request, Answer] = _Member(request)
        if self._is_first(line, member):
            member.turn = _Turn.LEAD
        else:
            member.wait()
        if member.turn is _Turn.LEAD:
            self._lead(line, member)
        if member.turn is _Turn.WRITE_ALONE:
            return self._write_alone(request)
        if isinstance(member.outcome, Exception):
            raise member.outcome
        assert not isinstance(member.outcome, Later), "it is woken once it has an outcome"
        return member.outcome

    def _is_first(self, line: Hashable, member: _Member[Request, Answer]) -> bool:
        """Whether nobody writes for this line; else the member waits in it."""
        with self._lock:
            waiting = self._lines.get(line)
            if waiting is None:
                self._lines[line] = deque()
                return True
            waiting.append(member)
            return False

    def _lead(self, line: Hashable, leader: _Member[Request, Answer]) -> None:
        """Write a group, hand on who comes later, and wake the others."""
        with self._lock:
            waiting = self._lines[line]
            others = [waiting.popleft() for _ in range(min(len(waiting), self._most - 1))]
        group = [leader, *others]
        later: list[_Member[Request, Answer]] = []
        leader.turn = _Turn.WRITE_ALONE
        try:
            later = self._written(group)
        finally:
            # The next group first: it has waited longest.
            self._hand_over(line, later)
            for member in others:
                if member not in later:
                    member.wake()

    def _written(self, group: Sequence[_Member[Request, Answer]]) -> list[_Member[Request, Answer]]:
        """Give each member its turn; returns those who are to be written later."""
        try:
            outcomes = self._write_group([member.request for member in group])
        except Exception as error:
            logger.bind(cause=type(error).__name__, members=len(group)).warning("group_not_written")
            return []
        for member, outcome in zip(group, outcomes, strict=True):
            member.outcome = outcome
            member.turn = _Turn.TAKE_OUTCOME
        return [member for member in group if member.outcome is LATER]

    def _hand_over(self, line: Hashable, later: Sequence[_Member[Request, Answer]]) -> None:
        """Let the first in line lead, those before all others who were in line before them."""
        with self._lock:
            waiting = self._lines[line]
            waiting.extendleft(reversed(later))
            if waiting:
                following = waiting.popleft()
                following.turn = _Turn.LEAD
                following.wake()
            else:
                del self._lines[line]
