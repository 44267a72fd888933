"""PostgreSQL dies under a worker: what was delivered is recorded, not sent again, and the worker goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, OperationalError

from scheduler.clock import SettableClock, SystemClock
from scheduler.domain.occasion import Channel
from scheduler.errors import LeaseLost
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.database import create_database_engine, in_transaction
from scheduler.store.migrate import upgrade
from tests.fixtures.pipeline import LEASE, NINE, Pipeline
from tests.fixtures.programs import programs
from tests.fixtures.providers import ScriptedProvider
from tests.fixtures.servers import MortalServer, mortal_server
from tests.fixtures.waiting import wait_until
from worker import delivery
from worker.channels.port import NotAttempted
from worker.consumer import DeliveryLoop
from worker.leases import HeldLease, LeaseKeeper, Shutdown

Work = Callable[[Connection], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[MortalServer]:
    with mortal_server() as server:
        engine = create_database_engine(server.url, pool_size=1, application_name="daybreak-tests")
        upgrade(engine)
        engine.dispose()
        yield server


@pytest.fixture
def mortal_engine(server: MortalServer) -> Iterator[Engine]:
    engine = create_database_engine(server.url, pool_size=10, application_name="daybreak-tests")
    yield engine
    pipeline = Pipeline(engine, SystemClock())
    pipeline.execute("TRUNCATE users, user_dates, message_log, batches, dead_letters, delivery_attempts")
    pipeline.execute("UPDATE occasions SET planned_through = NULL")
    engine.dispose()


class EventfulClock(SettableClock):
    """Waiting moves it, and something happens meanwhile: the next of `events`, if there is one."""

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.events: list[Callable[[], object]] = []
        self.waits = 0

    def wait(self, event: Event, until: datetime) -> bool:
        """See the clock's protocol."""
        self.waits += 1
        if self.events:
            self.events.pop(0)()
        return super().wait(event, until)


@pytest.fixture
def clock() -> EventfulClock:
    return EventfulClock(NINE)


def held(batch: LeasedBatch, clock: SettableClock) -> HeldLease:
    return HeldLease(batch, Shutdown(Event(), clock, timedelta(seconds=20)), clock, LEASE)


def test_outcomes_outlive_a_database_that_was_killed_and_came_back(
    server: MortalServer, mortal_engine: Engine, clock: EventfulClock
) -> None:
    """FAULTS 8: killed while the provider was being called; two tries find nobody there."""
    pipeline = Pipeline(mortal_engine, clock)
    pipeline.add_due_people(20)
    pipeline.enqueue()
    batch = pipeline.lease()
    clock.events = [lambda: None, server.start]
    provider = ScriptedProvider(before=server.kill)
    assert pipeline.deliverer(provider).deliver(batch, held(batch, clock)) == Counts(sent=20)
    assert clock.waits == 2
    assert len(provider.received) == 20
    assert (pipeline.states(), pipeline.batch_states()) == ({"sent": 20}, {"done": 1})


def test_outcomes_are_given_up_with_the_lease_and_the_same_keys_sent_again(
    server: MortalServer, mortal_engine: Engine, clock: EventfulClock
) -> None:
    pipeline = Pipeline(mortal_engine, clock)
    pipeline.add_due_people(3)
    pipeline.enqueue()
    batch = pipeline.lease()
    first, second = ScriptedProvider(before=server.kill), ScriptedProvider()
    with pytest.raises(OperationalError):
        pipeline.deliverer(first).deliver(batch, held(batch, clock))
    assert clock.now() == NINE + LEASE
    server.start()
    clock.advance(timedelta(seconds=1))
    assert pipeline.recover()["lapsed_leases"] == 1
    pipeline.enqueue()
    batch = pipeline.lease()
    pipeline.deliverer(second).deliver(batch, held(batch, clock))
    assert sorted(first.keys) == sorted(second.keys)
    assert pipeline.states() == {"sent": 3}


@dataclass
class LossyTransactions:
    """Runs transactions; from the `first_lost`-th on, `lost` of them end in an error although they are committed."""

    first_lost: int
    lost: int = 1
    error: type[OperationalError | DataError] = OperationalError
    rolls_back: bool = False
    runs: list[object] = field(default_factory=list)

    def __call__(self, engine: Engine, work: Work) -> Any:
        self.runs.append(work)
        is_lost = self.first_lost <= len(self.runs) < self.first_lost + self.lost
        if is_lost and self.rolls_back:
            raise self.error("COMMIT", {}, Exception("refused"))
        result = in_transaction(engine, work)
        if is_lost:
            raise self.error("COMMIT", {}, Exception("the connection is lost"))
        return result


