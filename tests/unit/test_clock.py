import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from freezegun.api import FrozenDateTimeFactory

from scheduler.clock import Clock, SettableClock, SystemClock, as_utc

NOON = datetime(2027, 2, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_system_clock_tells_utc(freezer: FrozenDateTimeFactory) -> None:
    freezer.move_to("2027-02-28T12:00:00Z")
    assert SystemClock().now() == NOON
    assert SystemClock().now().tzinfo is UTC


def test_system_clock_is_monotonic() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()


def test_system_clock_waits_until_the_instant() -> None:
    clock = SystemClock()
    until = clock.now() + timedelta(milliseconds=20)
    assert clock.wait(threading.Event(), until) is False
    assert clock.now() >= until


def test_system_clock_does_not_wait_for_the_past() -> None:
    clock = SystemClock()
    assert clock.wait(threading.Event(), clock.now() - MINUTE) is False


def test_system_clock_stops_waiting_when_the_event_is_set() -> None:
    clock, event = SystemClock(), threading.Event()
    setter = threading.Timer(0.01, event.set)
    setter.start()
    assert clock.wait(event, clock.now() + timedelta(hours=1)) is True
    setter.join()


def test_system_clock_notices_that_it_was_set_forward(freezer: FrozenDateTimeFactory) -> None:
    freezer.move_to(NOON)

    class SetForwardWhileAsleep(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == 1.0
            freezer.move_to(NOON + timedelta(hours=2))
            return False

    assert SystemClock().wait(SetForwardWhileAsleep(), NOON + timedelta(hours=1)) is False


@pytest.mark.parametrize("clock", [SystemClock(), SettableClock(NOON)])
def test_a_naive_instant_is_refused(clock: Clock) -> None:
    with pytest.raises(ValueError, match="has no zone"):
        clock.wait(threading.Event(), datetime(2027, 2, 28, 12))  # noqa: DTZ001 -- what is refused here


def test_settable_clock_stands_still() -> None:
    clock = SettableClock(NOON)
    assert clock.now() == clock.now() == NOON
    assert clock.monotonic() == 0.0


def test_settable_clock_tells_utc_whatever_it_was_set_to() -> None:
    clock = SettableClock(NOON.astimezone(timezone(timedelta(hours=14))))
    assert clock.now().tzinfo is UTC
    assert clock.now() == NOON


def test_settable_clock_moves_both_readings_forward() -> None:
    clock = SettableClock(NOON)
    clock.advance(MINUTE)
    clock.set(NOON + 3 * MINUTE)
    assert clock.now() == NOON + 3 * MINUTE
    assert clock.monotonic() == 180.0


def test_settable_clock_moved_back_keeps_its_monotonic_reading() -> None:
    clock = SettableClock(NOON)
    clock.advance(MINUTE)
    clock.set(NOON - MINUTE)
    assert clock.now() == NOON - MINUTE
    assert clock.monotonic() == 60.0


def test_settable_clock_refuses_to_advance_backwards() -> None:
    with pytest.raises(ValueError, match="use set"):
        SettableClock(NOON).advance(-MINUTE)


def test_waiting_moves_the_settable_clock() -> None:
    clock = SettableClock(NOON)
    assert clock.wait(threading.Event(), NOON + MINUTE) is False
    assert clock.now() == NOON + MINUTE
    assert clock.monotonic() == 60.0


def test_waiting_for_the_past_leaves_the_settable_clock() -> None:
    clock = SettableClock(NOON)
    assert clock.wait(threading.Event(), NOON - MINUTE) is False
    assert clock.now() == NOON


def test_a_set_event_leaves_the_settable_clock() -> None:
    clock, event = SettableClock(NOON), threading.Event()
    event.set()
    assert clock.wait(event, NOON + MINUTE) is True
    assert clock.now() == NOON


def test_as_utc_keeps_the_instant() -> None:
    instant = datetime(2027, 3, 1, 2, tzinfo=timezone(timedelta(hours=14)))
    assert as_utc(instant) == datetime(2027, 2, 28, 12, tzinfo=UTC)
