"""RabbitMQ keeps the contract as well, on a real server; and what only a server of its own can do wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from sqlalchemy import Engine

from scheduler.broker.port import Broker
from scheduler.broker.rabbitmq import RabbitBroker, connection, topology
from scheduler.broker.rabbitmq.body import Body, decode, encode, new_traceparent
from scheduler.broker.rabbitmq.consumer import Receiver
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable, ConfigurationError
from scheduler.store import batches
from tests.fixtures.ports import free_port
from tests.fixtures.rabbitmq import RabbitNode, rabbitmq_nodes
from tests.fixtures.tickets import add_ticket, enqueue_all
from tests.fixtures.waiting import wait_until
from tests.integration.broker_contract import (
    LEASE,
    LONG,
    SHORT,
    BrokerContract,
    consumer_of,
    drain,
    lapse_and_publish,
    publish_all,
)

ALL_QUEUES = [*topology.queues_of(list(Channel)), topology.DEAD_LETTER_QUEUE]


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    with rabbitmq_nodes() as [node]:
        yield node


@pytest.fixture
def admin(node: RabbitNode) -> Iterator[BlockingChannel]:
    """A channel for looking at queues and breaking them; every test begins with empty ones."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    channel = connection.channel()
    topology.declare(channel)
    for queue in ALL_QUEUES:
        channel.queue_purge(queue)
    yield channel
    # Gone already, where the test was about a server that dies.
    with suppress(AMQPError):
        connection.close()


class RabbitRig:
    """RabbitMQ under the contract."""

    def __init__(self, url: str, engine: Engine, admin: BlockingChannel, stack: ExitStack) -> None:
        self._url = url
        self._engine = engine
        self._admin = admin
        self._stack = stack

    def broker(self) -> Broker:
        return self._at(self._url)

    def unreachable_broker(self) -> Broker:
        return self._at(f"amqp://guest:guest@127.0.0.1:{free_port()}/")

    def lose_everything(self) -> None:
        for queue in ALL_QUEUES:
            self._admin.queue_purge(queue)

    def _at(self, url: str) -> Broker:
        broker = RabbitBroker(url, self._engine, SystemClock())
        self._stack.callback(broker.close)
        return broker


@pytest.fixture
def rig(node: RabbitNode, engine: Engine, admin: BlockingChannel) -> Iterator[RabbitRig]:
    with ExitStack() as stack:
        yield RabbitRig(node.url, engine, admin, stack)


class TestRabbitContract(BrokerContract):
    pass


def messages_in(admin: BlockingChannel, queue: str) -> int:
    count: int = admin.queue_declare(queue, passive=True).method.message_count
    return count


def now() -> datetime:
    return SystemClock().now()


def test_declared_queues_are_the_consumed_queues(admin: BlockingChannel, node: RabbitNode) -> None:
    declared = set(node.control("list_queues", "name").split()) - {"name", topology.DEAD_LETTER_QUEUE}
    consumed = set(Receiver(node.url, "test", list(Channel)).queues)
    assert (
        declared
        == consumed
        == {f"daybreak.{channel}.{priority}" for channel in Channel for priority in Priority}
    )


def test_every_queue_is_durable_bounded_and_a_quorum(admin: BlockingChannel, node: RabbitNode) -> None:
    for line in node.control("list_queues", "name", "type", "durable", "arguments").splitlines()[1:]:
        name, kind, durable, arguments = line.split("\t")
        assert (kind, durable) == ("quorum", "true")
        if name != topology.DEAD_LETTER_QUEUE:
            assert '"x-delivery-limit"' in arguments
            assert '"x-dead-letter-exchange"' in arguments


def test_a_queue_that_is_not_ours_stops_the_start_with_advice(
    admin: BlockingChannel, node: RabbitNode
) -> None:
    name = topology.queue_name(Channel.SMS, Priority.BULK)
    admin.queue_delete(name)
    admin.queue_declare(name, durable=True)
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    try:
        with pytest.raises(ConfigurationError, match="delete it"):
            topology.declare(connection.channel())
    finally:
        connection.close()
        admin.queue_delete(name)
        topology.declare(admin)


def test_a_deleted_queue_is_noticed_and_declared_again(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel
) -> None:
    broker = rig.broker()
    add_ticket(engine, now())
    publish_all(engine, broker, now())
    admin.queue_delete(topology.queue_name(Channel.EMAIL, Priority.NORMAL))
    add_ticket(engine, now())
    references = enqueue_all(engine, now())
    with pytest.raises(BrokerUnavailable, match="declared again"):
        broker.publish(references)
    broker.publish(references)
    with ExitStack() as stack:
        assert len(drain(engine, consumer_of(broker, stack), now())) == 1


def test_a_consumer_outlives_the_deletion_of_its_queue(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel, node: RabbitNode
) -> None:
    broker = rig.broker()
    add_ticket(engine, now())
    publish_all(engine, broker, now())
    with ExitStack() as stack:
        consumer = consumer_of(broker, stack)
        assert len(drain(engine, consumer, now())) == 1
        admin.queue_delete(topology.queue_name(Channel.EMAIL, Priority.NORMAL))

        def is_declared_again() -> bool:
            with suppress(BrokerUnavailable):
                consumer.receive(LEASE, SHORT)
            return topology.queue_name(Channel.EMAIL, Priority.NORMAL) in node.control("list_queues", "name")

        wait_until(is_declared_again, "the queue is there again")
        add_ticket(engine, now())
        publish_all(engine, broker, now())
        assert len(drain(engine, consumer, now())) == 1