def test_a_commit_that_raised_and_took_effect_is_not_written_twice(
    engine: Engine, clock: EventfulClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(3)
    pipeline.enqueue()
    batch = pipeline.lease()
    lossy = LossyTransactions(first_lost=2)
    monkeypatch.setattr(delivery, "in_transaction", lossy)
    provider = ScriptedProvider()
    assert pipeline.deliverer(provider).deliver(batch, held(batch, clock)) == Counts(sent=3)
    assert (len(lossy.runs), len(provider.received)) == (3, 3)
    [row] = pipeline.rows("SELECT sent_count, CAST(state AS text) AS state FROM batches")
    assert tuple(row) == (3, "done")


def test_a_hand_back_that_raised_and_took_effect_is_not_written_twice(
    engine: Engine, clock: EventfulClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(3)
    pipeline.enqueue()
    batch = pipeline.lease()
    monkeypatch.setattr(delivery, "in_transaction", LossyTransactions(first_lost=2))
    with pytest.raises(LeaseLost):
        pipeline.deliverer(ScriptedProvider(lambda _: NotAttempted())).deliver(batch, held(batch, clock))
    assert (pipeline.states(), pipeline.batch_states()) == ({"scheduled": 3}, {"pending": 1})


def test_an_error_that_time_does_not_heal_is_not_tried_again(
    engine: Engine, clock: EventfulClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(1)
    pipeline.enqueue()
    batch = pipeline.lease()
    lossy = LossyTransactions(first_lost=2, lost=1_000, error=DataError, rolls_back=True)
    monkeypatch.setattr(delivery, "in_transaction", lossy)
    with pytest.raises(DataError):
        pipeline.deliverer(ScriptedProvider()).deliver(batch, held(batch, clock))
    assert (len(lossy.runs), clock.waits) == (2, 0)


@pytest.mark.parametrize("rolls_back", [True, False])
def test_a_batch_that_could_not_be_claimed_is_given_back_once_the_database_answers(
    engine: Engine, clock: EventfulClock, monkeypatch: pytest.MonkeyPatch, rolls_back: bool
) -> None:
    """At once, whatever became of the COMMIT of the claim: nothing was sent, so no attempt counts."""
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(3)
    pipeline.enqueue()
    batch = pipeline.lease()
    lossy = LossyTransactions(first_lost=1, lost=3, rolls_back=rolls_back)
    monkeypatch.setattr(delivery, "in_transaction", lossy)
    provider = ScriptedProvider()
    with pytest.raises(OperationalError):
        pipeline.deliverer(provider).deliver(batch, held(batch, clock))
    assert (pipeline.states(), pipeline.batch_states()) == ({"scheduled": 3}, {"pending": 1})
    assert (provider.received, clock.now() - NINE < timedelta(seconds=4)) == ([], True)
    pipeline.enqueue()
    pipeline.deliverer(provider).deliver(again := pipeline.lease(), held(again, clock))
    [row] = pipeline.rows("SELECT DISTINCT CAST(state AS text) AS state, attempt FROM message_log")
    assert tuple(row) == ("sent", 1)


def test_a_batch_that_could_not_be_claimed_lapses_where_the_database_stays_away(
    engine: Engine, clock: EventfulClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(1)
    pipeline.enqueue()
    batch = pipeline.lease()
    monkeypatch.setattr(
        delivery, "in_transaction", LossyTransactions(first_lost=1, lost=1_000, rolls_back=True)
    )
    with pytest.raises(OperationalError):
        pipeline.deliverer(ScriptedProvider()).deliver(batch, held(batch, clock))
    assert clock.now() == NINE + LEASE
    assert pipeline.batch_states() == {"leased": 1}


def test_a_stop_whose_deadline_is_over_ends_the_tries(
    engine: Engine, clock: EventfulClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(1)
    pipeline.enqueue()
    batch = pipeline.lease()
    requested = Event()
    shutdown = Shutdown(requested, clock, timedelta(seconds=3))
    lossy = LossyTransactions(first_lost=2, lost=1_000, rolls_back=True)
    monkeypatch.setattr(delivery, "in_transaction", lossy)
    provider = ScriptedProvider(before=requested.set)
    with pytest.raises(OperationalError):
        pipeline.deliverer(provider).deliver(batch, HeldLease(batch, shutdown, clock, LEASE))
    assert clock.waits == 3


def test_a_worker_that_waits_for_work_outlives_its_database(
    server: MortalServer, mortal_engine: Engine
) -> None:
    """FAULTS 8: killed while nothing was due; the loop goes on when it is back."""
    clock = SystemClock()
    pipeline = Pipeline(mortal_engine, clock)
    stop, provider = Event(), ScriptedProvider()
    loop = DeliveryLoop(
        pipeline.broker.consumer("worker", [Channel.EMAIL]),
        pipeline.deliverer(provider),
        LeaseKeeper(mortal_engine, clock, LEASE),
        Shutdown(stop, clock, timedelta(seconds=20)),
        clock,
        LEASE,
    )
    thread = Thread(target=loop.run)
    thread.start()
    try:
        wait_until(
            lambda: pipeline.rows("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"), "listening"
        )
        server.kill()
        server.start()
        pipeline.add_people_due_now(2)
        pipeline.enqueue()
        wait_until(lambda: pipeline.states() == {"sent": 2}, "both are sent")
    finally:
        stop.set()
        thread.join(timeout=20)
    assert not thread.is_alive()
    assert len(provider.received) == 2


def test_a_scheduler_and_a_worker_outlive_their_database(
    server: MortalServer, mortal_engine: Engine, tmp_path: Path
) -> None:
    """FAULTS 8: killed under both processes; neither exits, and what falls due afterwards is delivered."""
    pipeline = Pipeline(mortal_engine, SystemClock())
    with programs(tmp_path, server.url) as running:
        scheduler, worker = running.start("scheduler"), running.start("worker")
        pipeline.add_people_due_now(2)
        wait_until(lambda: pipeline.states() == {"sent": 2}, "the first are sent")
        server.kill()
        wait_until(lambda: scheduler.has_logged("job_lost_the_database"), "the scheduler has noticed")
        wait_until(lambda: worker.has_logged("receiving_failed"), "the worker has noticed")
        server.start()
        pipeline.add_people_due_now(2, first=2)
        wait_until(lambda: pipeline.states() == {"sent": 4}, "the others are sent")
        for program in (scheduler, worker):
            program.terminate()
            assert program.exit_code() == 0
