"""One worker thread on a real database: what it settles, what it survives, and how it keeps its lease."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from threading import Event, Thread

import pytest
from sqlalchemy import Engine

from scheduler.broker.port import Consumer, Delivery
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.errors import DatabaseUnavailable
from scheduler.store.batches import LeasedBatch
from tests.fixtures.pipeline import LEASE, NINE, Pipeline
from tests.fixtures.providers import AT, ScriptedProvider
from tests.fixtures.waiting import wait_until
from worker.channels.port import Accepted, Outcome, OutgoingMessage
from worker.consumer import DeliveryLoop
from worker.leases import LeaseKeeper, Shutdown

AT_ONCE = timedelta()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, batch_size=2)


@pytest.fixture
def stop() -> Event:
    return Event()


@pytest.fixture
def keeper(engine: Engine, clock: SettableClock) -> LeaseKeeper:
    return LeaseKeeper(engine, clock, LEASE)


MakeLoop = Callable[..., DeliveryLoop]


@pytest.fixture
def make_loop(
    pipeline: Pipeline, keeper: LeaseKeeper, clock: SettableClock, stop: Event
) -> Iterator[MakeLoop]:
    """Make loops of a provider and, if need be, a consumer of the test's own."""
    made: list[Consumer] = []

    def make(provider: ScriptedProvider, consumer: Consumer | None = None) -> DeliveryLoop:
        receiving = consumer or pipeline.broker.consumer("worker", [Channel.EMAIL])
        made.append(receiving)
        shutdown = Shutdown(stop, clock, timedelta(seconds=20))
        return DeliveryLoop(receiving, pipeline.deliverer(provider), keeper, shutdown, clock, LEASE)

    yield make
    for consumer in made:
        consumer.close()


def test_a_loop_delivers_what_there_is(pipeline: Pipeline, make_loop: MakeLoop) -> None:
    pipeline.add_due_people(3)
    pipeline.enqueue()
    loop = make_loop(ScriptedProvider())
    assert [loop.deliver_next(AT_ONCE) for _ in range(3)] == [True, True, False]
    assert pipeline.states() == {"sent": 3}


class WatchedDelivery:
    """A delivery that notes what the log says of its messages when it is settled."""

    def __init__(self, batch: LeasedBatch, pipeline: Pipeline) -> None:
        self.batch = batch
        self.settled: list[dict[str, int]] = []
        self._pipeline = pipeline

    def settle(self) -> None:
        """See the port."""
        self.settled.append(self._pipeline.states())


