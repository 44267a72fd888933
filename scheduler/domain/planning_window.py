"""Windows of planning: cut into hours, and what lies before them for somebody who was edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Slice:
    """Moments of one hour; once they are planned, the log is up to and without `ends`."""

    moments: Sequence[Moment]
    ends: datetime


def slices(found: Sequence[Moment], ends: datetime) -> Iterator[Slice]:
    """The moments by the hour, each slice ending later than the one before it, and the last at `ends`.

    Hours without moments cost nothing; the last slice may be empty.
    """
    through = None
    for hour, members in groupby(
        found, key=lambda moment: moment.send_at.replace(minute=0, second=0, microsecond=0)
    ):
        through = min(ends, hour + _SLICE)
        yield Slice(list(members), through)
    if through != ends:
        yield Slice([], ends)
