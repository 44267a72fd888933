"""What is declared in RabbitMQ: one place, so that declared queues and consumed queues are the same.

A direct exchange routes `channel.priority` to one durable quorum queue each. What a queue gives up,
because a batch was delivered too often or its body makes no sense, goes to the dead-letter exchange
and stays in its queue for an operator to look at; the batch itself lapses and is recovered by the log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from scheduler.broker.rabbitmq.connection import connect, unavailable
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable, ConfigurationError
from scheduler.store.batches import Queue

EXCHANGE: Final = "daybreak"
DEAD_LETTER_EXCHANGE: Final = "daybreak.dead"
DEAD_LETTER_QUEUE: Final = "daybreak.dead"

DELIVERY_LIMIT: Final = 20
"""How often a batch is delivered without being settled. RabbitMQ 4 has this default, 3.x has none."""

_PRECONDITION_FAILED: Final = 406


def queue_name(channel: Channel, priority: Priority) -> str:
    """The queue of the batches of one channel and priority."""
    return f"{EXCHANGE}.{routing_key(channel, priority)}"


def routing_key(channel: Channel, priority: Priority) -> str:
    """How a batch finds its queue."""
    return f"{channel}.{priority}"


def parse_queue_name(name: str) -> tuple[Channel, Priority]:
    """The channel and the priority that `queue_name` was made of."""
    channel, _, priority = name.removeprefix(f"{EXCHANGE}.").partition(".")
    return Channel(channel), Priority(priority)


def queues_of(channels: Collection[Channel]) -> dict[str, Priority]:
    """The queues that hold the batches of `channels`, each with its priority."""
    return {queue_name(channel, priority): priority for channel in channels for priority in Priority}


def declare(channel: BlockingChannel) -> None:
    """Declare everything, and thereby check what is there already.

    Raises ConfigurationError where a queue or exchange of the same name has other properties: that
    is for an operator to decide on, not for us to delete.
    """
    try:
        channel.exchange_declare(EXCHANGE, "direct", durable=True)
        channel.exchange_declare(DEAD_LETTER_EXCHANGE, "fanout", durable=True)
        channel.queue_declare(DEAD_LETTER_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE, routing_key="")
        for each in Channel:
            for priority in Priority:
                _declare_queue(channel, each, priority)
    except ChannelClosedByBroker as error:
        if error.reply_code != _PRECONDITION_FAILED:
            raise
        raise ConfigurationError(
            f"RabbitMQ has something under the same name that is not what Daybreak declares: {error.reply_text}; "
            "delete it (no message is lost: the log enqueues again), or use another virtual host"
        ) from error


@contextmanager
def declared(url: str, name: str) -> Iterator[BlockingChannel]:
    """A channel on a short-lived connection of its own, with everything declared. Raises BrokerUnavailable."""
    try:
        with connect(url, name) as connection:
            channel = connection.channel()
            declare(channel)
            yield channel
    except (AMQPError, OSError) as error:
        raise unavailable(error) from error
    except ConfigurationError as error:
        raise BrokerUnavailable(str(error)) from error


def counts(channel: BlockingChannel) -> Mapping[Queue, int]:
    """How many references each queue has that no consumer holds."""
    return {
        Queue(each, priority): channel.queue_declare(
            queue_name(each, priority), passive=True
        ).method.message_count
        for each in Channel
        for priority in Priority
    }


def _declare_queue(channel: BlockingChannel, each: Channel, priority: Priority) -> None:
    name = queue_name(each, priority)
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
    }
    channel.queue_declare(name, durable=True, arguments=arguments)
    channel.queue_bind(name, EXCHANGE, routing_key=routing_key(each, priority))
