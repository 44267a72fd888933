"""The recovery job: whatever downtime swallowed is planned, enqueued again, or expired with a reason.

In this order, so that nothing is sent that should expire: plan the gap since the watermark, expire
what is past its lateness limit, make batches due again whose lease or enqueue deadline has lapsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, Engine

from scheduler.planner import Planner
from scheduler.store import batches, messages
from scheduler.store.database import in_transaction

_MOST_AT_ONCE: Final = 200


class Recover:
    """Makes downtime harmless; two recoveries at once do no more than one."""

    name = "recover"

    def __init__(self, engine: Engine, planner: Planner, enqueue_deadline: timedelta) -> None:
        self._engine = engine
        self._planner = planner
        self._enqueue_deadline = enqueue_deadline

    def run(self, now: datetime) -> Mapping[str, int]:
        """Recover; returns messages planned and expired, and leases and enqueued batches that lapsed.

        An occasion that cannot be planned keeps nothing else from being recovered; its error is raised
        in the end.
        """
        partitions = self._planner.create_partitions(now)
        counts = {"planned": 0, "partitions": partitions}
        try:
            # Half the horizon: a daily run that was on time has planned that far, a missed one has not.
            counts["planned"] = self._planner.catch_up(now).added
        finally:
            counts["expired"] = self._expire(now)
            lapsed = in_transaction(self._engine, lambda connection: self._lapse(connection, now))
            counts["lapsed_leases"], counts["lapsed_enqueued"] = lapsed
        return counts

    def _expire(self, now: datetime) -> int:
        total = 0
        while found := in_transaction(self._engine, lambda connection: self._expire_some(connection, now)):
            overdue, expired = found
            total += expired
            if overdue < _MOST_AT_ONCE:
                break
        return total

    def _expire_some(self, connection: Connection, now: datetime) -> tuple[int, int]:
        overdue = batches.expire_overdue(
            connection, now=now, lateness_limit=self._planner.policy.lateness_limit, most=_MOST_AT_ONCE
        )
        total = 0
        for batch in overdue:
            expired = messages.expire(connection, batch)
            batches.count_expired(connection, batch.id, expired)
            total += expired
        return len(overdue), total

    def _lapse(self, connection: Connection, now: datetime) -> tuple[int, int]:
        leases = batches.lapse_leases(connection, now=now)
        return leases, batches.lapse_enqueued(connection, now=now, deadline=self._enqueue_deadline)
