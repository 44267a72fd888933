"""What the API's parent process takes for a process that hangs."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from gunicorn.config import Config

from api import serving
from api.serving import Heartbeat
from scheduler.clock import SettableClock

SECOND = timedelta(seconds=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SettableClock:
    clock = SettableClock(datetime(2027, 3, 1, tzinfo=UTC))
    monkeypatch.setattr(serving, "_CLOCK", clock)
    monkeypatch.setattr("gunicorn.workers.workertmp.time.monotonic", clock.monotonic)
    return clock


@pytest.fixture
def heartbeat(clock: SettableClock) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(Config())
    heartbeat.notify()
    yield heartbeat
    heartbeat.close()


def silence(heartbeat: Heartbeat, clock: SettableClock) -> float:
    """For how many seconds the process has been silent, as the parent sees it."""
    return clock.monotonic() - heartbeat.last_update()


def test_a_process_that_hangs_is_silent_for_as_long(heartbeat: Heartbeat, clock: SettableClock) -> None:
    for second in range(1, 70):
        clock.advance(SECOND)
        assert silence(heartbeat, clock) == second


def test_a_process_is_not_blamed_for_the_time_in_which_its_parent_stood_still(
    heartbeat: Heartbeat, clock: SettableClock
) -> None:
    clock.advance(timedelta(hours=1))
    assert silence(heartbeat, clock) == 0
    # From here on it must say that it is well, as ever.
    clock.advance(SECOND)
    assert silence(heartbeat, clock) == 1
    heartbeat.notify()
    assert silence(heartbeat, clock) == 0
