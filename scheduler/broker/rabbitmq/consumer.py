"""Receive batches from RabbitMQ, in a thread that does nothing else.

The connection lives in its own thread, which answers heartbeats however slow a delivery is, and holds
at most one unacknowledged batch of each queue for the delivering thread to choose from: by priority,
so a million bulk messages ahead hold up nothing critical. Acknowledgements are handed back to that
thread (TRAPS: a channel used from two threads dies).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Condition, Event, Thread
from typing import Final

import pika
from loguru import logger
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic, BasicProperties
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from scheduler.broker.rabbitmq import topology
from scheduler.broker.rabbitmq.body import decode
from scheduler.broker.rabbitmq.connection import connect
from scheduler.clock import Clock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable, DaybreakError
from scheduler.store import batches
from scheduler.store.batches import LeasedBatch
from scheduler.store.database import in_transaction

_POLL_SECONDS: Final = 1.0
_FIRST_REST_SECONDS: Final = 0.5
_LONGEST_REST_SECONDS: Final = 15.0
_URGENCY: Final = {priority: rank for rank, priority in enumerate(Priority)}


@dataclass(frozen=True, slots=True)
class Arrival:
    """An unacknowledged batch reference. `channel` is the AMQP channel it must be acknowledged on.

    `sent_by` is the channel its messages are sent by.
    """

    batch_id: int
    delivery_tag: int
    sent_by: Channel
    priority: Priority
    channel: BlockingChannel


@dataclass(frozen=True, slots=True)
class RabbitDelivery:
    """A leased batch, to be acknowledged when it is settled."""

    batch: LeasedBatch
    acknowledge: Callable[[], None]

    def settle(self) -> None:
        """Acknowledge; harmless where the connection was lost since: the redelivery finds nothing to lease."""
        self.acknowledge()


class RabbitConsumer:
    """One worker thread's consumer, with a connection thread of its own."""

    def __init__(
        self, url: str, engine: Engine, clock: Clock, worker: str, channels: Collection[Channel]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._worker = worker
        self._receiver = Receiver(url, worker, channels)
        self._receiver.start()

    def receive(
        self, lease_for: timedelta, wait: timedelta, paused: Collection[Channel] = ()
    ) -> RabbitDelivery | None:
        """See the port. Batches that need no delivery any more are acknowledged on the way.

        Of each queue of a paused channel, one batch may be held unacknowledged. Where that takes longer than
        RabbitMQ's `consumer_timeout` (30 minutes), it closes the channel and the consumer connects again.
        """
        until = self._clock.monotonic() + wait.total_seconds()
        while True:
            remaining = until - self._clock.monotonic()
            arrival = self._receiver.take(max(0.0, remaining), paused)
            if arrival is None:
                return None
            leased = self._lease(arrival, lease_for)
            acknowledge = partial(self._receiver.acknowledge, arrival)
            if leased is not None:
                return RabbitDelivery(leased, acknowledge)
            acknowledge()

    def close(self) -> None:
        """Close the connection; what was not settled is delivered again."""
        self._receiver.close()

    def _lease(self, arrival: Arrival, lease_for: timedelta) -> LeasedBatch | None:
        def work(connection: Connection) -> LeasedBatch | None:
            expires_at = self._clock.now() + lease_for
            return batches.lease(connection, arrival.batch_id, worker=self._worker, expires_at=expires_at)

        try:
            return in_transaction(self._engine, work)
        except DBAPIError as error:
            self._receiver.give_back(arrival)
            raise DatabaseUnavailable("PostgreSQL does not answer") from error


class Receiver(Thread):
    """Owns the connection: connects, consumes, acknowledges, and connects again with growing rests."""

    def __init__(self, url: str, name: str, channels: Collection[Channel]) -> None:
        super().__init__(name=f"rabbitmq-{name}", daemon=True)
        self._url = url
        self._connection_name = name
        self._queues = topology.queues_of(channels)
        self._arrived = Condition()
        self._waiting: list[Arrival] = []
        self._failure: BrokerUnavailable | None = None
        self._closing = Event()
        self._connection: pika.BlockingConnection | None = None
        self._rest_seconds = _FIRST_REST_SECONDS

    @property
    def queues(self) -> Sequence[str]:
        """The queues that are consumed."""
        return list(self._queues)

    def take(self, wait_seconds: float, paused: Collection[Channel] = ()) -> Arrival | None:
        """The most urgent batch that has arrived, within `wait_seconds`. Raises BrokerUnavailable while cut off."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._urgent(paused) or self._failure, wait_seconds)
            if urgent := self._urgent(paused):
                self._waiting.remove(urgent)
                return urgent
            if self._failure is not None:
                raise self._failure
            return None

    def _urgent(self, paused: Collection[Channel]) -> Arrival | None:
        arrivals = (arrival for arrival in self._waiting if arrival.sent_by not in paused)
        return min(arrivals, key=lambda arrival: _URGENCY[arrival.priority], default=None)

    def acknowledge(self, arrival: Arrival) -> None:
        """Have the connection's thread acknowledge."""
        self._in_connection_thread(partial(_acknowledge, arrival))

    def give_back(self, arrival: Arrival) -> None:
        """Have the connection's thread return the batch to its queue."""
        self._in_connection_thread(partial(_give_back, arrival))

    def close(self) -> None:
        """Close the connection and end the thread."""
        self._closing.set()
        self._in_connection_thread(lambda: None)
        self.join()

    def run(self) -> None:
        """Consume until closed."""
        while not self._closing.is_set():
            try:
                self._consume()
            except (AMQPError, OSError, BrokerUnavailable, ConfigurationError) as error:
                self._lose(error)
            except Exception as error:
                # A worker whose connection thread is gone would wait for ever and say nothing.
                logger.exception("consumer_failed")
                self._lose(error)
            self._closing.wait(self._rest_seconds)
            self._rest_seconds = min(_LONGEST_REST_SECONDS, self._rest_seconds * 2)

    def _consume(self) -> None:
        connection = connect(self._url, self._connection_name)
        try:
            channel = connection.channel()
            topology.declare(channel)
            # Of each consumer, so of each queue.
            channel.basic_qos(prefetch_count=1)
            channel.add_on_cancel_callback(_lose_queue)
            for queue in self._queues:
                channel.basic_consume(queue, self._arrive)
            self._connection = connection
            self._rest_seconds = _FIRST_REST_SECONDS
            with self._arrived:
                self._failure = None
            logger.bind(queues=len(self._queues)).info("consumer_connected")
            # pika does not report by itself that only the channel was closed.
            while not self._closing.is_set() and channel.is_open:
                connection.process_data_events(_POLL_SECONDS)
            if not self._closing.is_set():
                raise BrokerUnavailable("RabbitMQ closed the channel")
        finally:
            self._connection = None
            if connection.is_open:
                connection.close()

    def _arrive(
        self, channel: BlockingChannel, method: Basic.Deliver, _properties: BasicProperties, content: bytes
    ) -> None:
        try:
            batch_id = decode(content).batch_id
        except ValueError:
            logger.bind(queue=method.routing_key).error("undecodable_message_rejected")
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        sent_by, priority = topology.parse_routing_key(method.routing_key)
        with self._arrived:
            self._waiting.append(Arrival(batch_id, method.delivery_tag, sent_by, priority, channel))
            self._arrived.notify()

    def _lose(self, error: Exception) -> None:
        """What was held will be delivered again, to whoever is connected."""
        logger.bind(cause=type(error).__name__).warning("consumer_disconnected")
        with self._arrived:
            self._waiting.clear()
            self._failure = (
                BrokerUnavailable(str(error))
                if isinstance(error, DaybreakError)
                else BrokerUnavailable(f"RabbitMQ does not answer ({type(error).__name__})")
            )
            self._arrived.notify_all()

    def _in_connection_thread(self, work: Callable[[], None]) -> None:
        connection = self._connection
        if connection is not None:
            try:
                connection.add_callback_threadsafe(work)
            except AMQPError:
                logger.debug("connection_gone_before_settling")


def _lose_queue(cancelled: Method[Basic.Cancel]) -> None:
    """The broker consumes for us no more, most likely because the queue was deleted: begin anew, and declare it.

    The connection and its channel stay open, so nothing else would tell.
    """
    raise BrokerUnavailable(f"RabbitMQ cancelled the consumer {cancelled.method.consumer_tag}")


def _acknowledge(arrival: Arrival) -> None:
    if arrival.channel.is_open:
        arrival.channel.basic_ack(arrival.delivery_tag)


def _give_back(arrival: Arrival) -> None:
    if arrival.channel.is_open:
        arrival.channel.basic_nack(arrival.delivery_tag, requeue=True)
