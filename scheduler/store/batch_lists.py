"""Batches for people: in each state in the order that matters there, page by page, by an index of that state.

The channel is compared with what is read, at most `ROWS_EXAMINED` batches for a page. So a page with rare matches may
be short, even empty, and still name a place to go on from: only a page without one is the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, RowMapping, TextClause, text

from scheduler.domain.batch import BatchState
from scheduler.domain.occasion import Channel, Priority

ROWS_EXAMINED: Final = 10_000

_COLUMNS: Final = """
    id, CAST(state AS text) AS state, held, occasion_id, local_date, slot, CAST(channel AS text) AS channel,
    CAST(priority AS text) AS priority, send_at, due_at, enqueued_at, lease_expires_at, leased_by, lease_token,
    finished_at, created_at, attempt, max_attempts, provider, message_count AS messages, sent_count,
    retried_count, dead_count, expired_count, cancelled_count"""


class BatchList(StrEnum):
    """The lists there are: one for each state, and one for what waits for its occasion to resume."""

    PENDING = "pending"
    HELD = "held"
    ENQUEUED = "enqueued"
    LEASED = "leased"
    DONE = "done"


class _Order(NamedTuple):
    """Which batches a list has, by what they are sorted, and which way."""

    condition: str
    column: str
    is_descending: bool = False


# As the partial indexes have them. What is done is shown newest first, all else in the order of its turn.
_ORDERS: Final[Mapping[BatchList, _Order]] = {
    BatchList.PENDING: _Order("state = 'pending' AND NOT held", "due_at"),
    BatchList.HELD: _Order("held", "send_at"),
    BatchList.ENQUEUED: _Order("state = 'enqueued'", "enqueued_at"),
    BatchList.LEASED: _Order("state = 'leased'", "lease_expires_at"),
    BatchList.DONE: _Order("state = 'done'", "finished_at", is_descending=True),
}

_CONDITIONS: Final[Mapping[str, str]] = {
    "occasion_id": "occasion_id = :occasion_id",
    "channel": "channel = CAST(:channel AS channel)",
}

_FIND: Final = text(f"SELECT {_COLUMNS} FROM batches WHERE id = :id AND tenant_id = :tenant_id")

_USERS: Final = text("SELECT user_ids FROM batches WHERE id = :id AND tenant_id = :tenant_id")


class After(NamedTuple):
    """A place in a list: behind the batch of this instant and id."""

    instant: datetime
    id: int


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch as stored, without its recipients; the counts are of messages, under all leases together."""

    id: int
    state: BatchState
    held: bool
    occasion_id: int
    local_date: date
    slot: int
    channel: Channel
    priority: Priority
    send_at: datetime
    due_at: datetime
    enqueued_at: datetime | None
    lease_expires_at: datetime | None
    leased_by: str | None
    lease_token: int
    finished_at: datetime | None
    created_at: datetime
    attempt: int
    max_attempts: int | None
    provider: str | None
    """To which its messages may have been given at its latest claim."""
    messages: int
    sent_count: int
    retried_count: int
    dead_count: int
    expired_count: int
    cancelled_count: int

    def place_in(self, wanted: BatchList) -> After:
        """Its place in a list."""
        return After(getattr(self, _ORDERS[wanted].column), self.id)


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """Which batches of a list; None: any."""

    occasion_id: int | None = None
    channel: Channel | None = None


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Batches of a list, and behind which of them the next page begins; None: there is none."""

    batches: list[StoredBatch]
    next: After | None


def page(
    connection: Connection,
    tenant_id: int,
    which: BatchList,
    wanted: BatchFilter,
    *,
    after: After | None,
    most: int,
) -> BatchPage:
    """Up to `most` batches of a list; it may hold fewer although there are more."""
    names = tuple(name for name in _CONDITIONS if getattr(wanted, name) is not None)
    parameters: dict[str, Any] = {name: getattr(wanted, name) for name in names}
    parameters |= {"tenant_id": tenant_id, "most": most + 1}
    if wanted.channel is not None:
        parameters["examined"] = ROWS_EXAMINED
    if after is not None:
        parameters |= {"after_instant": after.instant, "after_id": after.id}
    statement = _page_statement(which, names, after is not None)
    rows = connection.execute(statement, parameters).mappings().all()
    found = [_batch(row) for row in rows if row["matches"]]
    if len(found) > most:
        return BatchPage(found[:most], found[most - 1].place_in(which))
    cut_short = bool(rows) and rows[-1]["ordinal"] == ROWS_EXAMINED
    return BatchPage(found, _batch(rows[-1]).place_in(which) if cut_short else None)


def find(connection: Connection, tenant_id: int, batch_id: int) -> StoredBatch | None:
    """A batch by its id."""
    row = connection.execute(_FIND, {"id": batch_id, "tenant_id": tenant_id}).mappings().one_or_none()
    return None if row is None else _batch(row)


def user_ids(connection: Connection, tenant_id: int, batch_id: int) -> list[int]:
    """Whose messages a batch was made for; some may have moved on to other batches since."""
    found = connection.execute(_USERS, {"id": batch_id, "tenant_id": tenant_id}).scalar_one_or_none()
    return list(found or ())


@cache
def _page_statement(which: BatchList, names: tuple[str, ...], continues: bool) -> TextClause:
    condition, column, is_descending = _ORDERS[which]
    direction, beyond = ("DESC", "<") if is_descending else ("ASC", ">")
    order = f"{column} {direction}, id {direction}"
    narrowed = ["tenant_id = :tenant_id", condition]
    if "occasion_id" in names:
        narrowed.append(_CONDITIONS["occasion_id"])
    if continues:
        place = "(CAST(:after_instant AS timestamptz), CAST(:after_id AS bigint))"
        narrowed.append(f"({column}, id) {beyond} {place}")
    listed = f"SELECT * FROM batches WHERE {' AND '.join(narrowed)} ORDER BY {order} LIMIT"
    if "channel" not in names:
        return text(f"""
SELECT {_COLUMNS}, 0 AS ordinal, true AS matches FROM ({listed} :most) AS listed ORDER BY {order}""")
    return text(f"""
SELECT {_COLUMNS}, ordinal, matches
FROM (
    SELECT *, {_CONDITIONS["channel"]} AS matches, row_number() OVER (ORDER BY {order}) AS ordinal
    FROM ({listed} :examined) AS examined
) AS compared
WHERE matches OR ordinal = :examined
ORDER BY {order} LIMIT :most""")


def _batch(row: RowMapping) -> StoredBatch:
    kinds: dict[str, Any] = {
        "state": BatchState(row["state"]),
        "channel": Channel(row["channel"]),
        "priority": Priority(row["priority"]),
    }
    columns = {name: value for name, value in row.items() if name not in ("ordinal", "matches")}
    return StoredBatch(**columns | kinds)
