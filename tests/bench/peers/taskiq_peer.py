"""taskiq over aio-pika. Its manual: a worker process for each core, many asynchronous tasks in each, and a
prefetch to match.
"""

from __future__ import annotations

import asyncio

from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Queue

from tests.bench.peers import work

broker = AioPikaBroker(work.BROKER_URL, qos=256, task_queues=[Queue(name="taskiq-peer")])
clients = work.AsyncClients()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_clients(_state: TaskiqState) -> None:
    """Connect before the first task."""
    await clients.open()


@broker.task(task_name="deliver")
async def deliver(user_id: int, to: str, subject: str, text: str) -> None:
    """Deliver one message."""
    await clients.deliver(user_id, to, subject, text)


def enqueue(first: int, count: int) -> None:
    """Publish the messages of these users, some hundreds at a time."""
    asyncio.run(_enqueue(first, count))


async def _enqueue(first: int, count: int) -> None:
    await broker.startup()
    for start in range(first, first + count, 200):
        users = range(start, min(start + 200, first + count))
        await asyncio.gather(*(deliver.kiq(**work.arguments(user_id)) for user_id in users))
    await broker.shutdown()
