"""dramatiq. Its manual (Optimization): a process for each core with threads, a high prefetch, no more middleware than
is used.
"""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Retries, ShutdownNotifications

from tests.bench.peers import work

broker = RabbitmqBroker(url=work.BROKER_URL, middleware=[ShutdownNotifications(), Retries()])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="dramatiq-peer")
def deliver(user_id: int, to: str, subject: str, text: str) -> None:
    """Deliver one message."""
    work.deliver(user_id, to, subject, text)


def enqueue(first: int, count: int) -> None:
    """Publish the messages of these users."""
    for user_id in range(first, first + count):
        deliver.send(**work.arguments(user_id))
    broker.close()
