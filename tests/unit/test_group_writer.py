"""Writes of several threads are gathered, and nobody waits for more than the group under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, get_ident

import pytest

from scheduler.group_writer import LATER, GroupWriter, Outcome
from tests.fixtures.waiting import wait_until

LINE = "line"


class Gate:
    """Writes groups, of which the first waits until it is let through; keeps what was written, and by whom."""

    def __init__(self, outcome: Callable[[str], Outcome[str]] = str.upper, *, most: int = 100) -> None:
        self.entered, self.open = Event(), Event()
        self.groups: list[list[str]] = []
        self.leaders: list[int] = []
        self.alone: list[str] = []
        self._outcome = outcome
        self.writer = GroupWriter(self._write, self._write_alone, most=most)

    def _write(self, group: Sequence[str]) -> list[Outcome[str]]:
        self.groups.append(list(group))
        self.leaders.append(get_ident())
        self.entered.set()
        assert self.open.wait(30)
        if "broken" in group:
            raise ConnectionError
        return [self._outcome(each) for each in group]

    def _write_alone(self, request: str) -> str:
        self.alone.append(request)
        if request == "broken":
            raise ConnectionError
        return request.title()

    def waiting(self) -> int:
        return len(self.writer._lines.get(LINE, ()))

    def gather(self, threads: ThreadPoolExecutor, *requests: str) -> list[Future[str]]:
        """Have the first one written, and the others in line, one after the other."""
        found = [threads.submit(self.writer.write, LINE, requests[0])]
        assert self.entered.wait(30)
        for number, request in enumerate(requests[1:], start=1):
            found.append(threads.submit(self.writer.write, LINE, request))
            wait_until(lambda number=number: self.waiting() == number, "it is in line")  # type: ignore[misc]
        return found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(10) as threads:
        yield threads


def test_who_finds_nobody_writing_writes_at_once() -> None:
    gate = Gate()
    gate.open.set()
    assert [gate.writer.write(LINE, each) for each in "ab"] == ["A", "B"]
    assert gate.groups == [["a"], ["b"]]
    assert gate.leaders == [get_ident()] * 2


def test_who_comes_meanwhile_is_written_together_in_order(threads: ThreadPoolExecutor) -> None:
    gate = Gate()
    written = gate.gather(threads, "a", "b", "c", "d")
    assert not any(each.done() for each in written)
    gate.open.set()
    assert [each.result(30) for each in written] == ["A", "B", "C", "D"]
    assert gate.groups == [["a"], ["b", "c", "d"]]
    assert gate.waiting() == 0
    assert not gate.writer._lines


def test_nobody_leads_twice_for_one_request_and_groups_are_bounded(threads: ThreadPoolExecutor) -> None:
    gate = Gate(most=2)
    written = gate.gather(threads, *"abcde")
    gate.open.set()
    assert [each.result(30) for each in written] == list("ABCDE")
    assert gate.groups == [["a"], ["b", "c"], ["d", "e"]]
    assert len(set(gate.leaders)) == 3


def test_what_is_wrong_with_one_is_raised_for_that_one(threads: ThreadPoolExecutor) -> None:
    gate = Gate(lambda request: ValueError(request) if request == "c" else request.upper())
    written = gate.gather(threads, *"abcd")
    gate.open.set()
    with pytest.raises(ValueError, match="c"):
        written[2].result(30)
    assert [written[number].result(30) for number in (0, 1, 3)] == ["A", "B", "D"]
    assert not gate.alone


def test_a_group_that_fails_is_written_one_by_one(threads: ThreadPoolExecutor) -> None:
    gate = Gate()
    written = gate.gather(threads, "a", "b", "broken", "d")
    gate.open.set()
    with pytest.raises(ConnectionError):
        written[2].result(30)
    assert [written[number].result(30) for number in (0, 1, 3)] == ["A", "B", "D"]
    assert sorted(gate.alone) == ["b", "broken", "d"]
    assert gate.writer.write(LINE, "e") == "E"


def test_who_must_wait_for_another_member_comes_first_in_the_next_group(threads: ThreadPoolExecutor) -> None:
    put_off = {"c", "d"}

    def outcome(request: str) -> Outcome[str]:
        if request in put_off:
            put_off.remove(request)
            return LATER
        return request.upper()

    gate = Gate(outcome, most=3)
    written = gate.gather(threads, *"abcde")
    gate.open.set()
    assert [each.result(30) for each in written] == list("ABCDE")
    assert gate.groups == [["a"], ["b", "c", "d"], ["c", "d", "e"]]


def test_lines_do_not_wait_for_each_other(threads: ThreadPoolExecutor) -> None:
    gate = Gate()
    held = threads.submit(gate.writer.write, LINE, "a")
    assert gate.entered.wait(30)
    other = GroupWriter(lambda group: list(group), str)
    assert other.write(LINE, "b") == "b"
    second = threads.submit(gate.writer.write, "another line", "c")
    wait_until(lambda: len(gate.groups) == 2, "the other line is written as well")
    gate.open.set()
    assert (held.result(30), second.result(30)) == ("A", "C")


def test_a_leader_who_is_stopped_leaves_nobody_waiting(threads: ThreadPoolExecutor) -> None:
    def stop(request: str) -> Outcome[str]:
        if request == "a":
            raise SystemExit
        return request.upper()

    gate = Gate(stop)
    written = gate.gather(threads, "a", "b")
    gate.open.set()
    assert written[1].result(30) == "B"
    with pytest.raises(SystemExit):
        written[0].result(30)
