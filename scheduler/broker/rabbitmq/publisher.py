"""Publish batch references, each confirmed by the broker before the next step believes in it.

A publish that raises may have arrived all the same (TRAPS); that is BrokerUnavailable, the batches
are published again, and the second copy finds nothing to lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Final

import pika
from loguru import logger
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, NackError, UnroutableError

from scheduler.broker.rabbitmq import body, topology
from scheduler.broker.rabbitmq.connection import connect
from scheduler.errors import BrokerUnavailable, ConfigurationError
from scheduler.store.batches import BatchReference

_PERSISTENT: Final = pika.BasicProperties(content_type=body.CONTENT_TYPE, delivery_mode=2)


class Publisher:
    """One connection for publishing, opened when it is first needed and again after it failed.

    May be called from any thread, one at a time. An empty publish keeps the connection's heartbeat.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._lock = Lock()
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None

    def publish(self, batches: Sequence[BatchReference]) -> None:
        """Publish all of `batches`. Raises BrokerUnavailable where any of them may not have arrived."""
        with self._lock:
            try:
                if batches or self._channel is not None:
                    self._publish(self._open(), batches)
            except (AMQPError, OSError) as error:
                self._drop()
                raise BrokerUnavailable(f"RabbitMQ did not confirm ({_cause(error)})") from error
            except ConfigurationError as error:
                self._drop()
                raise BrokerUnavailable(str(error)) from error

    def close(self) -> None:
        """Close the connection; a later publish opens it again."""
        with self._lock:
            self._drop()

    def _publish(self, channel: BlockingChannel, batches: Sequence[BatchReference]) -> None:
        channel.connection.process_data_events(0)
        for batch in batches:
            content = body.encode(body.Body(batch.id, body.new_traceparent()))
            key = topology.routing_key(batch.channel, batch.priority)
            channel.basic_publish(topology.EXCHANGE, key, content, _PERSISTENT, mandatory=True)

    def _open(self) -> BlockingChannel:
        if self._channel is None or not self._channel.is_open:
            self._drop()
            self._connection = connect(self._url, self._name)
            self._channel = self._connection.channel()
            topology.declare(self._channel)
            self._channel.confirm_delivery()
            logger.info("publisher_connected")
        return self._channel

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except (AMQPError, OSError) as error:
                logger.bind(cause=type(error).__name__).debug("publisher_close_failed")


def _cause(error: Exception) -> str:
    """What went wrong; a queue that is gone is declared again by the next publish."""
    match error:
        case UnroutableError():
            return "no queue took it; it is declared again"
        case NackError():
            return "it was refused"
        case _:
            return type(error).__name__
