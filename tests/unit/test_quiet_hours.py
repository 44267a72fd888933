"""Quiet hours as the clock on the wall shows them, wherever and whatever it is set to."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.domain.quiet_hours import QuietHours, quiet_until
from scheduler.domain.zones import zone

NIGHT = QuietHours.parse("22:00-08:00")

# Zones whose clocks change at night, by half an hour, at midnight, twice around Ramadan, by a whole day; or never.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Asuncion",
    "Asia/Beirut",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Asia/Kathmandu",
    "America/St_Johns",
    "UTC",
)
HOURS = st.integers(0, 95).map(lambda quarters: time(quarters // 4, quarters % 4 * 15))
INSTANTS = st.timedeltas(timedelta(), timedelta(days=25 * 365)).map(
    lambda since: datetime(2010, 1, 1, tzinfo=UTC) + since
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "local_time", "is_quiet"),
    [
        ("22:00-08:00", time(21, 59, 59), False),
        ("22:00-08:00", time(22), True),
        ("22:00-08:00", time(0), True),
        ("22:00-08:00", time(7, 59, 59, 999_999), True),
        ("22:00-08:00", time(8), False),
        ("12:00-14:00", time(11, 59), False),
        ("12:00-14:00", time(12), True),
        ("12:00-14:00", time(14), False),
        ("00:00-06:00", time(0), True),
        ("09:00-09:00", time(9), False),
        ("00:00-00:00", time(0), False),
    ],
)
def test_hours_are_quiet_from_their_start_up_to_their_end(
    hours: str, local_time: time, is_quiet: bool
) -> None:
    assert (local_time in QuietHours.parse(hours)) is is_quiet


@pytest.mark.parametrize(
    ("zone_name", "now", "until"),
    [
        ("UTC", "2027-03-01T07:59:59.500", "2027-03-01T08:00"),
        ("UTC", "2027-03-01T22:00", "2027-03-02T08:00"),
        ("America/New_York", "2027-03-01T12:00", "2027-03-01T13:00"),
        ("Asia/Kathmandu", "2027-03-01T17:00", "2027-03-02T02:15"),
        # The hour from 02:00 is skipped in Berlin: one hour less to wait.
        ("Europe/Berlin", "2027-03-27T21:30", "2027-03-28T06:00"),
        # The hour from 02:00 is repeated: one hour more.
        ("Europe/Berlin", "2027-10-30T20:30", "2027-10-31T07:00"),
        # The whole of 30 December 2011 is skipped.
        ("Pacific/Apia", "2011-12-30T09:00", "2011-12-30T18:00"),
    ],
)
def test_a_quiet_night_ends_in_the_morning_where_the_user_lives(zone_name: str, now: str, until: str) -> None:
    assert quiet_until(NIGHT, utc(now), zone(zone_name)) == utc(until)


def test_outside_quiet_hours_nothing_is_put_off() -> None:
    assert quiet_until(NIGHT, utc("2027-03-01T12:00"), zone("Europe/Berlin")) is None
    assert quiet_until(QuietHours(time(9), time(9)), utc("2027-03-01T09:00"), zone("UTC")) is None


def test_hours_that_end_in_a_skipped_hour_end_with_the_change() -> None:
    quiet = QuietHours.parse("22:00-02:30")
    assert quiet_until(quiet, utc("2027-03-28T00:30"), zone("Europe/Berlin")) == utc("2027-03-28T01:00")


def test_hours_that_end_in_a_repeated_hour_end_at_both() -> None:
    quiet = QuietHours.parse("22:00-02:30")
    berlin = zone("Europe/Berlin")
    assert quiet_until(quiet, utc("2027-10-31T00:10"), berlin) == utc("2027-10-31T00:30")
    assert quiet_until(quiet, utc("2027-10-31T00:45"), berlin) is None
    assert quiet_until(quiet, utc("2027-10-31T01:10"), berlin) == utc("2027-10-31T01:30")


@given(starts=HOURS, ends=HOURS, now=INSTANTS, zone_name=st.sampled_from(ZONES))
@example(time(2, 30), time(8), utc("2027-10-31T00:45"), "Europe/Berlin")
@example(time(22), time(8), utc("2011-12-30T09:59:59.999999"), "Pacific/Apia")
@example(time(0), time(23, 45), utc("2011-12-29T10:30"), "Pacific/Apia")
@example(time(0), time(23, 45), utc("2027-10-02T15:00"), "Australia/Lord_Howe")
@settings(deadline=None)
def test_it_is_quiet_all_the_while_and_no_longer(
    starts: time, ends: time, now: datetime, zone_name: str
) -> None:
    quiet, place = QuietHours(starts, ends), zone(zone_name)

    def is_quiet(at: datetime) -> bool:
        return at.astimezone(place).time() in quiet

    until = quiet_until(quiet, now, place)
    if until is None:
        assert not is_quiet(now)
        return
    assert until > now
    assert until - now <= timedelta(days=2)
    assert not is_quiet(until)
    assert is_quiet(until - timedelta(microseconds=1))
    # Clocks change on a quarter of an hour, and so begin and end these hours.
    quarters = range(0, int((until - now).total_seconds()), 900)
    assert all(is_quiet(now + timedelta(seconds=seconds)) for seconds in quarters)
