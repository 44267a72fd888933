"""Where zones lie on the map."""

import pytest

from api.places import Place, place_of
from scheduler.domain.zones import allowed_zones


@pytest.mark.parametrize(
    ("timezone", "place"),
    [
        ("Pacific/Auckland", Place(-36.87, 174.77)),
        ("America/New_York", Place(40.71, -74.01)),
        ("Africa/Abidjan", Place(5.32, -4.03)),
        ("Europe/Stockholm", Place(59.33, 18.05)),
    ],
)
def test_a_zone_lies_where_its_city_does(timezone: str, place: Place) -> None:
    assert place_of(timezone) == place


def test_a_link_lies_where_its_target_does() -> None:
    assert place_of("Asia/Calcutta") == place_of("Asia/Kolkata") is not None


@pytest.mark.parametrize("timezone", ["Etc/UTC", "Etc/GMT+5", "Nowhere/At_All"])
def test_what_is_no_place_lies_nowhere(timezone: str) -> None:
    assert place_of(timezone) is None


def test_every_zone_named_for_a_place_is_on_the_map() -> None:
    continents = ("Africa/", "America/", "Asia/", "Atlantic/", "Australia/", "Europe/", "Indian/", "Pacific/")
    assert not [name for name in allowed_zones() if name.startswith(continents) and place_of(name) is None]
