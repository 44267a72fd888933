"""What every broker adapter must pass. A module of tests inherits `BrokerContract` and says how to reach its broker.

The broker's clock is the machine's, since real brokers live by it; nothing is measured by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from threading import Barrier, Event, Thread
from typing import Final, Protocol

import pytest
from sqlalchemy import Engine

from scheduler.broker.port import Broker, Consumer, Delivery
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.jobs.enqueue import Enqueue
from scheduler.jobs.recover import Recover
from scheduler.planner import Planner, PlanningPolicy
from scheduler.store import batches
from scheduler.store.batches import Counts
from tests.fixtures.tickets import add_ticket, enqueue_all

LEASE: Final = timedelta(minutes=1)
DEADLINE: Final = timedelta(minutes=5)
AT_ONCE: Final = timedelta()
SHORT: Final = timedelta(seconds=0.3)
LONG: Final = timedelta(seconds=30)


class Rig(Protocol):
    """A broker under test, and what may happen to it."""

    def broker(self) -> Broker:
        """An adapter of its own, with connections of its own; the rig closes it."""

    def unreachable_broker(self) -> Broker:
        """An adapter whose server refuses connections."""

    def lose_everything(self) -> None:
        """Make the broker forget what it holds; where it holds nothing of its own, do nothing."""


class BrokerContract:
    """Tests of the port's promises. A subclass gives the fixture `rig`."""

    @pytest.fixture
    def now(self) -> datetime:
        return SystemClock().now()

    @pytest.fixture
    def broker(self, rig: Rig) -> Broker:
        return rig.broker()

    @pytest.fixture
    def consumers(self) -> Iterator[ExitStack]:
        with ExitStack() as stack:
            yield stack

    def test_each_published_batch_is_received_once_among_consumers(
        self, engine: Engine, broker: Broker, now: datetime
    ) -> None:
        for number in range(40):
            add_ticket(engine, now - timedelta(seconds=number))
        published = publish_all(engine, broker, now)
        start = Barrier(4)

        def consume(number: int) -> list[int]:
            consumer = broker.consumer(f"worker-{number}", [Channel.EMAIL])
            start.wait(timeout=30)
            received = [delivery.batch.id for delivery in drain(engine, consumer, now, timedelta(seconds=3))]
            consumer.close()
            return received

        with ThreadPoolExecutor(4) as threads:
            received = Counter(batch_id for ids in threads.map(consume, range(4)) for batch_id in ids)
        assert received == Counter(published)

    def test_batches_of_one_priority_come_in_the_order_of_their_instants(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for minutes in (3, 1, 4, 2, 5):
            add_ticket(engine, now - timedelta(minutes=minutes))
        publish_all(engine, broker, now)
        received = drain(engine, consumer_of(broker, consumers), now)
        assert [now - delivery.batch.send_at for delivery in received] == [
            timedelta(minutes=minutes) for minutes in (5, 4, 3, 2, 1)
        ]

    def test_a_critical_batch_overtakes_a_backlog_of_bulk(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for number in range(20):
            add_ticket(engine, now - timedelta(minutes=number + 1), priority=Priority.BULK)
        add_ticket(engine, now, priority=Priority.CRITICAL)
        publish_all(engine, broker, now)
        received = drain(engine, consumer_of(broker, consumers), now)
        priorities = [delivery.batch.priority for delivery in received]
        assert len(priorities) == 21
        # A broker may have handed over some of the backlog before it had the critical one at hand.
        assert priorities.index(Priority.CRITICAL) < 10

    def test_a_consumer_hears_of_its_own_channels_only(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for channel in Channel:
            add_ticket(engine, now, channel=channel)
        publish_all(engine, broker, now)
        for channel in Channel:
            consumer = consumer_of(broker, consumers, [channel])
            assert [delivery.batch.channel for delivery in drain(engine, consumer, now)] == [channel]

    def test_a_consumer_of_all_channels_neglects_none(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for channel in Channel:
            add_ticket(engine, now, channel=channel)
        publish_all(engine, broker, now)
        received = drain(engine, consumer_of(broker, consumers, list(Channel)), now)
        assert {delivery.batch.channel for delivery in received} == set(Channel)

    def test_a_paused_channel_is_left_alone_and_its_batches_wait(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for channel in Channel:
            add_ticket(engine, now, channel=channel)
        publish_all(engine, broker, now)
        consumer = consumer_of(broker, consumers, list(Channel))
        others = set(Channel) - {Channel.EMAIL}
        received = drain(engine, consumer, now, paused=[Channel.EMAIL])
        assert sorted(delivery.batch.channel for delivery in received) == sorted(others)
        last = consumer.receive(LEASE, LONG)
        assert last is not None
        assert (last.batch.channel, last.batch.lease_token) == (Channel.EMAIL, 1)

    def test_a_waiting_consumer_is_woken_by_a_publication(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        consumer = consumer_of(broker, consumers)
        assert consumer.receive(LEASE, AT_ONCE) is None
        found: list[Delivery | None] = []
        waiting = Event()

        def wait() -> None:
            waiting.set()
            found.append(consumer.receive(LEASE, 20 * LONG))

        thread = Thread(target=wait)
        thread.start()
        waiting.wait()
        add_ticket(engine, now)
        [published] = publish_all(engine, broker, now)
        thread.join(timeout=LONG.total_seconds())
        assert not thread.is_alive()
        assert [delivery.batch.id for delivery in found if delivery] == [published]

    def test_nothing_to_receive_is_an_answer(self, broker: Broker, consumers: ExitStack) -> None:
        assert consumer_of(broker, consumers).receive(LEASE, SHORT) is None

    def test_a_batch_published_twice_is_leased_once(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        references = enqueue_all(engine, now)
        broker.publish(references)
        broker.publish(references)
        received = drain(engine, consumer_of(broker, consumers), now)
        assert [delivery.batch.id for delivery in received] == [references[0].id]

    def test_an_unsettled_delivery_is_under_nobody_elses_lease(
        self, engine: Engine, rig: Rig, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        publish_all(engine, rig.broker(), now)
        first = rig.broker().consumer("first", [Channel.EMAIL])
        held = first.receive(LEASE, LONG)
        assert held is not None
        first.close()
        # A broker may deliver again what was not settled, but not as long as the lease stands.
        assert consumer_of(rig.broker(), consumers).receive(LEASE, SHORT) is None
        with engine.begin() as connection:
            batches.finish(connection, held.batch, Counts(), now=now)

    def test_what_a_dead_consumer_held_comes_again_under_a_new_lease(
        self, engine: Engine, rig: Rig, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        publisher = rig.broker()
        publish_all(engine, publisher, now)
        dying = rig.broker().consumer("dying", [Channel.EMAIL])
        lost = dying.receive(LEASE, LONG)
        assert lost is not None
        dying.close()
        with engine.begin() as connection:
            assert batches.lapse_leases(connection, now=now + 2 * LEASE) == 1
        publish_all(engine, publisher, now + 2 * LEASE)
        again = consumer_of(rig.broker(), consumers).receive(LEASE, LONG)
        assert again is not None
        assert again.batch.id == lost.batch.id
        assert again.batch.lease_token > lost.batch.lease_token

    def test_what_was_never_published_is_received_all_the_same(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        [unpublished] = enqueue_all(engine, now)
        received = drain(engine, consumer_of(broker, consumers), now)
        assert [delivery.batch.id for delivery in received] == [unpublished.id]

    def test_losing_all_that_the_broker_holds_loses_no_batch(
        self, engine: Engine, rig: Rig, now: datetime, consumers: ExitStack
    ) -> None:
        broker = rig.broker()
        for number in range(5):
            add_ticket(engine, now - timedelta(seconds=number))
        published = publish_all(engine, broker, now)
        rig.lose_everything()
        received = drain(engine, consumer_of(broker, consumers), now)
        assert sorted(delivery.batch.id for delivery in received) == sorted(published)

    def test_a_publication_that_fails_holds_up_nobody(
        self, engine: Engine, rig: Rig, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        failing = Enqueue(engine, rig.unreachable_broker(), SystemClock())
        assert failing.run(now) == {"enqueued": 1, "unpublished": 1, "lapsed_leases": 0}
        assert len(drain(engine, consumer_of(rig.broker(), consumers), now)) == 1

    def test_recovery_publishes_again_what_the_broker_has_lost_and_nothing_else(
        self, engine: Engine, rig: Rig, now: datetime, consumers: ExitStack
    ) -> None:
        broker = rig.broker()
        add_ticket(engine, now)
        published = publish_all(engine, broker, now)
        recover = a_recovery(engine, broker)
        later = now + 2 * DEADLINE
        assert recover.run(later)["lapsed_enqueued"] == 0
        rig.lose_everything()
        lost = recover.run(later)["lapsed_enqueued"]
        assert lost == (0 if broker.holding() is None else 1)
        assert len(publish_all(engine, broker, later)) == lost
        received = drain(engine, consumer_of(broker, consumers), now)
        assert [delivery.batch.id for delivery in received] == published

    def test_recovery_goes_on_without_the_broker(self, engine: Engine, rig: Rig, now: datetime) -> None:
        add_ticket(engine, now)
        enqueue_all(engine, now)
        recovered = a_recovery(engine, rig.unreachable_broker()).run(now + 2 * DEADLINE)
        assert recovered["lapsed_enqueued"] == 0

    def test_a_delivery_may_be_settled_twice_and_late(
        self, engine: Engine, broker: Broker, now: datetime
    ) -> None:
        add_ticket(engine, now)
        publish_all(engine, broker, now)
        consumer = broker.consumer("worker", [Channel.EMAIL])
        [delivery] = drain(engine, consumer, now)
        delivery.settle()
        consumer.close()
        delivery.settle()
        consumer = broker.consumer("worker", [Channel.EMAIL])
        assert consumer.receive(LEASE, SHORT) is None
        consumer.close()

    def test_a_batch_that_is_done_is_not_received_again(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        references = enqueue_all(engine, now)
        broker.publish(references)
        consumer = consumer_of(broker, consumers)
        assert len(drain(engine, consumer, now)) == 1
        broker.publish(references)
        assert consumer.receive(LEASE, SHORT) is None

    def test_consumers_and_brokers_may_be_closed_twice_and_followed_by_others(
        self, engine: Engine, rig: Rig, now: datetime, consumers: ExitStack
    ) -> None:
        broker = rig.broker()
        consumer = broker.consumer("worker", [Channel.EMAIL])
        assert consumer.receive(LEASE, AT_ONCE) is None
        for _ in range(2):
            consumer.close()
            broker.close()
        add_ticket(engine, now)
        # A publishing connection opens again by itself.
        publish_all(engine, broker, now)
        broker.publish([])
        assert len(drain(engine, consumer_of(broker, consumers), now)) == 1

    def test_many_batches_fit_into_one_publication(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for number in range(200):
            add_ticket(engine, now - timedelta(seconds=number % 7))
        published = publish_all(engine, broker, now)
        received = drain(engine, consumer_of(broker, consumers), now)
        assert sorted(delivery.batch.id for delivery in received) == sorted(published)


def consumer_of(broker: Broker, stack: ExitStack, channels: Sequence[Channel] = (Channel.EMAIL,)) -> Consumer:
    """A consumer that is closed at the end of the test."""
    consumer = broker.consumer("worker", list(channels))
    stack.callback(consumer.close)
    return consumer


def publish_all(engine: Engine, broker: Broker, now: datetime) -> list[int]:
    """Enqueue what is due and publish it; returns the ids."""
    references = enqueue_all(engine, now)
    broker.publish(references)
    return [reference.id for reference in references]


def a_recovery(engine: Engine, broker: Broker) -> Recover:
    """The recovery job on a broker."""
    planner = Planner(engine, PlanningPolicy(timedelta(hours=48), timedelta(hours=25), 500))
    return Recover(engine, planner, broker, DEADLINE)


def drain(
    engine: Engine,
    consumer: Consumer,
    now: datetime,
    first_wait: timedelta = LONG,
    paused: Collection[Channel] = (),
) -> list[Delivery]:
    """Receive, finish and settle until no batch of the consumer's is left but those of `paused` channels."""
    received: list[Delivery] = []
    while (delivery := consumer.receive(LEASE, SHORT if received else first_wait, paused)) is not None:
        with engine.begin() as connection:
            batches.finish(connection, delivery.batch, Counts(), now=now)
        delivery.settle()
        received.append(delivery)
    return received
