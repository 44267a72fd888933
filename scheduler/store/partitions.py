"""Monthly partitions of the message log, made ahead of need.

A partition holds the messages of one month of local dates. Planning asks for those it will write to
before it writes, so it never fails for lack of one.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection, text

from scheduler.store.locks import exclude_partition_creation

# Room for the two updates of each message, so that both are heap-only. Half a page is too little: each of them
# makes the row 8 bytes longer (`batch_id`, `accepted_at`), and 8% of the updates did not fit; at 44 all do.
_FILLFACTOR: Final = 44

# What this transaction itself has made may still be rolled back, so it is not to be remembered.
_EXISTING: Final = text("""
SELECT child.relname AS name,
       (link.xmin = CAST(pg_current_xact_id_if_assigned() AS xid)) IS NOT TRUE AS committed
FROM pg_inherits link JOIN pg_class child ON child.oid = link.inhrelid
WHERE link.inhparent = 'message_log'::regclass""")


class Partitions:
    """Knows which partitions exist, so that asking costs nothing once they do."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()

    def ensure(self, connection: Connection, first: date, last: date) -> int:
        """Make sure every local date from `first` through `last` has its partition; returns how many were made.

        They are made in the caller's transaction, which may write to them at once; whoever else needs
        new ones waits until it ends.
        """
        wanted = _months(first, last)
        if self._knows(wanted):
            return 0
        exclude_partition_creation(connection)
        rows = connection.execute(_EXISTING).all()
        self._known = frozenset(row.name for row in rows if row.committed)
        existing = {row.name for row in rows}
        missing = [month for month in wanted if _name(month) not in existing]
        for month in missing:
            _create(connection, month)
        return len(missing)

    def _knows(self, months: list[date]) -> bool:
        return self._known.issuperset(_name(month) for month in months)


def _create(connection: Connection, month: date) -> None:
    """Attach a table made beforehand: that locks the log less than creating a partition in place."""
    name, following = _name(month), _following(month)
    connection.execute(
        text(
            f"CREATE TABLE {name} (LIKE message_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
            f" WITH (fillfactor = {_FILLFACTOR})"
        )
    )
    connection.execute(
        text(
            f"ALTER TABLE message_log ATTACH PARTITION {name} FOR VALUES FROM ('{month}') TO ('{following}')"
        )
    )


def _months(first: date, last: date) -> list[date]:
    months = [first.replace(day=1)]
    while (following := _following(months[-1])) <= last:
        months.append(following)
    return months


def _following(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _name(month: date) -> str:
    return f"message_log_{month:%Y_%m}"
