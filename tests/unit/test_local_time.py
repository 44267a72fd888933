from datetime import UTC, date, datetime, time, tzinfo

import pytest

from scheduler.domain.local_time import GapPolicy, OverlapPolicy, ResolvedTime, TimeRule, resolve
from scheduler.domain.zones import zone

# Zone, local date, local time: what each policy makes of it. Instants written by hand from the zones' laws.
GAPS = [
    # New York, 02:00 -> 03:00
    ("America/New_York", "2026-03-08T02:30", "2026-03-08T07:30", "2026-03-08T06:30"),
    ("America/New_York", "2026-03-08T02:00", "2026-03-08T07:00", "2026-03-08T06:00"),
    # Havana, at midnight: backward is the evening before
    ("America/Havana", "2026-03-08T00:00", "2026-03-08T05:00", "2026-03-08T04:00"),
    ("America/Havana", "2026-03-08T00:30", "2026-03-08T05:30", "2026-03-08T04:30"),
    # Lord Howe, half an hour
    ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-03T15:45", "2026-10-03T15:15"),
    # Cairo, at midnight before the last Friday of April
    ("Africa/Cairo", "2026-04-24T00:30", "2026-04-23T22:30", "2026-04-23T21:30"),
    # Casablanca, the end of Ramadan
    ("Africa/Casablanca", "2026-03-22T02:30", "2026-03-22T02:30", "2026-03-22T01:30"),
    # Troll station, two hours
    ("Antarctica/Troll", "2026-03-29T01:30", "2026-03-29T01:30", "2026-03-28T23:30"),
    # Apia, a whole date
    ("Pacific/Apia", "2011-12-30T00:00", "2011-12-30T10:00", "2011-12-29T10:00"),
    ("Pacific/Apia", "2011-12-30T09:00", "2011-12-30T19:00", "2011-12-29T19:00"),
    ("Pacific/Apia", "2011-12-30T23:59", "2011-12-31T09:59", "2011-12-30T09:59"),
]

OVERLAPS = [
    ("America/New_York", "2026-11-01T01:30", "2026-11-01T05:30", "2026-11-01T06:30"),
    ("America/New_York", "2026-11-01T01:00", "2026-11-01T05:00", "2026-11-01T06:00"),
    ("America/Havana", "2027-11-07T00:30", "2027-11-07T04:30", "2027-11-07T05:30"),
    ("Australia/Lord_Howe", "2026-04-05T01:45", "2026-04-04T14:45", "2026-04-04T15:15"),
    # Cairo, the last hour of the last Thursday of October
    ("Africa/Cairo", "2026-10-29T23:30", "2026-10-29T20:30", "2026-10-29T21:30"),
    ("Africa/Casablanca", "2026-02-15T02:30", "2026-02-15T01:30", "2026-02-15T02:30"),
    ("Antarctica/Troll", "2026-10-25T01:30", "2026-10-24T23:30", "2026-10-25T01:30"),
    # Kwajalein crossed the date line on 1 October 1969 and lived most of a day twice
    ("Pacific/Kwajalein", "1969-09-30T12:00", "1969-09-30T01:00", "1969-10-01T00:00"),
]

EXACT = [
    ("America/New_York", "2026-07-04T09:00", "2026-07-04T13:00"),
    ("America/New_York", "2026-03-08T03:00", "2026-03-08T07:00"),
    ("America/New_York", "2026-03-08T01:59", "2026-03-08T06:59"),
    ("America/New_York", "2026-11-01T02:00", "2026-11-01T07:00"),
    ("America/New_York", "2026-11-01T00:59", "2026-11-01T04:59"),
    ("Africa/Cairo", "2026-04-24T01:00", "2026-04-23T22:00"),
    ("Pacific/Apia", "2011-12-29T09:00", "2011-12-29T19:00"),
    ("Pacific/Apia", "2011-12-31T00:00", "2011-12-30T10:00"),
    ("Pacific/Apia", "2011-12-31T09:00", "2011-12-30T19:00"),
    ("Pacific/Kiritimati", "2026-01-02T10:00", "2026-01-01T20:00"),
    ("Pacific/Pago_Pago", "2026-01-01T09:00", "2026-01-01T20:00"),
    ("Asia/Kathmandu", "2026-01-01T09:00", "2026-01-01T03:15"),
    ("Pacific/Chatham", "2026-01-01T09:00", "2025-12-31T19:15"),
    ("Europe/Dublin", "2026-07-01T09:00", "2026-07-01T08:00"),
    ("Etc/GMT+5", "2026-07-01T09:00", "2026-07-01T14:00"),
    # British Columbia stays on summer time from 2026: machines with older files are an hour off
    ("America/Vancouver", "2026-11-15T09:00", "2026-11-15T16:00"),
    # Cuba does not set its clocks back in 2026
    ("America/Havana", "2026-11-15T09:00", "2026-11-15T13:00"),
]


