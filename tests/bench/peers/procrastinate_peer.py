"""procrastinate. Its manual: asynchronous tasks with a high concurrency, finished jobs deleted, a worker for each
core.
"""

from __future__ import annotations

import asyncio

import uvloop
from procrastinate import App, PsycopgConnector

from tests.bench.peers import work

app = App(connector=PsycopgConnector(conninfo=work.DATABASE_URL, min_size=4, max_size=20))
clients = work.AsyncClients()


@app.task(name="deliver")
async def deliver(user_id: int, to: str, subject: str, text: str) -> None:
    """Deliver one message."""
    await clients.deliver(user_id, to, subject, text)


def install() -> None:
    """Create its tables."""
    asyncio.run(_install())


async def _install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def enqueue(first: int, count: int) -> None:
    """Insert the jobs of these users, a thousand at a time."""
    asyncio.run(_enqueue(first, count))


async def _enqueue(first: int, count: int) -> None:
    async with app.open_async():
        for start in range(first, first + count, 1000):
            users = range(start, min(start + 1000, first + count))
            await deliver.batch_defer_async(*(work.arguments(user_id) for user_id in users))


async def _run() -> None:
    await clients.open()
    async with app.open_async():
        await app.run_worker_async(concurrency=20, delete_jobs="successful", fetch_job_polling_interval=1.0)


if __name__ == "__main__":
    uvloop.run(_run())
