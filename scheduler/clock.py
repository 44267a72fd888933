"""The only place that reads the time.

Whatever needs the time is handed `now`, or a `Clock` where it has to wait. A test or a simulation that hands
over a `SettableClock` therefore rules every decision, and SQL gets its instants as parameters.
"""

import time
from datetime import UTC, datetime, timedelta
from threading import Event, Lock
from typing import Protocol

# How long `SystemClock.wait` sleeps at most before it looks at the wall clock again: a clock that is set
# forward, or a machine that slept, is noticed within this time.
LONGEST_SLEEP_SECONDS = 1.0


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """The present instant: aware, in UTC. May go back when the machine's clock is set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never going back: for durations and deadlines."""

    def wait(self, event: Event, until: datetime) -> bool:
        """Return as soon as `event` is set (True), or at the instant `until` (False)."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present instant: aware, in UTC. Goes back when the machine's clock is set back."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never going back."""
        return time.monotonic()

    def wait(self, event: Event, until: datetime) -> bool:
        """Return as soon as `event` is set (True), or at the instant `until` (False).

        Follows the wall clock: when that is set, the wait ends at the new `until`, at most a second late.
        """
        until = as_utc(until)
        while not event.is_set():
            left_seconds = (until - self.now()).total_seconds()
            if left_seconds <= 0:
                return False
            event.wait(min(left_seconds, LONGEST_SLEEP_SECONDS))
        return True


class SettableClock:
    """A clock that stands still until it is told to move; waiting moves it, so nothing sleeps.

    May be shared between threads.
    """

    def __init__(self, now: datetime) -> None:
        self._lock = Lock()
        self._now = as_utc(now)
        self._monotonic_seconds = 0.0

    def now(self) -> datetime:
        """The instant last set: aware, in UTC."""
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        """Seconds this clock has moved forward in all; moving it back changes nothing."""
        with self._lock:
            return self._monotonic_seconds

    def set(self, instant: datetime) -> None:
        """Move to `instant`, forward or back, as an operator may set a machine's clock."""
        instant = as_utc(instant)
        with self._lock:
            self._monotonic_seconds += max(0.0, (instant - self._now).total_seconds())
            self._now = instant

    def advance(self, duration: timedelta) -> None:
        """Move forward by `duration`; raises ValueError if it is negative."""
        if duration < timedelta(0):
            raise ValueError(f"cannot advance by {duration}: use set() to move the clock back")
        with self._lock:
            self._now += duration
            self._monotonic_seconds += duration.total_seconds()

    def wait(self, event: Event, until: datetime) -> bool:
        """Jump to `until` at once, unless `event` is set or `until` is past; True if the event is set."""
        until = as_utc(until)
        if not event.is_set():
            with self._lock:
                self._monotonic_seconds += max(0.0, (until - self._now).total_seconds())
                self._now = max(self._now, until)
        return event.is_set()


def as_utc(instant: datetime) -> datetime:
    """The same instant in UTC; raises ValueError if it has no zone, since it then names no instant."""
    if instant.utcoffset() is None:
        raise ValueError(f"{instant.isoformat()} has no zone, so it names no instant")
    return instant.astimezone(UTC)
