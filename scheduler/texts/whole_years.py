"""How old somebody or something is on a date."""

from calendar import isleap
from datetime import date

from scheduler.domain.occasion import LeapDayPolicy


def whole_years(since: date, on: date, leap_day: LeapDayPolicy) -> int:
    """The years completed from `since` to `on`; 0 where `since` lies ahead.

    A year since 29 February is completed, where there is none, on 28 February by `feb28` and on 1 March by
    `mar1` and `skip`.
    """
    month_day = (since.month, since.day)
    if month_day == (2, 29) and leap_day is LeapDayPolicy.FEB28 and not isleap(on.year):
        month_day = (2, 28)
    return max(0, on.year - since.year - ((on.month, on.day) < month_day))
