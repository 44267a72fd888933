"""Instants, durations and downtimes as they are written on the command line."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import click

from deploy.simulate.simulation import Downtime
from scheduler.clock import as_utc
from scheduler.domain.duration import parse_duration

_FIRST_YEAR: Final = 1900
_LAST_YEAR: Final = 2999


def parse_instant(text: str) -> datetime:
    """An ISO 8601 instant in UTC; raises ValueError with what is wrong, a missing zone included."""
    try:
        instant = as_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no instant; write one with its zone: 2027-02-26T00:00:00Z") from None
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError(f"{text!r} lies outside the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return instant


def parse_downtime(text: str) -> Downtime:
    """Two instants, or an instant and a duration, with a slash between them; raises ValueError."""
    first, slash, second = text.partition("/")
    if not slash:
        raise ValueError(
            f"{text!r} is no interval; write it as 2027-02-27T03:00:00Z/2027-02-28T05:00:00Z, "
            "or as 2027-02-27T03:00:00Z/PT26H"
        )
    starts = parse_instant(first)
    return Downtime(starts, _end(starts, second))


def _end(starts: datetime, text: str) -> datetime:
    try:
        length = parse_duration(text)
    except ValueError:
        return parse_instant(text)
    try:
        return starts + length
    except OverflowError:
        raise ValueError(f"{text!r} after {starts.isoformat()} lies outside the calendar") from None


def parse_lateness_limit(text: str) -> timedelta:
    """A duration above zero; raises ValueError."""
    limit = parse_duration(text)
    if limit <= timedelta():
        raise ValueError(f"{text!r} would let nothing be late at all; takes a duration above zero")
    return limit


class InstantParameter(click.ParamType[datetime]):
    """An instant with its zone."""

    name = "instant"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """See `parse_instant`."""
        try:
            return parse_instant(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DowntimeParameter(click.ParamType[Downtime]):
    """An interval of instants."""

    name = "from/until"

    def convert(
        self, value: str | Downtime, param: click.Parameter | None, ctx: click.Context | None
    ) -> Downtime:
        """See `parse_downtime`."""
        try:
            return parse_downtime(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


class LatenessLimitParameter(click.ParamType[timedelta]):
    """A duration, in seconds or ISO 8601."""

    name = "duration"

    def convert(
        self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """See `parse_lateness_limit`."""
        try:
            return parse_lateness_limit(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
