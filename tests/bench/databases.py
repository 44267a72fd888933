"""Databases for measuring in: made-up users in great numbers, occasions for them, and the log planned by the product.

Users are inserted by one statement, past the register: how fast it is, is measured elsewhere (`make load`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from sqlalchemy import Engine, make_url, text

from deploy.embedded import EmbeddedServer
from scheduler.domain.occasion import Occasion, OnceRule
from scheduler.planner import Planner, PlanningPolicy
from scheduler.store import migrate, occasions
from scheduler.store.database import create_database_engine
from tests.fixtures.occasions import an_occasion

LATENESS_LIMIT: Final = timedelta(hours=25)
HORIZON: Final = timedelta(hours=48)

ZONES: Final = (
    "America/New_York",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Africa/Lagos",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Sydney",
)

_USERS: Final = text("""
INSERT INTO users (tenant_id, external_id, first_name, last_name, email, timezone, locale, preferred_time, attributes,
                   version, created_at, updated_at)
SELECT 1, 'user-' || lpad(n::text, 8, '0'), 'Ann', 'Example ' || n, 'user-' || n || '@example.com',
       (CAST(:zones AS text[]))[1 + n % cardinality(CAST(:zones AS text[]))], 'en',
       CASE WHEN :per_second > 0 THEN CAST(:first_time AS time) + make_interval(secs => n / :per_second) END,
       '{}', 1, :now, :now
FROM generate_series(0, :count - 1) AS n""")

_STEADY: Final = text("""
WITH ends AS (SELECT percentile_disc(0.1) WITHIN GROUP (ORDER BY accepted_at) AS began,
                     percentile_disc(0.9) WITHIN GROUP (ORDER BY accepted_at) AS ended FROM message_log)
SELECT began, ended, count(*) FILTER (WHERE accepted_at > began AND accepted_at <= ended)
FROM ends CROSS JOIN message_log GROUP BY began, ended""")


@dataclass(frozen=True, slots=True)
class Database:
    """One migrated database of the run's server, and planning in it."""

    url: str
    engine: Engine
    planner: Planner
    server: EmbeddedServer

    @property
    def plain_url(self) -> str:
        """The address as libpq and its like read it."""
        return make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)

    def add_users(
        self,
        count: int,
        *,
        zones: tuple[str, ...] = ("Etc/UTC",),
        first_time: time | None = None,
        per_second: int = 0,
    ) -> None:
        """Add users; with `per_second`, that many prefer each second from `first_time` on."""
        parameters = {
            "count": count,
            "zones": list(zones),
            "first_time": first_time or time(0),
            "per_second": per_second,
            "now": datetime.now(UTC),
        }
        self.execute(_USERS, **parameters)
        self.vacuum("users")

    def add_occasion(self, key: str, on: date, at: time, *, honours_preferred_time: bool = False) -> Occasion:
        """An occasion that everyone celebrates once, at that local time."""
        occasion = an_occasion(
            key=key,
            name=key,
            rule=OnceRule(on),
            local_times=(at,),
            honours_preferred_time=honours_preferred_time,
            body="Hello, {{ full_name }}!",
        )
        with self.engine.begin() as connection:
            occasions.add(connection, occasion, now=datetime.now(UTC))
        return occasion

    def plan_due_at(self, key: str, instant: datetime) -> int:
        """Plan one message for every user in UTC, due at that instant; returns how many."""
        self.add_occasion(key, instant.date(), instant.time())
        now = datetime.now(UTC)
        planned = self.planner.plan(now=now, through=max(now, instant) + timedelta(minutes=1))
        return planned.added

    def empty_log(self) -> None:
        """Forget all messages, batches and occasions.

        A checkpoint keeps the segments of PostgreSQL's log to be written over, as a server that has run for a while
        does: one that is new is written full of zeros first, which holds up all commits for 20 to 100 ms.
        """
        self.execute(text("TRUNCATE message_log, batches, delivery_attempts, dead_letters"))
        self.execute(text("DELETE FROM occasions"))
        with self.server.access.administrate() as administrator:
            administrator.execute("CHECKPOINT")

    def unfinished_batches(self) -> int:
        """Batches that somebody is still to deliver."""
        return int(self.scalar("SELECT count(*) FROM batches WHERE state <> 'done'"))

    def sent(self) -> int:
        """Messages that the log says were sent."""
        return int(self.scalar("SELECT count(*) FROM message_log WHERE state = 'sent'"))

    def steady_rate(self) -> float:
        """Messages a second in the middle of a drain, by when the log says that they were accepted.

        From when a tenth was accepted to when nine tenths were, as peers are measured: `measures.steady_rate`.
        Raises ValueError where too few were sent to tell.
        """
        with self.engine.connect() as connection:
            began, ended, accepted = connection.execute(_STEADY).one()
        if not accepted:
            raise ValueError("too few messages to tell a rate")
        return float(accepted / (ended - began).total_seconds())

    def scalar(self, statement: str) -> Any:
        """The one value a query answers."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement)).scalar_one()

    def execute(self, statement: Any, **parameters: Any) -> None:
        """Run a statement in a transaction."""
        with self.engine.begin() as connection:
            connection.execute(statement, parameters)

    def vacuum(self, table: str) -> None:
        """VACUUM ANALYZE, as autovacuum will have done before long; at full speed."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM (ANALYZE, BUFFER_USAGE_LIMIT 0) {table}"))


@contextmanager
def database(server: EmbeddedServer, name: str) -> Iterator[Database]:
    """A migrated database without occasions, dropped at the end."""
    url = server.create_database(name)
    engine = create_database_engine(url, pool_size=6, application_name="daybreak-bench")
    try:
        migrate.upgrade(engine)
        made = Database(
            url, engine, Planner(engine, PlanningPolicy(HORIZON, LATENESS_LIMIT, slices_at_once=2)), server
        )
        made.empty_log()
        yield made
    finally:
        engine.dispose()
        server.drop_database(name)
