"""The recovery job: whatever downtime swallowed is planned, enqueued again, or expired with a reason.

In this order, so that nothing is sent that should expire: finish what an edit of an occasion has begun to
replan, plan the gap since the watermark, expire what is past its lateness limit, make batches due again whose
lease has lapsed, or whom the broker has lost: more of a queue's batches have waited for longer than the enqueue
deadline than the broker holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.broker.port import Broker
from scheduler.callbacks import apply_waiting
from scheduler.errors import BrokerUnavailable
from scheduler.occasion_edits import OccasionEdits
from scheduler.planner import Planner
from scheduler.store import batches, endings
from scheduler.store.batch_queries import count_waiting
from scheduler.store.batches import Queue
from scheduler.store.database import in_transaction

_MOST_AT_ONCE: Final = 200


class Recover:
    """Makes downtime harmless; two recoveries at once do no more than one."""

    name = "recover"

    def __init__(self, engine: Engine, planner: Planner, broker: Broker, enqueue_deadline: timedelta) -> None:
        self._engine = engine
        self._planner = planner
        self._edits = OccasionEdits(engine, planner)
        self._broker = broker
        self._enqueue_deadline = enqueue_deadline

    def run(self, now: datetime) -> Mapping[str, int]:
        """Recover; returns messages planned and expired, leases that lapsed, batches that are to be published
        again, and providers' reports that had come before the worker's own word.

        An occasion that cannot be planned keeps nothing else from being recovered; its error is raised
        in the end.
        """
        partitions = self._planner.create_partitions(now)
        counts = {"planned": 0, "partitions": partitions}
        try:
            self._edits.finish()
            # Half the horizon: a daily run that was on time has planned that far, a missed one has not.
            counts["planned"] = self._planner.catch_up(now).added
        finally:
            counts["expired"] = self._expire(now)
            counts["lapsed_leases"] = in_transaction(
                self._engine, lambda connection: batches.lapse_leases(connection, now=now)
            )
            counts["lapsed_enqueued"] = sum(self._lapse_enqueued(queue, now) for queue in self._lost(now))
            counts["events_applied"] = in_transaction(
                self._engine, lambda connection: apply_waiting(connection, now)
            )
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
            ended = endings.end_late(connection, batch, now=now)
            batches.count(connection, batch.id, ended)
            total += ended.expired
        return len(overdue), total

    def _lost(self, now: datetime) -> list[Queue]:
        """The queues of which the broker holds fewer batches than have waited for long.

        Workers find these batches in the log one by one; publishing them again spares them the search.
        """
        with self._engine.connect() as connection:
            waiting = count_waiting(connection, enqueued_before=now - self._enqueue_deadline)
        try:
            holding = self._broker.holding() if waiting else None
        except BrokerUnavailable as error:
            logger.bind(cause=str(error)).warning("broker_not_asked")
            return []
        if holding is None:
            return []
        return [queue for queue, count in waiting.items() if holding.get(queue, 0) < count]

    def _lapse_enqueued(self, queue: Queue, now: datetime) -> int:
        def work(connection: Connection) -> int:
            return batches.lapse_enqueued(connection, queue, now=now, deadline=self._enqueue_deadline)

        return in_transaction(self._engine, work)
