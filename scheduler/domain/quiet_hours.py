"""Quiet hours: the part of a person's day in which nothing is to disturb them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time
from typing import Final

_WRITTEN: Final = re.compile(r"([0-9]{2}:[0-9]{2})-([0-9]{2}:[0-9]{2})")


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
