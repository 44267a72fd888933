"""What this machine could do at most: the same requests, reads and writes with nothing of ours around them.

All of it runs on the database of the measurement, with its indexes, constraints and durability.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any, Final

import psycopg
from sqlalchemy import text

from scheduler.store.partitions import Partitions
from tests.bench.databases import Database
from tests.bench.measures import Drained
from tests.bench.processes import ROOT

_OF_BATCH: Final = """
user_id = ANY(%(user_ids)s) AND local_date = %(local_date)s AND occasion_id = %(occasion_id)s AND slot = 0
AND channel = 'email'"""
_LEASE: Final = """
UPDATE batches SET state = 'leased', lease_token = lease_token + 1, enqueued_at = %(now)s, lease_expires_at = %(now)s,
    leased_by = 'limit'
WHERE id = %(batch_id)s RETURNING user_ids, local_date, occasion_id"""
_CLAIM: Final = f"""
UPDATE message_log SET state = 'sending', batch_id = %(batch_id)s, attempt = attempt + 1
WHERE {_OF_BATCH} AND state = 'scheduled' RETURNING user_id, attempt, user_version"""
_READ: Final = """
SELECT id, version, external_id, first_name, last_name, email, phone, push_token, webhook_url, locale, timezone
FROM users WHERE id = ANY(%(user_ids)s)"""
_FINISH: Final = """
UPDATE batches SET state = 'done', lease_expires_at = NULL, finished_at = %(now)s, sent_count = 500
WHERE id = %(batch_id)s"""
_ACCEPT: Final = f"""
UPDATE message_log SET state = 'sent', accepted_at = %(now)s
WHERE {_OF_BATCH} AND state = 'sending' AND batch_id = %(batch_id)s"""

_COPY: Final = text("""
CREATE TABLE rows_to_plan AS
SELECT id AS user_id, timezone, version AS user_version, tenant_id FROM users ORDER BY timezone, id""")
_COPY_BATCHES: Final = text("""
CREATE TABLE batches_to_plan AS
SELECT array_agg(user_id ORDER BY user_id) AS user_ids
FROM (SELECT timezone, user_id, (row_number() OVER (PARTITION BY timezone ORDER BY user_id) - 1) / 500 AS chunk
      FROM rows_to_plan) AS numbered
GROUP BY timezone, chunk ORDER BY timezone, chunk""")
_INSERT: Final = text("""
INSERT INTO message_log (user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version, date_rule,
                         time_rule, slot, attempt, year, timezone)
SELECT user_id, CAST(:send_at AS timestamptz), :occasion_id, CAST(:local_date AS date), 'email', tenant_id, 'scheduled',
       user_version, 'exact', 'exact', 0, 0, NULL, timezone
FROM rows_to_plan""")
_INSERT_BATCHES: Final = text("""
INSERT INTO batches (tenant_id, occasion_id, local_date, slot, channel, priority, send_at, due_at, attempt, user_ids,
                     state, lease_token, sent_count, retried_count, dead_count, expired_count, cancelled_count,
                     created_at)
SELECT 1, :occasion_id, CAST(:local_date AS date), 0, 'email', 'normal', CAST(:send_at AS timestamptz),
       CAST(:send_at AS timestamptz), 0, user_ids, 'pending', 0, 0, 0, 0, 0, 0, CAST(:send_at AS timestamptz)
FROM batches_to_plan""")


def curl_drain(url: str, requests: int) -> Drained:
    """The rate of a bare libcurl multi loop with 64 in flight; it has no beginning and end to be told apart."""
    command = [sys.executable, "-m", "tests.bench.curl_loop", url, str(requests)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    rate = requests / float(printed)
    return Drained(steady=rate, whole=rate)


def sql_drain(database: Database, connections: int) -> Drained:
    """The rates of the reads, updates and commits that deliver batches, over some connections at once."""
    database.empty_log()
    planned = database.plan_due_at("limit", datetime.now(UTC) + timedelta(minutes=5))
    with database.engine.connect() as connection:
        batch_ids = list(connection.execute(text("SELECT id FROM batches ORDER BY id")).scalars())
    shares = [batch_ids[first::connections] for first in range(connections)]
    started = perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(lambda share: _drain(database.plain_url, share), shares))
    seconds = perf_counter() - started
    if database.sent() != planned:
        raise RuntimeError("the bare statements did not send everything")
    return Drained(steady=database.steady_rate(), whole=planned / seconds)


def _drain(url: str, batch_ids: Sequence[int]) -> None:
    with psycopg.connect(url, prepare_threshold=0) as connection:
        cursor = connection.cursor(binary=True)
        for batch_id in batch_ids:
            now = datetime.now(UTC)
            parameters: dict[str, Any] = {"batch_id": batch_id, "now": now}
            user_ids, local_date, occasion_id = cursor.execute(_LEASE, parameters).fetchall()[0]
            connection.commit()
            parameters |= {"user_ids": user_ids, "local_date": local_date, "occasion_id": occasion_id}
            cursor.execute(_CLAIM, parameters).fetchall()
            cursor.execute(_READ, parameters).fetchall()
            connection.commit()
            cursor.execute(_FINISH, parameters)
            cursor.execute(_ACCEPT, parameters)
            connection.commit()


def prepare_plan_limit(database: Database) -> None:
    """Put the messages and batches that planning would write in tables, in the order it writes them."""
    database.execute(_COPY)
    database.execute(_COPY_BATCHES)


def sql_plan_rate(database: Database, occasion_id: int, send_at: datetime) -> float:
    """Messages a second of `INSERT … SELECT` of what planning one occasion writes: its messages and their batches."""
    with database.engine.begin() as connection:
        Partitions().ensure(connection, send_at.date(), send_at.date())
    started = perf_counter()
    with database.engine.begin() as connection:
        parameters = {"occasion_id": occasion_id, "send_at": send_at, "local_date": send_at.date()}
        rows = connection.execute(_INSERT, parameters).rowcount
        connection.execute(_INSERT_BATCHES, parameters)
    return rows / (perf_counter() - started)
