"""What every peer's task does: one POST to the sink, one UPDATE of the row of its message.

The fastest customary clients: a libcurl handle and a psycopg connection kept by each thread, or one aiohttp
session and one asyncpg pool for each process. Sessions commit to the disk as ours do.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any, Final

DATABASE_URL: Final = os.environ["BENCH_DATABASE_URL"]
BROKER_URL: Final = os.environ["BENCH_BROKER_URL"]
SINK_URL: Final = os.environ["BENCH_SINK_URL"]
CONNECTIONS: Final = 8
"""Database connections of an asynchronous worker process."""

LOCAL_DATE: Final = date(2026, 1, 1)

_UPDATE: Final = """
UPDATE peer_messages SET state = 'sent', accepted_at = {accepted_at}
WHERE user_id = {user_id} AND local_date = '2026-01-01' AND occasion_id = 1 AND slot = 0 AND channel = 'email'
  AND state = 'sending'"""
_FOR_PSYCOPG: Final = _UPDATE.format(accepted_at="%s", user_id="%s")
_FOR_ASYNCPG: Final = _UPDATE.format(accepted_at="$1", user_id="$2")

_local = threading.local()


def arguments(user_id: int) -> dict[str, Any]:
    """What a task is given: all that is to be sent, so that it need not read anything."""
    return {
        "user_id": user_id,
        "to": f"user-{user_id}@example.com",
        "subject": "Happy birthday",
        "text": f"Hello, Ann Example {user_id}!",
    }


def deliver(user_id: int, to: str, subject: str, text: str) -> None:
    """Post the message and write that it was sent, from a thread."""
    if not hasattr(_local, "curl"):
        _prepare_thread()
    key, body = _request(user_id, to, subject, text)
    curl = _local.curl
    curl.setopt(_local.postfields, body)
    curl.setopt(_local.httpheader, ["Content-Type: application/json", f"Idempotency-Key: {key}"])
    curl.perform()
    if curl.getinfo(_local.response_code) != 200:
        raise RuntimeError("the sink refused a message")
    _local.connection.execute(_FOR_PSYCOPG, (datetime.now(UTC), user_id), prepare=True)


def _prepare_thread() -> None:
    import psycopg
    import pycurl

    _local.connection = psycopg.connect(DATABASE_URL, autocommit=True)
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, SINK_URL)
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.TCP_NODELAY, 1)
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.WRITEFUNCTION, BytesIO().write)
    _local.curl, _local.postfields, _local.httpheader = curl, pycurl.POSTFIELDS, pycurl.HTTPHEADER
    _local.response_code = pycurl.RESPONSE_CODE


class AsyncClients:
    """The session and the pool of one process; opened when they are first used, in the loop that uses them."""

    def __init__(self) -> None:
        self._opened: tuple[Any, Any] | None = None

    async def open(self) -> None:
        """Open them, once; before the first task, as two tasks would open them twice."""
        import aiohttp
        import asyncpg

        if self._opened is None:
            pool = await asyncpg.create_pool(DATABASE_URL, min_size=CONNECTIONS, max_size=CONNECTIONS)
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            self._opened = session, pool

    async def deliver(self, user_id: int, to: str, subject: str, text: str) -> None:
        """Post the message and write that it was sent."""
        assert self._opened is not None
        session, pool = self._opened
        key, body = _request(user_id, to, subject, text)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        async with session.post(SINK_URL, data=body, headers=headers) as answer:
            await answer.read()
            if answer.status != 200:
                raise RuntimeError("the sink refused a message")
        await pool.execute(_FOR_ASYNCPG, datetime.now(UTC), user_id)


def _request(user_id: int, to: str, subject: str, text: str) -> tuple[str, bytes]:
    key = f"1.{user_id}.20260101.0.email"
    content = {"id": key, "channel": "email", "to": to, "subject": subject, "text": text}
    return key, json.dumps(content).encode()
