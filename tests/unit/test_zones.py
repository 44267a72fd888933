import os
import pickle
import subprocess
import sys
import zoneinfo
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from scheduler.domain.zones import allowed_zones, check_zone, tzdata_version, zone

REPOSITORY = Path(__file__).parents[2]
NOON = datetime.fromisoformat("2026-07-01T12:00")


def test_every_zone_of_the_standard_library_is_allowed_and_no_other() -> None:
    system_path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([])
    try:
        listed = zoneinfo.available_timezones()
    finally:
        zoneinfo.reset_tzpath(system_path)
    assert allowed_zones() == listed - {"Factory", "localtime"}


def test_canonical_names_and_backward_links_are_allowed() -> None:
    assert {"Europe/Kyiv", "Europe/Kiev", "Asia/Kolkata", "Asia/Calcutta", "UTC"} <= allowed_zones()


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("EUROPE/BERLIN", "Europe/Berlin"),
        ("Europe/Berlin ", "Europe/Berlin"),
        ("Amercia/New_York", "America/New_York"),
        ("New York", "America/New_York"),
        ("Sao Paulo", "America/Sao_Paulo"),
        ("posix/Europe/Berlin", "Europe/Berlin"),
        ("etc/gmt+5", "Etc/GMT+5"),
    ],
)
def test_a_near_miss_is_refused_with_the_name_that_was_meant(name: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone") as refusal:
        check_zone(name)
    assert str(refusal.value) == f"unknown time zone '{name}'; did you mean '{suggestion}'?"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "localtime",
        "Factory",
        "right/UTC",
        "+02:00",
        "UTC+2",
        "GMT-3",
        "2",
        "Nowhere/At_All",
        "../etc/passwd",
    ],
)
def test_what_is_no_zone_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match="give an IANA name such as 'Europe/Paris', not an offset"):
        check_zone(name)


@pytest.mark.parametrize("name", ["\x00", "\ud800", "Europe/Berlin\n", "x" * 1_000_000])
def test_a_refusal_is_short_and_printable(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone") as refusal:
        check_zone(name)
    assert len(str(refusal.value)) < 200
    assert str(refusal.value).isprintable()


def test_an_unknown_name_never_reaches_the_file_system() -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        zone("../zones")


def test_a_zone_is_loaded_once_and_knows_its_name() -> None:
    berlin = zone("Europe/Berlin")
    assert berlin is zone("Europe/Berlin")
    assert berlin.name == berlin.key == "Europe/Berlin"
    assert berlin.utcoffset(NOON) == timedelta(hours=2)


def test_a_zone_survives_pickling() -> None:
    berlin = pickle.loads(pickle.dumps(zone("Europe/Berlin")))
    assert berlin.utcoffset(NOON) == timedelta(hours=2)


def test_the_version_is_the_one_of_the_package() -> None:
    rules = files("tzdata").joinpath("zoneinfo", "tzdata.zi").read_text(encoding="ascii")
    assert rules.startswith(f"# version {tzdata_version()}")


def test_loading_zones_changes_no_global_state() -> None:
    before = zoneinfo.TZPATH, os.environ.get("PYTHONTZPATH")
    zone("Pacific/Auckland")
    assert (zoneinfo.TZPATH, os.environ.get("PYTHONTZPATH")) == before


SHOW_OFFSETS = """
import zoneinfo
from datetime import datetime
from scheduler.domain.zones import zone
noon = datetime.fromisoformat("2026-07-01T12:00")
print(zone("Europe/Berlin").utcoffset(noon), zoneinfo.ZoneInfo("Europe/Berlin").utcoffset(noon))
"""


@pytest.fixture
def poisoned_zone_files(tmp_path: Path) -> Path:
    """Zone files by which Berlin keeps the time of Tokyo."""
    (tmp_path / "Europe").mkdir()
    tokyo = files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    (tmp_path / "Europe" / "Berlin").write_bytes(tokyo)
    return tmp_path


def test_zone_files_of_the_machine_have_no_say(poisoned_zone_files: Path) -> None:
    """The second offset documents the trap: by default those files shadow the package."""
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_OFFSETS],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONTZPATH": str(poisoned_zone_files)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["2:00:00", "9:00:00"]
