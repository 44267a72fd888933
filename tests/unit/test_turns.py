"""Turns: few have one, nobody keeps one for long, and none is lost."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from api.turns import Turns
from tests.fixtures.waiting import wait_until

NEVER = 3600.0


@contextmanager
def watched(turns: Turns) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        watching = threads.submit(turns.watch)
        try:
            yield threads
        finally:
            turns.end()
            watching.result(30)


def works(turns: Turns, begun: Event, ended: Event) -> bool:
    """Take a turn and work until told to end; whether it is kept then."""
    turns.take()
    turns.begin()
    begun.set()
    assert ended.wait(30)
    return turns.is_kept()


def test_who_works_for_too_long_loses_its_turn_to_the_next() -> None:
    turns = Turns(1, longest_seconds=0.001)
    with watched(turns) as threads:
        ended = Event()
        working: list[Future[bool]] = []
        for _ in range(3):  # after each of which the watcher may rest
            begun = Event()
            working.append(threads.submit(works, turns, begun, ended))
            assert begun.wait(30)
        wait_until(lambda: not turns._under_way, "all turns have been passed on")
        ended.set()
        assert [each.result(30) for each in working] == [False, False, False]
        turns.take()  # the last one's, which nobody has now


def test_a_turn_is_kept_until_it_is_passed_on_and_passed_on_once() -> None:
    turns = Turns(1, longest_seconds=NEVER)
    with ThreadPoolExecutor() as threads:
        turns.take()
        turns.begin()
        assert turns.is_kept()
        turns.begin()
        next_one = threads.submit(turns.take)
        assert not next_one.done()
        turns.pass_on()
        turns.pass_on()
        next_one.result(30)
        assert not turns.is_kept()
        other = threads.submit(turns.take)
        assert not other.done()
        turns._rights.release()
        other.result(30)