def test_a_consumer_of_a_queue_that_is_not_ours_says_so_and_goes_on_once_it_is_gone(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel
) -> None:
    name = topology.queue_name(Channel.SMS, Priority.BULK)
    admin.queue_delete(name)
    admin.queue_declare(name, durable=True)
    broker = rig.broker()
    add_ticket(engine, now())
    with ExitStack() as stack:
        consumer = consumer_of(broker, stack)
        with pytest.raises(BrokerUnavailable, match="delete it"):
            consumer.receive(LEASE, LONG)
        with pytest.raises(BrokerUnavailable, match="delete it"):
            broker.publish(enqueue_all(engine, now()))
        admin.queue_delete(name)
        assert len(lapse_and_publish(engine, broker, now())) == 1

        def received() -> bool:
            with suppress(BrokerUnavailable):
                return len(drain(engine, consumer, now(), SHORT)) == 1
            return False

        wait_until(received, "the consumer is connected")


def test_a_server_that_accepts_and_says_nothing_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_STACK_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            connection.connect(f"amqp://guest:guest@127.0.0.1:{port}/", "test")


def test_a_body_we_did_not_write_is_dead_lettered_and_the_others_flow(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel
) -> None:
    broker = rig.broker()
    poisons = (
        b"not json",
        b"{}",
        b'{"batch_id":"1","traceparent":"x"}',
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 200_000,
    )
    for poison in poisons:
        admin.basic_publish(topology.EXCHANGE, topology.routing_key(Channel.EMAIL, Priority.NORMAL), poison)
    add_ticket(engine, now())
    publish_all(engine, broker, now())
    with ExitStack() as stack:
        assert len(drain(engine, consumer_of(broker, stack), now())) == 1
    wait_until(
        lambda: messages_in(admin, topology.DEAD_LETTER_QUEUE) == len(poisons), "the poison is dead-lettered"
    )


def test_an_unknown_batch_is_acknowledged_and_forgotten(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel
) -> None:
    content = encode(Body(2**40, new_traceparent()))
    admin.basic_publish(topology.EXCHANGE, topology.routing_key(Channel.EMAIL, Priority.NORMAL), content)
    with ExitStack() as stack:
        assert consumer_of(rig.broker(), stack).receive(LEASE, timedelta(seconds=2)) is None
    assert messages_in(admin, topology.queue_name(Channel.EMAIL, Priority.NORMAL)) == 0


def test_a_settled_batch_leaves_its_queue_and_an_unsettled_one_stays(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel
) -> None:
    broker = rig.broker()
    for _ in range(2):
        add_ticket(engine, now())
    publish_all(engine, broker, now())
    consumer = broker.consumer("worker", [Channel.EMAIL])
    first, second = consumer.receive(LEASE, LONG), None
    assert first is not None
    first.settle()
    second = consumer.receive(LEASE, LONG)
    assert second is not None
    consumer.close()
    queue = topology.queue_name(Channel.EMAIL, Priority.NORMAL)
    wait_until(lambda: messages_in(admin, queue) == 1, "the unsettled batch is back")


def test_the_body_holds_the_batch_and_its_trace_and_nothing_else(
    rig: RabbitRig, engine: Engine, admin: BlockingChannel
) -> None:
    add_ticket(engine, now())
    [batch_id] = publish_all(engine, rig.broker(), now())
    queue = topology.queue_name(Channel.EMAIL, Priority.NORMAL)
    _, properties, content = admin.basic_get(queue, auto_ack=True)
    assert properties is not None
    assert content is not None
    assert decode(content).batch_id == batch_id
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert len(content) < 120


def test_a_server_that_restarts_keeps_what_was_confirmed_and_is_reached_again(
    engine: Engine, rig: RabbitRig, node: RabbitNode
) -> None:
    broker = rig.broker()
    for _ in range(3):
        add_ticket(engine, now())
    published = publish_all(engine, broker, now())
    consumer = broker.consumer("worker", [Channel.EMAIL])
    try:
        wait_until(lambda: consumer.receive(LEASE, SHORT) is not None, "the consumer is connected")
        node.kill()
        node.start()
        with engine.begin() as connection:
            batches.lapse_leases(connection, now=now() + 2 * LEASE)
        add_ticket(engine, now())

        def publish_again() -> bool:
            try:
                broker.publish(enqueue_all(engine, now() + timedelta(hours=1)))
            except BrokerUnavailable:
                return False
            return True

        wait_until(publish_again, "the publisher is connected again")
        received: set[int] = set()

        def receive() -> bool:
            try:
                delivery = consumer.receive(LEASE, SHORT)
            except BrokerUnavailable:
                return False
            if delivery is not None:
                received.add(delivery.batch.id)
                delivery.settle()
            return len(received) >= len(published)

        wait_until(receive, "everything confirmed before the crash arrives")
    finally:
        consumer.close()
