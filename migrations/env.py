"""How Alembic runs here: one transaction, one migrator at a time, and never waiting long for a table.

A second migrator waits for the first. A migration that cannot lock a table soon gives up rather than
queueing every reader behind itself.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "15min"
MIGRATION_LOCK = (20_260_101, 1)
"""Advisory lock (class, object) held while migrating, so that two deploys cannot interleave."""


def run(connection: Connection) -> None:
    """Apply what is asked for to this connection's database."""
    context.configure(connection=connection, transaction_per_migration=False)
    with context.begin_transaction():
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
        # Another migrator is waited for, however long it takes; only then is no lock of a table.
        connection.execute(text("SELECT pg_advisory_xact_lock(:class, :object)"), _lock_parameters())
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        context.run_migrations()


def _lock_parameters() -> dict[str, int]:
    lock_class, lock_object = MIGRATION_LOCK
    return {"class": lock_class, "object": lock_object}


run(context.config.attributes["connection"])
