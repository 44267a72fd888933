"""Quiet hours: the part of a person's day in which nothing is to disturb them.

They are read off the clock on the wall, whatever it does: an hour that is skipped is never quiet, an hour that
is repeated is quiet both times.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final

_WRITTEN: Final = re.compile(r"([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})")
_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `starts` up to and without `ends`, both local; over midnight where `ends` is the earlier.

    Equal times mean that no hour is quiet: an occasion's way to send at any time, whatever the settings say.
    """

    starts: time
    ends: time

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Read `22:00-08:00`; raises ValueError for anything else."""
        match = _WRITTEN.fullmatch(text.strip())
        try:
            if match is not None:
                return cls(time.fromisoformat(match[1]), time.fromisoformat(match[2]))
        except ValueError:
            pass
        raise ValueError(f"{text!r} is no part of a day such as 22:00-08:00")

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.starts:%H:%M}-{self.ends:%H:%M}"

    def __contains__(self, local_time: time) -> bool:
        """Whether a clock that shows `local_time` shows a quiet hour."""
        if self.starts <= self.ends:
            return self.starts <= local_time < self.ends
        return local_time >= self.starts or local_time < self.ends


def quiet_until(quiet: QuietHours, now: datetime, zone: tzinfo) -> datetime | None:
    """The first instant after `now` (UTC) at which it is not quiet in `zone`; None: it is not quiet now.

    Where clocks change on the way there, the clock is read anew at the change: the hours may end with it.
    Takes for granted that no zone sets its clocks there and back within one day.
    """
    now = now.astimezone(UTC)
    local_time = now.astimezone(zone).time()
    if local_time not in quiet:
        return None
    ends = now + (_since_midnight(quiet.ends) - _since_midnight(local_time)) % _DAY
    changes_at = _first_change(now, ends, zone)
    if changes_at is None:
        return ends
    return quiet_until(quiet, changes_at, zone) or changes_at


def _since_midnight(local_time: time) -> timedelta:
    return timedelta(
        hours=local_time.hour,
        minutes=local_time.minute,
        seconds=local_time.second,
        microseconds=local_time.microsecond,
    )


def _first_change(starts: datetime, ends: datetime, zone: tzinfo) -> datetime | None:
    """The second after `starts` and up to `ends` from which on clocks in `zone` differ otherwise from UTC."""
    offset = starts.astimezone(zone).utcoffset()
    if ends.astimezone(zone).utcoffset() == offset:
        return None
    starts = starts.replace(microsecond=0)
    seconds = range((ends - starts) // _SECOND)
    passed = bisect_left(
        seconds, True, key=lambda each: (starts + each * _SECOND).astimezone(zone).utcoffset() != offset
    )
    return starts + passed * _SECOND
