"""The broker port on RabbitMQ."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Engine

from scheduler.broker.rabbitmq.consumer import RabbitConsumer
from scheduler.broker.rabbitmq.publisher import Publisher
from scheduler.clock import Clock
from scheduler.domain.occasion import Channel
from scheduler.store.batches import BatchReference


class RabbitBroker:
    """Publishes and receives batch references through RabbitMQ; leases are taken in the log."""

    def __init__(self, url: str, engine: Engine, clock: Clock) -> None:
        self._url = url
        self._engine = engine
        self._clock = clock
        self._publisher = Publisher(url, "daybreak-scheduler")

    def publish(self, batches: Sequence[BatchReference]) -> None:
        """See the port."""
        self._publisher.publish(batches)

    def consumer(self, worker: str, channels: Collection[Channel]) -> RabbitConsumer:
        """See the port."""
        return RabbitConsumer(self._url, self._engine, self._clock, worker, channels)

    def close(self) -> None:
        """Close the publisher's connection."""
        self._publisher.close()
