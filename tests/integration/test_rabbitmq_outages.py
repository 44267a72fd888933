"""RabbitMQ away, blocked, slow or robbed of its queues: nothing waits for it, since the log is the truth."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import Final

import pytest
from pika.exceptions import AMQPError

from scheduler.broker.port import Broker, Consumer
from scheduler.broker.rabbitmq import confirms, connection, receiver, topology
from scheduler.broker.rabbitmq import consumer as consumer_module
from scheduler.broker.rabbitmq.consumer import RabbitConsumer
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable, DatabaseUnavailable
from scheduler.store.batches import BatchReference, Queue
from scheduler.store.database import create_database_engine
from tests.fixtures.events import logged_events
from tests.fixtures.ports import free_port
from tests.fixtures.rabbitmq_rig import RabbitRig
from tests.fixtures.tickets import add_ticket, enqueue_all
from tests.fixtures.waiting import wait_until
from tests.integration.broker_contract import LEASE, LONG, SHORT, consumer_of, drain, publish_all

QUEUE: Final = topology.queue_name(Channel.EMAIL, Priority.NORMAL)
SMS: Final = topology.queue_name(Channel.SMS, Priority.BULK)


def now() -> datetime:
    return SystemClock().now()


def holds(consumer: Consumer) -> bool:
    """Whether a reference has arrived that the consumer's thread has not taken."""
    assert isinstance(consumer, RabbitConsumer)
    return bool(consumer._receiver._waiting)


def test_workers_go_on_from_the_log_while_rabbitmq_is_away_and_say_so_once(rabbit: RabbitRig) -> None:
    for _ in range(20):
        add_ticket(rabbit.engine, now())
    enqueued = enqueue_all(rabbit.engine, now())
    with ExitStack() as stack, logged_events("consumer_") as events:
        consumer = consumer_of(rabbit.unreachable_broker(), stack)
        assert len(drain(rabbit.engine, consumer, now())) == len(enqueued)
        wait_until(lambda: len(events) > 1, "it has tried to connect again")
    assert [event.level for event in events if event.level != "DEBUG"] == ["WARNING"]


def test_what_a_busy_worker_holds_is_taken_from_the_log_by_an_idle_one(rabbit: RabbitRig) -> None:
    broker = rabbit.broker()
    with ExitStack() as stack:
        busy = consumer_of(broker, stack)
        add_ticket(rabbit.engine, now())
        publish_all(rabbit.engine, broker, now())
        wait_until(lambda: holds(busy), "the busy one holds it")
        idle = consumer_of(broker, stack)
        assert len(drain(rabbit.engine, idle, now(), timedelta(seconds=10))) == 1
        assert holds(busy)
        assert busy.receive(LEASE, SHORT) is None
    wait_until(lambda: rabbit.is_settled(QUEUE), "the busy one's copy is settled")


def test_a_critical_batch_that_a_busy_worker_holds_overtakes_the_backlog_of_another(
    rabbit: RabbitRig,
) -> None:
    broker = rabbit.broker()
    with ExitStack() as stack:
        busy = consumer_of(broker, stack)
        add_ticket(rabbit.engine, now(), priority=Priority.CRITICAL)
        [critical] = publish_all(rabbit.engine, broker, now())
        wait_until(lambda: holds(busy), "the busy one holds it")
        for _ in range(400):
            add_ticket(rabbit.engine, now(), priority=Priority.BULK)
        publish_all(rabbit.engine, broker, now())
        working = consumer_of(broker, stack)
        received = 0

        def delivers_the_critical_one() -> bool:
            nonlocal received
            delivery = working.receive(LEASE, LONG)
            assert delivery is not None
            delivery.settle()
            received += 1
            return delivery.batch.id == critical

        # With a pause after each of the backlog, so that it lasts.
        wait_until(delivers_the_critical_one, "the critical one is delivered")
        assert received < 300


