"""Windows of planning: cut into hours, and what lies before them for somebody who was edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Final

from scheduler.domain.calendar import Moment
from scheduler.domain.occasion import Occasion, SameDayPolicy
from scheduler.domain.zones import zone

_FURTHEST_EAST: Final = timedelta(hours=14)
_SLICE: Final = timedelta(hours=1)


def first_whole_date(instant: datetime) -> date:
    """The first local date of which nothing, wherever on earth, is due before `instant`."""
    return (instant + _FURTHEST_EAST).date() + timedelta(days=1)


def is_at_once(occasion: Occasion, moment: Moment, now: datetime) -> bool:
    """Whether a user added now is still to be sent what was due earlier on their local date."""
    return (
        occasion.same_day is SameDayPolicy.SEND
        and moment.send_at <= now
        and now.astimezone(zone(moment.timezone)).date() == moment.local_date
    )


def slices(found: Sequence[Moment], ends: datetime) -> Iterator[tuple[datetime, list[Moment]]]:
    """The moments by the hour, each with the instant through which the log is planned once they are in.

    Hours without moments cost nothing; the last slice may be empty and ends at `ends`.
    """
    for hour, members in groupby(
        found, key=lambda moment: moment.send_at.replace(minute=0, second=0, microsecond=0)
    ):
        yield min(ends, hour + _SLICE), list(members)
    yield ends, []