def resolved(
    name: str,
    local: str,
    gap: GapPolicy = GapPolicy.FORWARD,
    overlap: OverlapPolicy = OverlapPolicy.FIRST,
) -> tuple[str, TimeRule] | None:
    wall = datetime.fromisoformat(local)
    found = resolve(wall.date(), wall.time(), zone(name), gap, overlap)
    if found is None:
        return None
    assert found.instant.tzinfo is UTC
    return found.instant.strftime("%Y-%m-%dT%H:%M"), found.rule


@pytest.mark.parametrize(("name", "local", "forward", "backward"), GAPS)
@pytest.mark.parametrize("overlap", OverlapPolicy)
def test_a_gap_follows_the_policy(
    name: str, local: str, forward: str, backward: str, overlap: OverlapPolicy
) -> None:
    assert resolved(name, local, GapPolicy.FORWARD, overlap) == (forward, TimeRule.GAP_FORWARD)
    assert resolved(name, local, GapPolicy.BACKWARD, overlap) == (backward, TimeRule.GAP_BACKWARD)
    assert resolved(name, local, GapPolicy.SKIP, overlap) is None


@pytest.mark.parametrize(("name", "local", "first", "second"), OVERLAPS)
@pytest.mark.parametrize("gap", GapPolicy)
def test_an_overlap_follows_the_policy(
    name: str, local: str, first: str, second: str, gap: GapPolicy
) -> None:
    assert resolved(name, local, gap, OverlapPolicy.FIRST) == (first, TimeRule.OVERLAP_FIRST)
    assert resolved(name, local, gap, OverlapPolicy.SECOND) == (second, TimeRule.OVERLAP_SECOND)


@pytest.mark.parametrize(("name", "local", "instant"), EXACT)
@pytest.mark.parametrize("gap", GapPolicy)
@pytest.mark.parametrize("overlap", OverlapPolicy)
def test_a_plain_local_time_is_the_same_under_every_policy(
    name: str, local: str, instant: str, gap: GapPolicy, overlap: OverlapPolicy
) -> None:
    assert resolved(name, local, gap, overlap) == (instant, TimeRule.EXACT)


def test_the_fold_of_the_local_time_is_ignored() -> None:
    def at(fold: int) -> ResolvedTime | None:
        local_time = time(1, 30, fold=fold)
        return resolve(
            date(2026, 11, 1), local_time, zone("America/New_York"), GapPolicy.SKIP, OverlapPolicy.FIRST
        )

    assert at(fold=0) == at(fold=1)


def test_seconds_are_kept() -> None:
    assert resolve(
        date(2026, 1, 1), time(9, 0, 59, 7), UTC, GapPolicy.SKIP, OverlapPolicy.FIRST
    ) == ResolvedTime(datetime(2026, 1, 1, 9, 0, 59, 7, UTC), TimeRule.EXACT)


@pytest.mark.parametrize(("local_date", "name"), [(date.min, "Asia/Tokyo"), (date.max, "Pacific/Pago_Pago")])
def test_an_instant_outside_the_calendar_is_an_overflow(local_date: date, name: str) -> None:
    local_time = time.min if local_date == date.min else time.max
    with pytest.raises(OverflowError):
        resolve(local_date, local_time, zone(name), GapPolicy.FORWARD, OverlapPolicy.FIRST)


def test_a_zone_without_offsets_is_refused() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, _: datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    with pytest.raises(ValueError, match="no offset"):
        resolve(date(2026, 1, 1), time(9), Nowhere(), GapPolicy.FORWARD, OverlapPolicy.FIRST)
