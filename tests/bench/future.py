"""A log full of messages that are not due for a long time, with the batches that will carry them.

Loaded past the planner, on two connections and before its indexes are built: what is measured is how the product does
with them, not how they came to be there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import Final

from sqlalchemy import text

from tests.bench.databases import Database

_BATCH: Final = 500
_CONNECTIONS: Final = 2

_CREATE: Final = """
CREATE TABLE filled_log (LIKE message_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CHECK (local_date IS NOT NULL AND local_date >= date '{first}' AND local_date < date '{following}'))
WITH (fillfactor = 44)"""
_FILL: Final = text("""
INSERT INTO filled_log (user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version, date_rule,
                        time_rule, slot, attempt, timezone)
SELECT id, :send_at, :occasion_id, :local_date, 'email', 1, 'scheduled', 1, 'exact', 'exact', 0, 0, timezone
FROM users ORDER BY id""")
_BATCHES: Final = text("""
INSERT INTO batches (tenant_id, occasion_id, local_date, slot, channel, priority, send_at, due_at, attempt, user_ids,
                     state, lease_token, sent_count, retried_count, dead_count, expired_count, cancelled_count,
                     created_at)
SELECT 1, :first_occasion + turn, :local_date, 0, 'email', 'normal', :send_at, :send_at, 0, g.user_ids, 'pending', 0,
       0, 0, 0, 0, 0, :now
FROM generate_series(1, :turns) AS turn
CROSS JOIN (SELECT array_agg(id) AS user_ids FROM (SELECT id, (row_number() OVER (ORDER BY id) - 1) / :size AS chunk
                                                   FROM users) AS numbered GROUP BY chunk) AS g""")
_FIRST_OCCASION: Final = 10_000_000
_KEY: Final = "filled_log_key"


def fill(database: Database, rows: int) -> int:
    """Add about `rows` messages of the users who are there, due tomorrow or later; returns how many messages.

    All lie in the partition of tomorrow, as the log of a month does.
    """
    users = int(database.scalar("SELECT count(*) FROM users"))
    local_date = datetime.now(UTC).date() + timedelta(days=1)
    first = local_date.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    turns = max(1, rows // users)
    due = {"local_date": local_date, "send_at": datetime.combine(local_date, time(23, 59), UTC)}
    database.execute(text(_CREATE.format(first=first, following=following)))
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        ids = range(_FIRST_OCCASION + 1, _FIRST_OCCASION + turns + 1)
        list(pool.map(lambda each: database.execute(_FILL, occasion_id=each, **due), ids))
        batched = due | {
            "turns": turns,
            "first_occasion": _FIRST_OCCASION,
            "now": datetime.now(UTC),
            "size": _BATCH,
        }
        work = [partial(_index, database), partial(database.execute, _BATCHES, **batched)]
        list(pool.map(lambda each: each(), work))
    _attach(database, f"message_log_{first:%Y_%m}", first.isoformat(), following.isoformat())
    for table in ("message_log", "batches"):
        database.vacuum(table)
    return turns * users


def _index(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
        connection.execute(
            text(
                f"CREATE UNIQUE INDEX {_KEY} ON filled_log (user_id, local_date, occasion_id, slot, channel)"
            )
        )
        connection.execute(text(f"ALTER TABLE filled_log ADD PRIMARY KEY USING INDEX {_KEY}"))


def _attach(database: Database, name: str, first: str, following: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        connection.execute(text(f"ALTER TABLE filled_log RENAME TO {name}"))
        connection.execute(
            text(
                f"ALTER TABLE message_log ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{following}')"
            )
        )
