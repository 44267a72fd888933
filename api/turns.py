"""Few threads of a process wait for requests at a time, and answer the short ones themselves.

Threads of one interpreter run one at a time, and one that wakes up takes the interpreter from the one that works: where
eight wait for requests, some answers have to wait for many switches. So there are a few rights to wait and to answer
(more than one, so that there is work while an answer waits for the database); who has none, sleeps. A holder passes
its turn on before what may take long (`pass_on`); where an answer turns out to take longer than `longest_seconds`, a
thread that does nothing else passes the turn on for it (`watch`).

Why no turn is lost, and none is given twice: what a holder is at work on stands in `_under_way` from `begin` on. Who
removes it from there, which one thread alone can, decides about the turn: the holder keeps it or passes it on, the
watcher passes it on. A holder that finds nothing to remove has lost its turn, and takes another.
"""

from __future__ import annotations

from threading import Event, Semaphore, get_ident
from typing import Final

from scheduler.clock import SystemClock

_CLOCK: Final = SystemClock()


class Turns:
    """The rights to wait for requests."""

    def __init__(self, count: int, longest_seconds: float) -> None:
        self._longest_seconds = longest_seconds
        self._rights = Semaphore(count)
        self._under_way: dict[int, float] = {}
        """The threads that have a turn and are at work, and since when (by the monotonic clock)."""
        self._is_watched = True
        self._has_begun = Event()
        self._has_ended = Event()

    def take(self) -> None:
        """Wait for a turn."""
        self._rights.acquire()

    def begin(self) -> None:
        """Begin with what the holder of a turn has found."""
        self._under_way[get_ident()] = _CLOCK.monotonic()
        if not self._is_watched:
            self._has_begun.set()

    def is_kept(self) -> bool:
        """End what was begun; False: the turn has been passed on meanwhile."""
        return self._under_way.pop(get_ident(), None) is not None

    def pass_on(self) -> None:
        """Let another wait for requests, where the thread that asks for it has its turn still."""
        if self.is_kept():
            self._rights.release()

    def watch(self) -> None:
        """Pass on the turns of those who work for too long, until `end`. While nobody works, this sleeps."""
        while not self._has_ended.wait(self._longest_seconds):
            if not self._under_way:
                self._rest()
            latest = _CLOCK.monotonic() - self._longest_seconds
            for thread, since in list(self._under_way.items()):
                if since <= latest and self._under_way.pop(thread, None) is not None:
                    self._rights.release()

    def _rest(self) -> None:
        """Sleep until somebody begins."""
        self._is_watched = False
        if not self._under_way:  # who has begun before could see that, does not wake this up
            self._has_begun.wait()
        self._is_watched = True
        self._has_begun.clear()

    def end(self) -> None:
        """Have `watch` return."""
        self._has_ended.set()
        self._has_begun.set()
