"""From a local date and time of day to the instant meant, also where clocks change.

A local time may not exist (the clock jumps over it: a gap) or exist twice (the clock is set back: an
overlap). Which instant is meant then is the occasion's choice, and the answer names the rule that was
applied. A whole local date that does not exist (Apia, 30 December 2011) is a gap of 24 hours.

The arithmetic is that of PEP 495: `fold=0` and `fold=1` give the zone's offsets before and after the
change, equal wherever the clock does not change.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, tzinfo
from enum import StrEnum
from typing import NamedTuple


class GapPolicy(StrEnum):
    """What a local time that does not exist becomes."""

    FORWARD = "forward"
    """Later by the length of the gap: 02:30 becomes 03:30."""
    BACKWARD = "backward"
    """Earlier by the length of the gap: 02:30 becomes 01:30."""
    SKIP = "skip"
    """Nothing is due."""


class OverlapPolicy(StrEnum):
    """Which of the two instants of a repeated local time is meant."""

    FIRST = "first"
    SECOND = "second"


class TimeRule(StrEnum):
    """How a send time was found, recorded with every message."""

    EXACT = "exact"
    GAP_FORWARD = "gap_forward"
    GAP_BACKWARD = "gap_backward"
    OVERLAP_FIRST = "overlap_first"
    OVERLAP_SECOND = "overlap_second"
    SAME_DAY = "same_day"
    """Not by the clock: the time was past when the user appeared or changed, the date was not."""

    QUIET_HOURS = "quiet_hours"
    """Put off to the end of the user's quiet hours."""


class ResolvedTime(NamedTuple):
    """An instant in UTC and the rule by which a local time means it."""

    instant: datetime
    rule: TimeRule


def resolve(
    local_date: date, local_time: time, zone: tzinfo, gap: GapPolicy, overlap: OverlapPolicy
) -> ResolvedTime | None:
    """The instant at which clocks in `zone` show `local_time` on `local_date`; None where it is skipped.

    `local_time` is naive, its `fold` is ignored. Raises OverflowError where the instant lies outside the
    years 1 to 9999: possible on the first and the last date of the calendar only.
    """
    wall = datetime.combine(local_date, local_time, UTC).replace(fold=0)
    before = zone.utcoffset(wall)
    after = zone.utcoffset(wall.replace(fold=1))
    if before is None or after is None:
        raise ValueError(f"{zone!r} has no offset from UTC")
    if before == after:
        return ResolvedTime(wall - before, TimeRule.EXACT)
    if before > after:
        if overlap is OverlapPolicy.FIRST:
            return ResolvedTime(wall - before, TimeRule.OVERLAP_FIRST)
        return ResolvedTime(wall - after, TimeRule.OVERLAP_SECOND)
    if gap is GapPolicy.SKIP:
        return None
    # The offset before the change reads a skipped time as later than the change, the one after it as earlier.
    if gap is GapPolicy.FORWARD:
        return ResolvedTime(wall - before, TimeRule.GAP_FORWARD)
    return ResolvedTime(wall - after, TimeRule.GAP_BACKWARD)
