"""pgqueuer. Its manual: asyncpg, large batches for dequeuing and for its own log, uvloop, a process for each core."""

from __future__ import annotations

import asyncio
import json
import signal

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.bench.peers import work


async def _run() -> None:
    """The worker. Not by `pgq run`, whose command line fails on its own default of the log level in 1.6.0."""
    clients = work.AsyncClients()
    await clients.open()
    queuer = PgQueuer.from_asyncpg_connection(await asyncpg.connect(work.DATABASE_URL))

    @queuer.entrypoint("deliver")
    async def deliver(job: Job) -> None:
        await clients.deliver(**json.loads(job.payload or b"{}"))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, queuer.shutdown.set)
    await queuer.run(batch_size=250)


def install() -> None:
    """Create its tables where they are missing."""
    asyncio.run(_install())


async def _install() -> None:
    connection = await asyncpg.connect(work.DATABASE_URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


def enqueue(first: int, count: int) -> None:
    """Insert the jobs of these users at once."""
    asyncio.run(_enqueue(first, count))


async def _enqueue(first: int, count: int) -> None:
    connection = await asyncpg.connect(work.DATABASE_URL)
    payloads = [json.dumps(work.arguments(user_id)).encode() for user_id in range(first, first + count)]
    await Queries(AsyncpgDriver(connection)).enqueue(["deliver"] * count, payloads, [0] * count)
    await connection.close()


if __name__ == "__main__":
    uvloop.run(_run())
