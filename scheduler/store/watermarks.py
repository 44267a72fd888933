"""How far occasions are planned, and moving it: only from where the caller has found it.

An occasion is planned up to its watermark, all of it. Some of what comes after may be planned as well: by an edit,
which looks an hour past the horizon, or by a plan that writes ahead. Callers share planning (`locks.share_planning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.occasion import Occasion

_AS_FOUND: Final = (
    "id = :id AND version = :version AND active AND planned_through IS NOT DISTINCT FROM :found"
)

_ADVANCE: Final = text(f"UPDATE occasions SET planned_through = :through WHERE {_AS_FOUND}")

_BEGIN_AHEAD: Final = text(f"""
UPDATE occasions
SET planned_through = coalesce(planned_through, :now), ahead_through = greatest(ahead_through, :through)
WHERE {_AS_FOUND}
RETURNING planned_through, ahead_through""")

_IS_AHEAD: Final = text(
    "SELECT FROM occasions WHERE id = :id AND version = :version AND active AND planned_through < :through"
)

_BEGIN: Final = text("""
UPDATE occasions SET planned_through = :now WHERE id = ANY(CAST(:ids AS integer[])) AND planned_through IS NULL""")

_OLDEST: Final = text("SELECT min(coalesce(planned_through, :never)) FROM occasions WHERE active")


def advance(connection: Connection, occasion: Occasion, through: datetime) -> Occasion | None:
    """The occasion with its watermark at `through`, which nobody else moves until the commit.

    None: another planner moved it or somebody edited the occasion; the caller must write no more of it.
    """
    if not connection.execute(_ADVANCE, _as_found(occasion, through)).rowcount:
        return None
    return replace(occasion, planned_through=through)


def begin_ahead(
    connection: Connection, occasion: Occasion, through: datetime, *, now: datetime
) -> Occasion | None:
    """The occasion once it is known that its messages up to `through` may be written ahead of the watermark.

    From the commit on edits look as far. The watermark of one that was never planned is `now`. None: see `advance`.
    """
    row = connection.execute(_BEGIN_AHEAD, _as_found(occasion, through) | {"now": now}).one_or_none()
    if row is None:
        return None
    return replace(occasion, planned_through=row.planned_through, ahead_through=row.ahead_through)


def is_ahead(connection: Connection, occasion: Occasion, through: datetime) -> bool:
    """Whether the watermark has not come to `through`, and nobody has edited the occasion; locks nothing."""
    return connection.execute(_IS_AHEAD, _as_found(occasion, through)).first() is not None


def begin(connection: Connection, occasion_ids: Sequence[int], *, now: datetime) -> None:
    """Set the watermark of occasions that were never planned: from `now` on nothing of theirs may be lost."""
    if occasion_ids:
        connection.execute(_BEGIN, {"ids": list(occasion_ids), "now": now})


def oldest(connection: Connection, *, never: datetime) -> datetime | None:
    """The instant through which every active occasion is planned; `never` stands for one that never was.

    None if no occasion is active.
    """
    found: datetime | None = connection.execute(_OLDEST, {"never": never}).scalar_one()
    return found


def _as_found(occasion: Occasion, through: datetime) -> dict[str, Any]:
    return {
        "id": occasion.id,
        "version": occasion.version,
        "found": occasion.planned_through,
        "through": through,
    }
