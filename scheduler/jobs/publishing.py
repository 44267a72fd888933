"""Publish what is committed as enqueued, and go on without the broker while it is away.

The log is the truth: workers take from it what a broker does not name. So a publish that fails holds nobody
up; it is tried again with growing rests, and whatever still waits then is published late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from loguru import logger
from sqlalchemy import Engine

from scheduler.broker.port import Broker
from scheduler.errors import BrokerUnavailable
from scheduler.store.batch_queries import enqueued_since
from scheduler.store.batches import BatchReference

_FIRST_REST: Final = timedelta(seconds=5)
_LONGEST_REST: Final = timedelta(seconds=60)
_MOST_PUBLISHED_LATE: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Outage:
    """Since when nothing arrives, and when to try again after which rest."""

    since: datetime
    rest: timedelta
    try_at: datetime


class Publishing:
    """A broker, as far as it is there; remembers an outage for as long as the process lives.

    What it forgets by its death is found by workers in the log, or published again by the recovery.
    """

    def __init__(self, engine: Engine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._outage: _Outage | None = None

    def publish(self, references: Sequence[BatchReference], now: datetime) -> bool:
        """Publish batches that were enqueued at `now`; whether all have arrived. An outage is not asked again at once.

        To be called every second or so, with no batches if need be: that keeps the connection, and ends an outage.
        """
        if self._outage is not None and now < self._outage.try_at:
            return False
        waiting = references if self._outage is None else self._waiting(self._outage)
        try:
            self._broker.publish(waiting)
        except BrokerUnavailable as error:
            self._note(error, now, waiting)
            return False
        if self._outage is not None:
            logger.bind(batches=len(waiting)).info("publishing_again")
            self._outage = None
        return True

    def _waiting(self, outage: _Outage) -> list[BatchReference]:
        """What was enqueued since the outage began, and no worker has found in the log yet."""
        with self._engine.connect() as connection:
            return enqueued_since(connection, since=outage.since, most=_MOST_PUBLISHED_LATE)

    def _note(self, error: BrokerUnavailable, now: datetime, waiting: Sequence[BatchReference]) -> None:
        if self._outage is None:
            since, rest = now, _FIRST_REST
        else:
            since, rest = self._outage.since, min(_LONGEST_REST, 2 * self._outage.rest)
        self._outage = _Outage(since, rest, now + rest)
        logger.bind(batches=len(waiting), cause=str(error)).warning("publish_failed")
