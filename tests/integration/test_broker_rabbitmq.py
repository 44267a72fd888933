"""RabbitMQ keeps the contract as well, on a real server; what it declares, and what it makes of strange messages."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Final

import pika
import pytest
from sqlalchemy import Engine

from scheduler.broker.rabbitmq import connection, consumer, topology
from scheduler.broker.rabbitmq.body import Body, decode, encode, new_traceparent
from scheduler.broker.rabbitmq.receiver import Receiver
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable, ConfigurationError
from tests.fixtures.events import logged_events
from tests.fixtures.rabbitmq_rig import RabbitRig, unreachable_url
from tests.fixtures.tickets import add_ticket, enqueue_all
from tests.fixtures.waiting import wait_until
from tests.integration.broker_contract import (
    LEASE,
    LONG,
    BrokerContract,
    consumer_of,
    drain,
    publish_all,
)

KEY: Final = topology.routing_key(Channel.EMAIL, Priority.NORMAL)
QUEUE: Final = topology.queue_name(Channel.EMAIL, Priority.NORMAL)
TAKEN_FROM_THE_LOG: Final = {
    "test_what_was_never_published_is_received_all_the_same",
    "test_losing_all_that_the_broker_holds_loses_no_batch",
    "test_a_publication_that_fails_holds_up_nobody",
}


class TestRabbitContract(BrokerContract):
    @pytest.fixture(autouse=True)
    def patience(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """What can come by RabbitMQ must come by it, and not from the log."""
        if request.node.name not in TAKEN_FROM_THE_LOG:
            monkeypatch.setattr(consumer, "_PATIENCE", timedelta(hours=1))

    @pytest.fixture
    def rig(self, rabbit: RabbitRig) -> RabbitRig:
        return rabbit


def now() -> datetime:
    return SystemClock().now()


def test_declared_queues_are_the_consumed_queues(rabbit: RabbitRig) -> None:
    listing = rabbit.node.control("list_queues", "--no-table-headers", "name")
    declared = set(listing.split()) - {topology.DEAD_LETTER_QUEUE}
    consumed = set(Receiver(rabbit.node.url, "test", list(Channel), SystemClock()).queues)
    assert (
        declared
        == consumed
        == {f"daybreak.{channel}.{priority}" for channel in Channel for priority in Priority}
    )


def test_every_queue_is_durable_bounded_and_a_quorum(rabbit: RabbitRig) -> None:
    columns = ("name", "type", "durable", "auto_delete", "arguments")
    for line in rabbit.node.control("list_queues", "--no-table-headers", *columns).splitlines():
        name, *kind, arguments = line.split("\t")
        assert kind == ["quorum", "true", "false"]
        if name != topology.DEAD_LETTER_QUEUE:
            assert '"x-delivery-limit"' in arguments
            assert '"x-dead-letter-exchange"' in arguments


def test_a_queue_that_is_not_ours_stops_the_start_with_advice(rabbit: RabbitRig) -> None:
    name = topology.queue_name(Channel.SMS, Priority.BULK)
    rabbit.admin.queue_delete(name)
    rabbit.admin.queue_declare(name, durable=True)
    try:
        with (
            pika.BlockingConnection(pika.URLParameters(rabbit.node.url)) as other,
            pytest.raises(ConfigurationError, match="delete it"),
        ):
            topology.declare(other.channel())
        with pytest.raises(BrokerUnavailable, match="delete it"):
            rabbit.broker().holding()
    finally:
        rabbit.admin.queue_delete(name)
        topology.declare(rabbit.admin)


def test_a_consumer_of_a_queue_that_is_not_ours_says_so_and_goes_on_from_the_log(rabbit: RabbitRig) -> None:
    name = topology.queue_name(Channel.SMS, Priority.BULK)
    rabbit.admin.queue_delete(name)
    rabbit.admin.queue_declare(name, durable=True)
    broker = rabbit.broker()
    add_ticket(rabbit.engine, now())
    with ExitStack() as stack, logged_events("consumer_") as events:
        receiving = consumer_of(broker, stack)
        with pytest.raises(BrokerUnavailable, match="delete it"):
            broker.publish(enqueue_all(rabbit.engine, now()))
        assert len(drain(rabbit.engine, receiving, now())) == 1
        rabbit.admin.queue_delete(name)
        wait_until(lambda: events[-1:] and events[-1].name == "consumer_connected", "it is connected")
    said = [event for event in events if event.level != "DEBUG"]
    assert [(event.name, event.level) for event in said] == [
        ("consumer_disconnected", "ERROR"),
        ("consumer_connected", "INFO"),
    ]
    assert "delete it" in said[0].fields["cause"]


def test_a_server_that_accepts_and_says_nothing_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_STACK_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            connection.connect(f"amqp://guest:guest@127.0.0.1:{port}/", "test")


def test_whichever_node_of_a_cluster_answers_will_do(rabbit: RabbitRig) -> None:
    url = f"{unreachable_url()},{rabbit.node.url},{unreachable_url()}"
    broker = rabbit.broker_at(url)
    add_ticket(rabbit.engine, now())
    publish_all(rabbit.engine, broker, now())
    assert broker.holding() == rabbit.broker().holding()
    with ExitStack() as stack:
        assert len(drain(rabbit.engine, consumer_of(broker, stack), now())) == 1
    ports = {connection.nodes_of(url, "test")[0].port for _ in range(100)}
    assert len(ports) == 3


def test_a_body_we_did_not_write_is_dead_lettered_and_the_others_flow(
    rabbit: RabbitRig, engine: Engine
) -> None:
    broker = rabbit.broker()
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
        rabbit.admin.basic_publish(topology.EXCHANGE, KEY, poison)
    add_ticket(engine, now())
    publish_all(engine, broker, now())
    with ExitStack() as stack:
        assert len(drain(engine, consumer_of(broker, stack), now())) == 1
    wait_until(
        lambda: rabbit.ready(topology.DEAD_LETTER_QUEUE) == len(poisons), "the poison is dead-lettered"
    )


def test_an_unknown_batch_is_acknowledged_and_forgotten(rabbit: RabbitRig, engine: Engine) -> None:
    content = encode(Body(2**40, new_traceparent()))
    rabbit.admin.basic_publish(topology.EXCHANGE, KEY, content)
    with ExitStack() as stack:
        assert consumer_of(rabbit.broker(), stack).receive(LEASE, timedelta(seconds=2)) is None
    assert rabbit.ready(QUEUE) == 0


def test_a_settled_batch_leaves_its_queue_and_an_unsettled_one_stays(
    rabbit: RabbitRig, engine: Engine
) -> None:
    broker = rabbit.broker()
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
    wait_until(lambda: rabbit.ready(QUEUE) == 1, "the unsettled batch is back")


def test_the_body_holds_the_batch_and_its_trace_and_nothing_else(rabbit: RabbitRig, engine: Engine) -> None:
    add_ticket(engine, now())
    [batch_id] = publish_all(engine, rabbit.broker(), now())
    _, properties, content = rabbit.admin.basic_get(QUEUE, auto_ack=True)
    assert properties is not None
    assert content is not None
    assert decode(content).batch_id == batch_id
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert len(content) < 120


def test_a_message_that_nobody_ever_settles_is_dead_lettered_in_the_end(rabbit: RabbitRig) -> None:
    """FAULTS 13: what kills every worker that receives it, before the log can count it."""
    rabbit.admin.basic_publish(topology.EXCHANGE, KEY, encode(Body(1, new_traceparent())))

    def is_given_up() -> bool:
        received, _, _ = rabbit.admin.basic_get(QUEUE)
        if received is not None:
            rabbit.admin.basic_nack(received.delivery_tag, requeue=True)
        return rabbit.ready(topology.DEAD_LETTER_QUEUE) == 1

    wait_until(is_given_up, "it is dead-lettered")
    assert rabbit.ready(QUEUE) == 0
