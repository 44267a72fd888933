"""How long a delivery believes in its lease, and when it is told to stop."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from sqlalchemy import create_engine

from scheduler.clock import SettableClock
from scheduler.errors import LeaseLost
from scheduler.store import batches
from tests.fixtures.tickets import a_lease
from worker.leases import HeldLease, LeaseKeeper, Shutdown

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
LENGTH = timedelta(seconds=60)
DEADLINE = timedelta(seconds=20)
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


@pytest.fixture
def requested() -> Event:
    return Event()


@pytest.fixture
def shutdown(requested: Event, clock: SettableClock) -> Shutdown:
    return Shutdown(requested, clock, DEADLINE)


@pytest.fixture
def held(shutdown: Shutdown, clock: SettableClock) -> HeldLease:
    return HeldLease(a_lease(NOW), shutdown, clock, LENGTH)


def signals(held: HeldLease) -> tuple[bool, bool]:
    return held.start_no_more(), held.abandon()


def test_a_lease_holds_for_its_length(held: HeldLease, clock: SettableClock) -> None:
    clock.advance(LENGTH - SECOND)
    assert signals(held) == (False, False)
    clock.advance(SECOND)
    assert signals(held) == (True, True)


def test_a_clock_that_is_set_back_prolongs_nothing(held: HeldLease, clock: SettableClock) -> None:
    clock.set(NOW - timedelta(hours=1))
    clock.advance(LENGTH)
    assert signals(held) == (True, True)


def test_a_renewal_counts_from_when_it_was_asked_for(held: HeldLease, clock: SettableClock) -> None:
    asked_at = clock.monotonic()
    clock.advance(LENGTH / 2)
    held.prolong(LENGTH, asked_at)
    clock.advance(LENGTH / 2)
    assert signals(held) == (True, True)


def test_a_lost_lease_stops_at_once(held: HeldLease) -> None:
    held.lose()
    assert signals(held) == (True, True)


def test_a_shutdown_lets_what_has_begun_finish_until_its_deadline(
    held: HeldLease, requested: Event, clock: SettableClock
) -> None:
    requested.set()
    assert signals(held) == (True, False)
    clock.advance(DEADLINE - SECOND)
    assert signals(held) == (True, False)
    clock.advance(SECOND)
    assert signals(held) == (True, True)


def test_nothing_is_overdue_before_a_shutdown(shutdown: Shutdown, clock: SettableClock) -> None:
    clock.advance(timedelta(days=1))
    assert (shutdown.is_requested(), shutdown.is_overdue()) == (False, False)


class Renewals:
    """Stands in for the store: takes 5 s for each renewal, refuses those of a batch that is lost."""

    def __init__(self, clock: SettableClock) -> None:
        self.renewed: list[tuple[int, datetime]] = []
        self.lost: set[int] = set()
        self._clock = clock

    def renew(self, _: object, batch: batches.LeasedBatch, *, expires_at: datetime) -> None:
        self._clock.advance(5 * SECOND)
        if batch.id in self.lost:
            raise LeaseLost(batch.id)
        self.renewed.append((batch.id, expires_at))


@pytest.fixture
def renewals(clock: SettableClock, monkeypatch: pytest.MonkeyPatch) -> Renewals:
    renewals = Renewals(clock)
    monkeypatch.setattr(batches, "renew", renewals.renew)
    return renewals


@pytest.fixture
def keeper(clock: SettableClock) -> Iterator[LeaseKeeper]:
    """A keeper on a database whose transactions work and hold nothing."""
    engine = create_engine("sqlite://")
    yield LeaseKeeper(engine, clock, LENGTH)
    engine.dispose()


def test_the_keeper_renews_what_is_held(
    keeper: LeaseKeeper, shutdown: Shutdown, clock: SettableClock, renewals: Renewals
) -> None:
    held = keeper.hold(a_lease(NOW), shutdown)
    clock.advance(LENGTH / 2)
    keeper.renew_all()
    assert renewals.renewed == [(7, NOW + LENGTH / 2 + LENGTH)]
    clock.advance(LENGTH - 6 * SECOND)
    assert signals(held) == (False, False)
    clock.advance(SECOND)
    assert signals(held) == (True, True)


def test_the_keeper_forgets_what_is_released(
    keeper: LeaseKeeper, shutdown: Shutdown, renewals: Renewals
) -> None:
    keeper.release(keeper.hold(a_lease(NOW), shutdown))
    keeper.renew_all()
    assert renewals.renewed == []


def test_a_lease_that_was_lost_stops_its_delivery_and_no_other(
    keeper: LeaseKeeper, shutdown: Shutdown, renewals: Renewals
) -> None:
    lost, kept = keeper.hold(a_lease(NOW, 1), shutdown), keeper.hold(a_lease(NOW, 2), shutdown)
    renewals.lost = {1}
    keeper.renew_all()
    assert (signals(lost), signals(kept)) == ((True, True), (False, False))


def test_a_database_that_does_not_answer_leaves_the_lease_to_run_out(
    shutdown: Shutdown, clock: SettableClock
) -> None:
    nowhere = create_engine(
        "postgresql+psycopg://nobody@127.0.0.1:1/nowhere", connect_args={"connect_timeout": 1}
    )
    keeper = LeaseKeeper(nowhere, clock, LENGTH)
    held = keeper.hold(a_lease(NOW), shutdown)
    keeper.renew_all()
    assert signals(held) == (False, False)
    clock.advance(LENGTH)
    assert signals(held) == (True, True)


def test_the_keeper_starts_and_closes(keeper: LeaseKeeper) -> None:
    keeper.start()
    keeper.close()
    keeper.close()
