"""The circuits of all worker processes, as those last told: for people to look at, nothing is decided by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.batch import first_queue
from scheduler.domain.occasion import Channel

_TELL: Final = text("""
INSERT INTO circuits AS known (process, provider, state, since, seen_at, openings, category)
SELECT :process, told.provider, told.state, told.since, :now, told.openings, told.category
FROM unnest(CAST(:providers AS text[]), CAST(:states AS text[]), CAST(:sinces AS timestamptz[]),
            CAST(:openings AS integer[]), CAST(:categories AS text[]))
    AS told (provider, state, since, openings, category)
ON CONFLICT (process, provider) DO UPDATE
SET state = excluded.state, since = excluded.since, seen_at = excluded.seen_at, openings = excluded.openings,
    category = excluded.category""")

_FORGET_PROCESS: Final = text("DELETE FROM circuits WHERE process = :process")

_FORGET_SILENT: Final = text("DELETE FROM circuits WHERE seen_at < :before")

_ALL: Final = text("""
SELECT process, provider, state, since, seen_at, openings, category FROM circuits ORDER BY provider, process""")

_WAITING_CHANNELS: Final = text("""
SELECT wanted.channel FROM unnest(CAST(:channels AS text[]), CAST(:queues AS smallint[])) AS wanted (channel, queue)
WHERE EXISTS (
    SELECT 1 FROM batches b
    WHERE b.state = 'enqueued' AND b.queue BETWEEN wanted.queue AND wanted.queue + 9
      AND b.enqueued_at < :enqueued_before
)""")


@dataclass(frozen=True, slots=True)
class StoredCircuit:
    """The circuit of one provider in one process. `since` is when it was last opened, or closed again."""

    process: str
    provider: str
    state: str
    since: datetime
    seen_at: datetime
    """When its process last told how it is; one that has died tells no more."""
    openings: int
    category: str | None
    """What opened it last; None: it never was."""


def tell(connection: Connection, circuits: Sequence[StoredCircuit], *, process: str, now: datetime) -> None:
    """Write how the circuits of one process are; their `process` and `seen_at` are those of the arguments."""
    connection.execute(
        _TELL,
        {
            "process": process,
            "now": now,
            "providers": [circuit.provider for circuit in circuits],
            "states": [circuit.state for circuit in circuits],
            "sinces": [circuit.since for circuit in circuits],
            "openings": [circuit.openings for circuit in circuits],
            "categories": [circuit.category for circuit in circuits],
        },
    )


def forget_process(connection: Connection, process: str) -> None:
    """Remove the circuits of a process that stops."""
    connection.execute(_FORGET_PROCESS, {"process": process})


def forget_silent(connection: Connection, *, before: datetime) -> int:
    """Remove the circuits of processes that were last heard of before `before`; returns how many."""
    return connection.execute(_FORGET_SILENT, {"before": before}).rowcount


def all_circuits(connection: Connection) -> list[StoredCircuit]:
    """Every circuit, by provider and process."""
    return [StoredCircuit(**row) for row in connection.execute(_ALL).mappings()]


def waiting_channels(
    connection: Connection, channels: Sequence[Channel], *, enqueued_before: datetime
) -> list[Channel]:
    """Which of the channels have batches that were enqueued before that instant, and that no worker has taken."""
    if not channels:
        return []
    parameters = {
        "channels": [channel.value for channel in channels],
        "queues": [first_queue(channel) for channel in channels],
        "enqueued_before": enqueued_before,
    }
    return [Channel(name) for name in connection.execute(_WAITING_CHANNELS, parameters).scalars()]
