"""Celery. Its manual (Optimizing): a high prefetch multiplier for short tasks, no results and no events. Of its pools
threads were fastest here, in a worker for each core: three times prefork with 2, 4 and 8 processes.
"""

from __future__ import annotations

import os

from celery import Celery

from tests.bench.peers import work

app = Celery("celery_peer", broker=work.BROKER_URL)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue=os.environ.get("BENCH_QUEUE", "celery-peer"),
    task_compression=None,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="deliver")
def deliver(**message: object) -> None:
    """Deliver one message."""
    work.deliver(**message)


def enqueue(first: int, count: int) -> None:
    """Publish the messages of these users over one connection."""
    with app.producer_or_acquire() as producer:
        for user_id in range(first, first + count):
            deliver.apply_async(kwargs=work.arguments(user_id), producer=producer)