class OneDelivery:
    """A consumer of one delivery."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def receive(self, lease_for: timedelta, wait: timedelta, paused: Collection[Channel] = ()) -> Delivery:
        """See the port."""
        return self._delivery

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize(
    ("answer", "state"),
    [(lambda _: Accepted(AT), "sent"), (lambda _: 1 / 0, "sending")],
    ids=["sent", "failed"],
)
def test_a_batch_is_settled_once_when_nothing_more_of_it_is_sent(
    pipeline: Pipeline, make_loop: MakeLoop, answer: Callable[[OutgoingMessage], Outcome], state: str
) -> None:
    """So the next reference is on its way while outcomes are recorded."""
    pipeline.add_due_people(2)
    pipeline.enqueue()
    delivery = WatchedDelivery(pipeline.lease(), pipeline)
    make_loop(ScriptedProvider(answer), OneDelivery(delivery)).deliver_next(AT_ONCE)
    assert delivery.settled == [{"sending": 2}]
    assert pipeline.states() == {state: 2}


def poisonous(address: str) -> Callable[[OutgoingMessage], Outcome]:
    """A provider with a mistake in it, which one address brings out."""

    def answer(message: OutgoingMessage) -> Outcome:
        if message.address == address:
            raise RuntimeError("a mistake")
        return Accepted(AT)

    return answer


def test_a_poisonous_batch_ends_neither_the_loop_nor_the_others(
    pipeline: Pipeline, make_loop: MakeLoop, clock: SettableClock
) -> None:
    """FAULTS 13: it keeps its lease, comes again, and ends among the dead letters."""
    pipeline.add_due_people(4)
    provider = ScriptedProvider(poisonous("ann0@example.org"))
    loop = make_loop(provider)
    for _ in range(6):
        pipeline.enqueue()
        while loop.deliver_next(AT_ONCE):
            pass
        clock.advance(LEASE + timedelta(seconds=1))
        pipeline.recover()
    assert pipeline.states() == {"sent": 2, "dead": 2}
    assert pipeline.batch_states() == {"done": 2}
    assert len(provider.received) == 2 + 5 * 2


def test_a_text_that_cannot_be_rendered_ends_its_message_and_nothing_else(
    pipeline: Pipeline, make_loop: MakeLoop
) -> None:
    pipeline.add_due_people(1)
    pipeline.execute("UPDATE occasions SET body = 'Hey, {{ no_such_field }}'")
    pipeline.enqueue()
    provider = ScriptedProvider()
    assert make_loop(provider).deliver_next(AT_ONCE)
    assert provider.received == []
    assert (pipeline.states(), pipeline.batch_states()) == ({"dead": 1}, {"done": 1})
    assert [row.category for row in pipeline.rows("SELECT category FROM dead_letters")] == ["text_error"]


class FailingConsumer:
    """Raises each of `errors`, then asks for the stop."""

    def __init__(self, errors: list[Exception], stop: Event) -> None:
        self._errors = errors
        self._stop = stop
        self.is_closed = False

    def receive(
        self, lease_for: timedelta, wait: timedelta, paused: Collection[Channel] = ()
    ) -> Delivery | None:
        """See the port."""
        if self._errors:
            raise self._errors.pop(0)
        self._stop.set()
        return None

    def close(self) -> None:
        """See the port."""
        self.is_closed = True


def test_a_loop_outlives_whatever_receiving_raises(
    make_loop: MakeLoop, clock: SettableClock, stop: Event
) -> None:
    consumer = FailingConsumer([DatabaseUnavailable("away"), RuntimeError("a mistake")], stop)
    make_loop(ScriptedProvider(), consumer).run()
    assert consumer.is_closed
    assert clock.now() == NINE + timedelta(seconds=2)


def test_a_loop_that_was_told_to_stop_receives_nothing_more(
    pipeline: Pipeline, make_loop: MakeLoop, stop: Event
) -> None:
    pipeline.add_due_people(4)
    pipeline.enqueue()
    make_loop(ScriptedProvider(before=stop.set)).run()
    assert pipeline.states() == {"sent": 2, "scheduled": 2}
    assert pipeline.batch_states() == {"done": 1, "enqueued": 1}


def test_a_slow_delivery_keeps_its_lease(
    pipeline: Pipeline, make_loop: MakeLoop, keeper: LeaseKeeper, clock: SettableClock
) -> None:
    def be_slow() -> None:
        for _ in range(5):
            clock.advance(LEASE / 2)
            keeper.renew_all()
            assert pipeline.recover()["lapsed_leases"] == 0

    pipeline.add_due_people(1)
    pipeline.enqueue()
    provider = ScriptedProvider(before=be_slow)
    make_loop(provider).deliver_next(AT_ONCE)
    assert clock.now() == NINE + 2.5 * LEASE
    assert pipeline.states() == {"sent": 1}


def test_a_delivery_whose_lease_was_lost_is_told_to_stop(
    pipeline: Pipeline, make_loop: MakeLoop, keeper: LeaseKeeper, clock: SettableClock
) -> None:
    told: list[tuple[bool, bool]] = []

    def lose_the_lease() -> None:
        pipeline.execute("UPDATE batches SET lease_token = lease_token + 1")
        keeper.renew_all()
        told.append((provider.controls[0].start_no_more(), provider.controls[0].abandon()))

    pipeline.add_due_people(1)
    pipeline.enqueue()
    provider = ScriptedProvider(before=lose_the_lease)
    make_loop(provider).deliver_next(AT_ONCE)
    assert told == [(True, True)]
    assert pipeline.states() == {"sending": 1}


def test_the_keepers_thread_renews_by_itself(
    pipeline: Pipeline, engine: Engine, clock: SettableClock
) -> None:
    pipeline.add_due_people(1)
    pipeline.enqueue()
    batch = pipeline.lease()
    keeper = LeaseKeeper(engine, clock, timedelta(seconds=0.03))
    keeper.hold(batch, Shutdown(Event(), clock, LEASE))
    clock.advance(timedelta(minutes=5))
    keeper.start()
    expires = "SELECT 1 FROM batches WHERE lease_expires_at > :then"
    wait_until(lambda: pipeline.rows(expires, then=NINE + timedelta(minutes=4)), "the lease is renewed")
    keeper.close()


def test_loops_share_the_work(pipeline: Pipeline, make_loop: MakeLoop, stop: Event) -> None:
    pipeline.add_due_people(40)
    pipeline.enqueue()
    providers = [ScriptedProvider() for _ in range(3)]
    threads = [Thread(target=make_loop(provider).run) for provider in providers]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: pipeline.states() == {"sent": 40}, "everything is sent")
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
    keys = [key for provider in providers for key in provider.keys]
    assert len(keys) == len(set(keys)) == 40
