"""Durations as text: seconds, or ISO 8601 without years and months, whose length depends on the calendar."""

import re
from datetime import timedelta

_ISO_DURATION = re.compile(
    r"P(?=.)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)
_SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """The duration that `text` names: `90`, `90.5` (seconds), `PT36H`, `P1DT12H`, `P2W`.

    Raises ValueError for anything else, negative durations and those beyond `timedelta.max` included.
    """
    stripped = text.strip()
    match = _ISO_DURATION.fullmatch(stripped.upper())
    try:
        if match is not None:
            return timedelta(**{unit: float(count) for unit, count in match.groupdict(default="0").items()})
        if _SECONDS.fullmatch(stripped):
            return timedelta(seconds=float(stripped))
    except OverflowError:
        raise ValueError(f"{text!r} is too long a duration") from None
    raise ValueError(f"{text!r} is neither seconds nor an ISO 8601 duration such as PT36H or P1DT12H")


def format_duration(duration: timedelta) -> str:
    """`duration` in ISO 8601, in hours and smaller units: 48 hours are `PT48H`, not two calendar days.

    Raises ValueError if it is negative.
    """
    if duration < timedelta(0):
        raise ValueError(f"{duration} is negative")
    minutes, rest = divmod(duration, timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}H" if hours else ""
    text += f"{minutes}M" if minutes else ""
    text += f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".") + "S" if rest or not text else ""
    return f"PT{text}"
