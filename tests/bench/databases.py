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


@dataclass(frozen=True, slots=True)
class Database:
    """One migrated database of the run's server, and planning in it."""

    url: str
    engine: Engine
    planner: Planner

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
        """Forget all messages, batches and occasions."""
        self.execute(text("TRUNCATE message_log, batches, delivery_attempts, dead_letters"))
        self.execute(text("DELETE FROM occasions"))

    def unfinished_batches(self) -> int:
        """Batches that somebody is still to deliver."""
        return int(self.scalar("SELECT count(*) FROM batches WHERE state <> 'done'"))

    def sent(self) -> int:
        """Messages that the log says were sent."""
        return int(self.scalar("SELECT count(*) FROM message_log WHERE state = 'sent'"))

    def scalar(self, statement: str) -> Any:
        """The one value a query answers."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement)).scalar_one()

    def execute(self, statement: Any, **parameters: Any) -> None:
        """Run a statement in a transaction."""
        with self.engine.begin() as connection:
            connection.execute(statement, parameters)

    def vacuum(self, table: str) -> None:
        """VACUUM ANALYZE, as autovacuum will have done before long."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM ANALYZE {table}"))


@contextmanager
def database(server: EmbeddedServer, name: str) -> Iterator[Database]:
    """A migrated database without occasions, dropped at the end."""
    url = server.create_database(name)
    engine = create_database_engine(url, pool_size=6, application_name="daybreak-bench")
    try:
        migrate.upgrade(engine)
        made = Database(url, engine, Planner(engine, PlanningPolicy(HORIZON, LATENESS_LIMIT)))
        made.empty_log()
        yield made
    finally:
        engine.dispose()
        server.drop_database(name)
