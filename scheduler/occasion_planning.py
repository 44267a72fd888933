"""Plan one occasion for everyone, from its watermark on, in slices of an hour.

In turn, a slice and the watermark that passes it are one transaction. Side by side, slices are written ahead of the
watermark, each in a transaction of its own, and it follows as far as all are in. No transaction waits for another one
where PostgreSQL does not see it, so that none can lock up with an edit in between.

What lies ahead of the watermark harms nothing: planned again, it is found to be there; edits look as far as plans have
written (`ahead_through`); and a worker sends no message of an older version of its user (`scheduler/planner.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.domain.calendar import Moment, moments
from scheduler.domain.occasion import Occasion
from scheduler.domain.planning_window import Slice, slices
from scheduler.store import bulk_planning, locks, occasions, users, watermarks
from scheduler.store.database import in_transaction
from scheduler.store.partitions import Partitions
from scheduler.store.planning import Planned
from scheduler.threads import threads

_STRETCH: Final = timedelta(days=3)

GoOn = Callable[[], bool]
"""Whether to begin another piece of a long piece of work."""


def always() -> bool:
    """Go on to the end."""
    return True


class Overtaken(Exception):
    """Somebody else has planned or edited the occasion."""


class OccasionPlanning:
    """Plans occasions of one database forward; where several slices go side by side, each takes a connection."""

    def __init__(
        self, engine: Engine, partitions: Partitions, *, batch_size: int, slices_at_once: int
    ) -> None:
        self._engine = engine
        self._partitions = partitions
        self._batch_size = batch_size
        self._slices_at_once = slices_at_once

    def plan(self, occasion: Occasion, now: datetime, through: datetime, go_on: GoOn = always) -> Planned:
        """Plan from the watermark (without one, from `now`) up to `through`, for as long as it may `go_on`.

        Where somebody else plans the occasion as well, or edits it, the rest is planned as it is then. Returns what it
        has written before its own watermark.
        """
        total = Planned()
        with closing(self._planned(occasion, now, through)) as all_planned:
            for planned in all_planned:
                total += planned
                if not go_on():
                    return total
        if total.added or total.already_there:
            logger.bind(occasion=occasion.key, added=total.added, already_there=total.already_there).info(
                "occasion_planned"
            )
        return total

    def _planned(
        self, occasion: Occasion, now: datetime, through: datetime
    ) -> Generator[Planned, None, None]:
        """What each slice has added; nothing where the rest is to be planned by the occasion as it is then."""
        planned_slices = self._in_turn if self._slices_at_once == 1 else self._side_by_side
        current: Occasion | None = occasion
        while current is not None:
            try:
                yield from planned_slices(current, now, through)
            except Overtaken:
                logger.bind(occasion=occasion.key).info("planning_overtaken")
                yield Planned()
                current = self._as_it_is_now(occasion.id)
            else:
                return

    def _as_it_is_now(self, occasion_id: int) -> Occasion | None:
        """None: there is nothing to plan any more."""
        with self._engine.connect() as connection:
            found = occasions.by_id(connection, [occasion_id]).get(occasion_id)
        return found if found is not None and found.active else None

    def _in_turn(
        self, occasion: Occasion, now: datetime, through: datetime
    ) -> Generator[Planned, None, None]:
        def work(connection: Connection, piece: Slice) -> tuple[Occasion, Planned]:
            advanced = _advance(connection, occasion, piece.ends)
            return advanced, self._write(connection, occasion, piece, now)

        for stretch in self._stretches(occasion, now, through):
            for piece in stretch:
                occasion, planned = in_transaction(self._engine, partial(work, piece=piece))
                yield planned

    def _side_by_side(
        self, occasion: Occasion, now: datetime, through: datetime
    ) -> Generator[Planned, None, None]:
        if occasion.planned_through is not None and occasion.planned_through >= through:
            return
        begun = in_transaction(
            self._engine, partial(_begin_ahead, occasion=occasion, through=through, now=now)
        )
        advanced = begun

        def work(connection: Connection, piece: Slice) -> Planned:
            locks.share_planning(connection, begun.tenant_id)
            if not watermarks.is_ahead(connection, begun, piece.ends):
                raise Overtaken
            return self._write(connection, begun, piece, now)

        for stretch in self._stretches(begun, now, through):
            with threads(self._slices_at_once, "plan") as executor:
                writing = [
                    executor.submit(in_transaction, self._engine, partial(work, piece=piece))
                    for piece in stretch
                ]
                for piece, written in zip(stretch, writing, strict=True):
                    planned = written.result()
                    advanced = in_transaction(
                        self._engine, partial(_advance, occasion=advanced, through=piece.ends)
                    )
                    yield planned

    def _stretches(self, occasion: Occasion, now: datetime, through: datetime) -> Iterator[list[Slice]]:
        """The window in pieces of a few days, so that months of downtime are not held in memory at once."""
        with self._engine.connect() as connection:
            zone_times = users.zone_times(connection, occasion.tenant_id)
        starts = occasion.planned_through or now
        while starts < through:
            ends = min(through, starts + _STRETCH)
            found = moments(occasion, zone_times, starts, ends)
            self._ensure_partitions(found)
            yield list(slices(found, ends))
            starts = ends

    def _ensure_partitions(self, found: Sequence[Moment]) -> None:
        local_dates = [moment.local_date for moment in found]
        if local_dates:
            in_transaction(
                self._engine,
                lambda connection: self._partitions.ensure(connection, min(local_dates), max(local_dates)),
            )

    def _write(self, connection: Connection, occasion: Occasion, piece: Slice, now: datetime) -> Planned:
        return bulk_planning.plan_window(
            connection, occasion, piece.moments, now=now, batch_size=self._batch_size
        )


def _begin_ahead(connection: Connection, occasion: Occasion, through: datetime, now: datetime) -> Occasion:
    """See `watermarks.begin_ahead`. Raises Overtaken."""
    locks.share_planning(connection, occasion.tenant_id)
    return _ours(watermarks.begin_ahead(connection, occasion, through, now=now))


def _advance(connection: Connection, occasion: Occasion, through: datetime) -> Occasion:
    """See `watermarks.advance`. Raises Overtaken."""
    locks.share_planning(connection, occasion.tenant_id)
    return _ours(watermarks.advance(connection, occasion, through))


def _ours(found: Occasion | None) -> Occasion:
    if found is None:
        raise Overtaken
    return found
