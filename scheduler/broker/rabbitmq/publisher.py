"""Publish batch references, all confirmed by the broker before the next step believes in them.

A publish that raises may have arrived all the same (TRAPS); that is BrokerUnavailable, the batches
may be published again, and the second copy finds nothing to lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock, Thread
from typing import Final

import pika
from loguru import logger

from scheduler.broker.rabbitmq import body, topology
from scheduler.broker.rabbitmq.confirms import ConfirmedChannel
from scheduler.broker.rabbitmq.connection import nodes_of
from scheduler.errors import BrokerUnavailable
from scheduler.store.batches import BatchReference

_PERSISTENT: Final = pika.BasicProperties(content_type=body.CONTENT_TYPE, delivery_mode=2)
_MOST_UNDER_WAY: Final = 1_000
_CLOSE_SECONDS: Final = 5.0


class Publisher:
    """One connection for publishing, opened when it is first needed and again after it failed.

    May be called from any thread, one at a time. An empty publish opens the connection and keeps it.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._lock = Lock()
        self._channel: ConfirmedChannel | None = None

    def publish(self, batches: Sequence[BatchReference]) -> None:
        """Publish all of `batches`. Raises BrokerUnavailable where any of them may not have arrived."""
        with self._lock:
            try:
                channel = self._open()
                for start in range(0, len(batches), _MOST_UNDER_WAY):
                    channel.publish([_message(batch) for batch in batches[start : start + _MOST_UNDER_WAY]])
            except BrokerUnavailable:
                self._drop()
                raise

    def close(self) -> None:
        """Close the connection; a later publish opens it again."""
        with self._lock:
            closing = self._drop()
        if closing is not None:
            closing.join(_CLOSE_SECONDS)

    def _open(self) -> ConfirmedChannel:
        """The open channel; another one where the broker has closed it since, which lost nothing."""
        if self._channel is not None:
            try:
                self._channel.keep()
            except BrokerUnavailable as error:
                logger.bind(cause=str(error)).info("publisher_disconnected")
                self._drop()
        if self._channel is None:
            with topology.declared(self._url, self._name):
                pass
            self._channel = ConfirmedChannel(nodes_of(self._url, self._name), topology.EXCHANGE, _PERSISTENT)
            logger.info("publisher_connected")
        return self._channel

    def _drop(self) -> Thread | None:
        """Leave the channel to a thread that closes it: a broker that stands still may let it wait."""
        channel, self._channel = self._channel, None
        if channel is None:
            return None
        closing = Thread(target=channel.close, name="rabbitmq-publisher-closing", daemon=True)
        closing.start()
        return closing


def _message(batch: BatchReference) -> tuple[str, bytes]:
    content = body.encode(body.Body(batch.id, body.new_traceparent()))
    return topology.routing_key(batch.channel, batch.priority), content
