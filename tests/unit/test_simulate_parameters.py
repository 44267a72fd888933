from datetime import timedelta

import pytest

from deploy.simulate.parameters import parse_downtime, parse_instant, parse_lateness_limit
from tests.fixtures.time_travel import downtime, utc


@pytest.mark.parametrize(
    "written",
    ["2027-02-27T03:00:00Z", "2027-02-27T03:00Z", "2027-02-27 03:00+00:00", "2027-02-26T22:00:00-05:00"],
)
def test_an_instant_has_a_zone(written: str) -> None:
    assert parse_instant(written) == utc("2027-02-27 03:00")


@pytest.mark.parametrize(
    "written",
    ["", "tomorrow", "2027-02-29T00:00:00Z", "2027-02-27", "2027-02-27T03:00:00", "0001-01-01T00:00+14:00"],
)
def test_anything_else_is_no_instant(written: str) -> None:
    with pytest.raises(ValueError, match="is no instant; write one with its zone: 2027-02-26T00:00:00Z"):
        parse_instant(written)


@pytest.mark.parametrize("written", ["1899-12-31T23:59:59Z", "3000-01-01T00:00:00Z"])
def test_an_instant_lies_where_people_live(written: str) -> None:
    with pytest.raises(ValueError, match="outside the years 1900 to 2999"):
        parse_instant(written)


@pytest.mark.parametrize("ends", ["2027-02-28T05:00:00Z", "PT26H", "P1DT2H"])
def test_a_downtime_has_an_end_or_a_length(ends: str) -> None:
    assert parse_downtime(f"2027-02-27T03:00:00Z/{ends}") == downtime("2027-02-27 03:00", "2027-02-28 05:00")


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("2027-02-27T03:00:00Z", "is no interval"),
        ("2027-02-27T03:00:00Z/later", "'later' is no instant"),
        ("sooner/2027-02-27T03:00:00Z", "'sooner' is no instant"),
        ("2027-02-27T03:00:00Z/2027-02-27T03:00:00Z", "ends after it starts"),
        ("2027-02-27T03:00:00Z/2027-02-26T03:00:00Z", "ends after it starts"),
        ("2027-02-27T03:00:00Z/PT0S", "ends after it starts"),
        ("2027-02-27T03:00:00Z/P9999999D", "outside the calendar"),
    ],
)
def test_a_downtime_that_makes_no_sense_is_refused(written: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_downtime(written)


def test_a_lateness_limit_is_longer_than_nothing() -> None:
    assert parse_lateness_limit("PT48H") == timedelta(hours=48)
    with pytest.raises(ValueError, match="above zero"):
        parse_lateness_limit("0")
    with pytest.raises(ValueError, match="ISO 8601"):
        parse_lateness_limit("long")
