"""The broker port on RabbitMQ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import Engine

from scheduler.broker.rabbitmq import topology
from scheduler.broker.rabbitmq.consumer import RabbitConsumer
from scheduler.broker.rabbitmq.publisher import Publisher
from scheduler.clock import Clock
from scheduler.domain.occasion import Channel
from scheduler.store.batches import BatchReference, Queue

_NAME: Final = "daybreak-scheduler"


class RabbitBroker:
    """Publishes and receives batch references through RabbitMQ; leases are taken in the log.

    `url` may list the nodes of a cluster, with commas between them.
    """

    def __init__(self, url: str, engine: Engine, clock: Clock) -> None:
        self._url = url
        self._engine = engine
        self._clock = clock
        self._publisher = Publisher(url, _NAME)

    def publish(self, batches: Sequence[BatchReference]) -> None:
        """See the port."""
        self._publisher.publish(batches)

    def consumer(self, worker: str, channels: Collection[Channel]) -> RabbitConsumer:
        """See the port."""
        return RabbitConsumer(self._url, self._engine, self._clock, worker, channels)

    def holding(self) -> Mapping[Queue, int]:
        """See the port."""
        with topology.declared(self._url, _NAME) as channel:
            return topology.counts(channel)

    def close(self) -> None:
        """Close the publisher's connection."""
        self._publisher.close()
