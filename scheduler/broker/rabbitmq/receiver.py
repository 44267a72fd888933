"""A connection that receives batch references, in a thread that does nothing else.

It answers heartbeats however slow a delivery is, and holds at most one unacknowledged reference of each
queue for the delivering thread to choose from: by priority, so a million bulk messages ahead hold up nothing
critical. Acknowledgements are handed back to this thread (TRAPS: a channel used from two threads dies).
A reference that nobody takes for minutes is acknowledged: RabbitMQ closes the channel of a consumer that
keeps one for longer than its `consumer_timeout`, and the log has the batch (see `consumer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Condition, Event, Thread
from typing import Final

import pika
from loguru import logger
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from scheduler.broker.rabbitmq import topology
from scheduler.broker.rabbitmq.body import decode
from scheduler.broker.rabbitmq.connection import connect
from scheduler.clock import Clock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable, ConfigurationError, DaybreakError

_POLL_SECONDS: Final = 1.0
_LONGEST_HOLD_SECONDS: Final = 300.0
_FIRST_REST_SECONDS: Final = 0.5
_LONGEST_REST_SECONDS: Final = 15.0
_CLOSE_SECONDS: Final = 5.0
_URGENCY: Final = {priority: rank for rank, priority in enumerate(Priority)}


@dataclass(frozen=True, slots=True)
class Arrival:
    """An unacknowledged batch reference. `channel` is the AMQP channel it must be acknowledged on.

    `sent_by` is the channel its messages are sent by; `arrived_at` is the clock's monotonic time.
    """

    batch_id: int
    delivery_tag: int
    sent_by: Channel
    priority: Priority
    channel: BlockingChannel
    arrived_at: float


class Receiver(Thread):
    """Owns the connection: connects, consumes, acknowledges, and connects again with growing rests."""

    def __init__(self, url: str, name: str, channels: Collection[Channel], clock: Clock) -> None:
        super().__init__(name=f"rabbitmq-{name}", daemon=True)
        self._url = url
        self._connection_name = name
        self._queues = topology.queues_of(channels)
        self._clock = clock
        self._arrived = Condition()
        self._waiting: list[Arrival] = []
        self.is_cut_off = False
        """Whether the last thing that happened was a failure to connect, or the loss of the connection."""
        self._closing = Event()
        self._connection: pika.BlockingConnection | None = None
        self._rest_seconds = _FIRST_REST_SECONDS

    @property
    def queues(self) -> Sequence[str]:
        """The queues that are consumed."""
        return list(self._queues)

    def take(self, wait_seconds: float, paused: Collection[Channel] = ()) -> Arrival | None:
        """The most urgent reference that has arrived but those of `paused`; waits up to `wait_seconds` for one."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._urgent(paused), wait_seconds)
            if urgent := self._urgent(paused):
                self._waiting.remove(urgent)
            return urgent

    def keep(self, arrival: Arrival) -> None:
        """Hold what was taken for the next taker, first of its priority."""
        with self._arrived:
            self._waiting.insert(0, arrival)

    def acknowledge(self, arrival: Arrival) -> None:
        """Have the connection's thread acknowledge; nothing happens where its connection was lost since."""
        self._in_connection_thread(partial(_acknowledge, arrival))

    def close(self) -> None:
        """Close the connection and end the thread; what a broker that stands still is not told, it finds out."""
        self._closing.set()
        self._in_connection_thread(lambda: None)
        self.join(_CLOSE_SECONDS)

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
                channel.basic_consume(queue, partial(self._arrive, queue))
            self._connection = connection
            self._rest_seconds = _FIRST_REST_SECONDS
            self.is_cut_off = False
            logger.bind(queues=len(self._queues)).info("consumer_connected")
            # pika does not report by itself that only the channel was closed.
            while not self._closing.is_set() and channel.is_open:
                connection.process_data_events(_POLL_SECONDS)
                self._let_go()
            if not self._closing.is_set():
                raise BrokerUnavailable("RabbitMQ closed the channel")
        finally:
            self._connection = None
            if connection.is_open:
                connection.close()

    def _arrive(
        self,
        queue: str,
        channel: BlockingChannel,
        method: Basic.Deliver,
        _properties: BasicProperties,
        content: bytes,
    ) -> None:
        try:
            batch_id = decode(content).batch_id
        except ValueError:
            logger.bind(queue=queue).error("undecodable_message_rejected")
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        # By its queue: whoever moves references by hand does not keep the routing key.
        sent_by, priority = topology.parse_queue_name(queue)
        arrived_at = self._clock.monotonic()
        with self._arrived:
            self._waiting.append(
                Arrival(batch_id, method.delivery_tag, sent_by, priority, channel, arrived_at)
            )
            self._arrived.notify()

    def _let_go(self) -> None:
        """Acknowledge what has been held for long: its channel is paused, or its thread is busy."""
        oldest = self._clock.monotonic() - _LONGEST_HOLD_SECONDS
        with self._arrived:
            held_long = [arrival for arrival in self._waiting if arrival.arrived_at < oldest]
            self._waiting = [arrival for arrival in self._waiting if arrival.arrived_at >= oldest]
        for arrival in held_long:
            _acknowledge(arrival)

    def _urgent(self, paused: Collection[Channel]) -> Arrival | None:
        arrivals = (arrival for arrival in self._waiting if arrival.sent_by not in paused)
        return min(arrivals, key=lambda arrival: _URGENCY[arrival.priority], default=None)

    def _lose(self, error: Exception) -> None:
        """Forget what was held: it will be delivered again, to whoever is connected. Said once an outage."""
        cause = str(error) if isinstance(error, DaybreakError) else type(error).__name__
        severity = "ERROR" if isinstance(error, ConfigurationError) else "WARNING"
        logger.bind(cause=cause).log("DEBUG" if self.is_cut_off else severity, "consumer_disconnected")
        self.is_cut_off = True
        with self._arrived:
            self._waiting.clear()

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
