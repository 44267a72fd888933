"""A log full of messages that are not due for a long time, with the batches that will carry them.

Loaded past the planner, before its index is built: what is measured is how the product does with them, not how
they came to be there.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final

from sqlalchemy import text

from tests.bench.databases import ZONES, Database

_BATCH: Final = 500

_CREATE: Final = """
CREATE TABLE {name} (LIKE message_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CHECK (local_date IS NOT NULL AND local_date >= date '{first}' AND local_date < date '{following}'))
WITH (fillfactor = 44)"""
_FILL: Final = text(
    """
INSERT INTO {name} (user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version, date_rule,
                    time_rule, slot, attempt, timezone)
SELECT u.id, :send_at, :first_occasion + turn, :local_date, 'email', 1, 'scheduled', 1, 'exact', 'exact', 0, 0,
       u.timezone
FROM generate_series(1, :turns) AS turn CROSS JOIN (SELECT id, timezone FROM users ORDER BY id) AS u""".replace(
        "{name}", "filled_log"
    )
)
_BATCHES: Final = text("""
INSERT INTO batches (tenant_id, occasion_id, local_date, slot, channel, priority, send_at, due_at, attempt, user_ids,
                     state, lease_token, sent_count, retried_count, dead_count, expired_count, cancelled_count,
                     created_at)
SELECT 1, :first_occasion + turn, :local_date, 0, 'email', 'normal', :send_at, :send_at, 0, g.user_ids, 'pending', 0,
       0, 0, 0, 0, 0, :now
FROM generate_series(1, :turns) AS turn
CROSS JOIN (SELECT array_agg(id) AS user_ids FROM (SELECT id, (row_number() OVER (ORDER BY id) - 1) / :size AS chunk
                                                   FROM users) AS numbered GROUP BY chunk) AS g""")


def fill(database: Database, rows: int, *, users: int) -> int:
    """Add `users` users and about `rows` messages of theirs, due tomorrow or later; returns how many messages.

    All lie in the partition of tomorrow, as the log of a month does.
    """
    database.add_users(users, zones=ZONES)
    local_date = datetime.now(UTC).date() + timedelta(days=1)
    first = local_date.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    turns = max(1, rows // users)
    parameters = {
        "turns": turns,
        "first_occasion": 10_000_000,
        "local_date": local_date,
        "send_at": datetime.combine(local_date, time(23, 59), UTC),
    }
    database.execute(text(_CREATE.format(name="filled_log", first=first, following=following)))
    database.execute(_FILL, **parameters)
    database.execute(
        text("ALTER TABLE filled_log ADD PRIMARY KEY (user_id, local_date, occasion_id, slot, channel)")
    )
    _attach(database, f"message_log_{first:%Y_%m}", first.isoformat(), following.isoformat())
    database.execute(_BATCHES, **parameters, now=datetime.now(UTC), size=_BATCH)
    for table in ("message_log", "batches"):
        database.vacuum(table)
    return turns * users


def _attach(database: Database, name: str, first: str, following: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        connection.execute(text(f"ALTER TABLE filled_log RENAME TO {name}"))
        connection.execute(
            text(
                f"ALTER TABLE message_log ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{following}')"
            )
        )
