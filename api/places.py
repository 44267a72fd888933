"""Where on earth a time zone's name points: the place that the IANA database names it for.

Read from the pinned `tzdata` package, whose tables give latitude and longitude in ISO 6709 form
(`-3652+17446`, `+404251-0740023`). A backward link lies where its target lies; a zone that is no place, such as
`Etc/UTC`, lies nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

_TABLES: Final = ("zone1970.tab", "zone.tab")
_ISO_6709: Final = re.compile(r"([+-])(\d{2})(\d{2})(\d{2})?([+-])(\d{3})(\d{2})(\d{2})?")


class Place(NamedTuple):
    """Degrees north and east, to two decimals: about a kilometre."""

    latitude: float
    longitude: float


def place_of(timezone: str) -> Place | None:
    """Where the zone lies; None for one that lies nowhere, or that does not exist."""
    return _places().get(timezone)


@cache
def _places() -> Mapping[str, Place]:
    places = dict(_listed())
    for target, link in _links():
        if target in places:
            places.setdefault(link, places[target])
    return places


def _listed() -> Iterator[tuple[str, Place]]:
    for table in _TABLES:
        for line in _lines(table):
            if not line.startswith("#"):
                _countries, coordinates, timezone, *_comment = line.split("\t")
                yield timezone, _place(coordinates)


def _links() -> Iterator[tuple[str, str]]:
    """Target and name of each link (zic(8): `L target name`)."""
    for line in _lines("tzdata.zi"):
        if line.startswith("L "):
            _letter, target, link = line.split()
            yield target, link


def _lines(name: str) -> list[str]:
    return files("tzdata").joinpath("zoneinfo", name).read_text(encoding="utf-8").splitlines()


def _place(coordinates: str) -> Place:
    found = _ISO_6709.fullmatch(coordinates)
    if found is None:
        raise ValueError(f"{coordinates!r} are no coordinates in ISO 6709 form")
    north, *latitude, east, degrees, minutes, seconds = found.groups()
    return Place(_degrees(north, *latitude), _degrees(east, degrees, minutes, seconds))


def _degrees(sign: str, degrees: str, minutes: str, seconds: str | None) -> float:
    value = round(int(degrees) + int(minutes) / 60 + int(seconds or 0) / 3600, 2)
    return -value if sign == "-" else value