def test_what_is_held_for_long_is_acknowledged_and_still_received(
    rabbit: RabbitRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ closes the channel of a consumer that keeps a message beyond its `consumer_timeout`."""
    monkeypatch.setattr(receiver, "_LONGEST_HOLD_SECONDS", 0.2)
    broker = rabbit.broker()
    add_ticket(rabbit.engine, now())
    publish_all(rabbit.engine, broker, now())
    with ExitStack() as stack:
        consumer = consumer_of(broker, stack)
        wait_until(lambda: holds(consumer), "the paused channel's batch is held")
        assert consumer.receive(LEASE, SHORT, [Channel.EMAIL]) is None
        wait_until(lambda: not holds(consumer), "it is let go")
        assert len(drain(rabbit.engine, consumer, now())) == 1
    wait_until(lambda: rabbit.is_settled(QUEUE), "it is acknowledged")


def test_without_the_database_what_has_arrived_is_kept(rabbit: RabbitRig) -> None:
    """RabbitMQ counts what is given back, and would dead-letter it after a short outage."""
    add_ticket(rabbit.engine, now())
    publish_all(rabbit.engine, rabbit.broker(), now())
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"
    rabbit.engine = create_database_engine(nowhere, pool_size=1, application_name="daybreak-tests")
    with ExitStack() as stack:
        consumer = consumer_of(rabbit.broker(), stack)
        wait_until(lambda: holds(consumer), "it has arrived")
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                consumer.receive(LEASE, LONG)
        assert holds(consumer)
    wait_until(lambda: rabbit.ready(QUEUE) == 1, "it is back in its queue")
    _, properties, _ = rabbit.admin.basic_get(QUEUE)
    assert properties is not None
    assert properties.headers == {"x-delivery-count": 1}


def test_a_publisher_that_is_blocked_says_so_and_what_was_confirmed_survives(rabbit: RabbitRig) -> None:
    """FAULTS 10: the alarm for memory, which is the one for the disk to a publisher."""
    broker = rabbit.broker()
    for _ in range(3):
        add_ticket(rabbit.engine, now())
    confirmed = publish_all(rabbit.engine, broker, now())
    add_ticket(rabbit.engine, now())
    blocked = enqueue_all(rabbit.engine, now())
    rabbit.node.control("set_vm_memory_high_watermark", "0.00001")
    try:
        with pytest.raises(BrokerUnavailable, match="short of memory or disk"):
            broker.publish(blocked)
        with ExitStack() as stack:
            consumer = consumer_of(broker, stack)
            received = [delivery.batch.id for delivery in drain(rabbit.engine, consumer, now())]
            # The log is the second way in: on a slow machine it has given what was blocked by now.
            if len(received) == len(confirmed):
                last = consumer.receive(LEASE, LONG)
                assert last is not None
                received.append(last.batch.id)
            assert sorted(received) == [*confirmed, blocked[0].id]
    finally:
        rabbit.node.control("set_vm_memory_high_watermark", "0.4")
    broker.publish(blocked)
    # What was refused while it was blocked may have been read after it: a refusal is an unknown outcome.
    assert rabbit.ready(QUEUE) in {1, 2}


def test_a_deleted_queue_is_noticed_and_declared_again(rabbit: RabbitRig) -> None:
    """FAULTS 11"""
    broker = rabbit.broker()
    add_ticket(rabbit.engine, now())
    references = enqueue_all(rabbit.engine, now())
    broker.publish(references)
    rabbit.admin.queue_delete(QUEUE)
    with pytest.raises(BrokerUnavailable, match="declared again"):
        broker.publish(references)
    broker.publish(references)
    assert rabbit.ready(QUEUE) == 1


def test_a_deleted_binding_is_noticed_and_bound_again(rabbit: RabbitRig) -> None:
    broker = rabbit.broker()
    add_ticket(rabbit.engine, now())
    references = enqueue_all(rabbit.engine, now())
    broker.publish(references)
    rabbit.admin.queue_unbind(QUEUE, topology.EXCHANGE, topology.routing_key(Channel.EMAIL, Priority.NORMAL))
    with pytest.raises(BrokerUnavailable, match="declared again"):
        broker.publish(references)
    broker.publish(references)
    assert rabbit.ready(QUEUE) == 2


def test_a_consumer_outlives_the_deletion_of_its_queue(rabbit: RabbitRig) -> None:
    broker = rabbit.broker()
    with ExitStack() as stack:
        consumer_of(broker, stack)
        wait_until(lambda: rabbit.consumers(QUEUE) == 1, "the consumer is connected")
        rabbit.admin.queue_delete(QUEUE)
        wait_until(lambda: rabbit.consumers(QUEUE) == 1, "the queue is there again, and consumed")


def test_a_delivery_slower_than_the_heartbeat_keeps_its_connection(
    rabbit: RabbitRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 12"""
    monkeypatch.setattr(connection, "_HEARTBEAT_SECONDS", 1)
    broker = rabbit.broker()
    add_ticket(rabbit.engine, now())
    publish_all(rabbit.engine, broker, now())
    with ExitStack() as stack, logged_events("consumer_") as events:
        delivery = consumer_of(broker, stack).receive(LEASE, LONG)
        assert delivery is not None
        wait_until_a_silent_connection_is_closed(rabbit.node.url)
        delivery.settle()
        assert rabbit.consumers(QUEUE) == 1
    assert [event.name for event in events] == ["consumer_connected"]
    wait_until(lambda: rabbit.is_settled(QUEUE), "it is settled")


def wait_until_a_silent_connection_is_closed(url: str) -> None:
    """Open a connection that sends no heartbeats, and wait until RabbitMQ has had enough of it."""
    silent = connection.connect(url, "silent")
    raw: socket.socket = silent._impl._transport._sock
    raw.settimeout(30)
    with suppress(ConnectionResetError):
        while raw.recv(4096):
            pass
    with suppress(AMQPError):
        silent.close()


def test_a_server_that_stands_still_holds_up_neither_publisher_nor_consumer_for_long(
    rabbit: RabbitRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirms, "_CONFIRM_SECONDS", 0.5)
    monkeypatch.setattr(receiver, "_CLOSE_SECONDS", 0.5)
    broker = rabbit.broker()
    add_ticket(rabbit.engine, now())
    references = enqueue_all(rabbit.engine, now())
    broker.publish([])
    consumer = broker.consumer("worker", [Channel.EMAIL])
    wait_until(lambda: rabbit.consumers(QUEUE) == 1, "the consumer is connected")
    rabbit.node.pause()
    try:
        with pytest.raises(BrokerUnavailable, match="did not confirm in time"):
            broker.publish(references)
        assert len(drain(rabbit.engine, consumer, now())) == 1
        consumer.close()
    finally:
        rabbit.node.resume()


def test_a_server_that_restarts_keeps_what_was_confirmed_and_is_reached_again(
    rabbit: RabbitRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_PATIENCE", timedelta(hours=1))
    broker = rabbit.broker()
    for _ in range(3):
        add_ticket(rabbit.engine, now())
    published = publish_all(rabbit.engine, broker, now())
    with ExitStack() as stack:
        consumer = consumer_of(broker, stack, [Channel.SMS])
        wait_until(lambda: rabbit.consumers(SMS) == 1, "the consumer is connected")
        rabbit.node.kill()
        rabbit.node.start()
        # A client is let in before every queue has found its leader again.
        confirmed = Queue(Channel.EMAIL, Priority.NORMAL), len(published)
        wait_until(lambda: confirmed in holding(broker).items(), "all that was confirmed is there")
        add_ticket(rabbit.engine, now(), channel=Channel.SMS)
        references = enqueue_all(rabbit.engine, now())
        wait_until(lambda: is_published(broker, references), "publishing again")
        delivery = consumer.receive(LEASE, LONG)
        assert delivery is not None
        assert delivery.batch.id == references[0].id


def holding(broker: Broker) -> Mapping[Queue, int]:
    with suppress(BrokerUnavailable):
        return broker.holding() or {}
    return {}


def is_published(broker: Broker, references: Sequence[BatchReference]) -> bool:
    try:
        broker.publish(references)
    except BrokerUnavailable:
        return False
    return True
