"""Time zones by IANA name, with the rules of the pinned `tzdata` package and no others.

The operating system's zone files and `PYTHONTZPATH` have no say: `zoneinfo.ZoneInfo(name)` would
prefer both to the package, and a machine with older files would send an hour early or late. Each
zone is therefore read from the package's own file; no global state is changed.

Limits: what `zone` returns is cached for the life of the process, so rules change with a restart.
"""

from __future__ import annotations

import difflib
import re
from functools import cache, lru_cache
from importlib import import_module
from importlib.resources import files

from pendulum.tz.timezone import Timezone

# Listed by the package, but no place keeps this time: it stands for "not configured".
_PLACEHOLDER = "Factory"
# `UTC+2`, `+02:00`, `-5`. Never answered with `Etc/GMT+2`, whose sign means the opposite.
_OFFSET = re.compile(r"(?:utc|gmt|z)?\s*[+\-\u2212]?\s*\d", re.IGNORECASE)
_LONGEST_QUOTED = 64  # characters


@cache
def allowed_zones() -> frozenset[str]:
    """Every name a user may have: the canonical names and backward links of the IANA database."""
    names = files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    return frozenset(names) - {_PLACEHOLDER}


def check_zone(name: str) -> str:
    """Return `name` if it is allowed as written; otherwise raise a ValueError that says what to write."""
    if name in allowed_zones():
        return name
    raise ValueError(_refusal(name))


@cache
def zone(name: str) -> Timezone:
    """The zone of that name; raises ValueError for a name that is not allowed."""
    file = files("tzdata").joinpath("zoneinfo", *check_zone(name).split("/"))
    with file.open("rb") as rules:
        return Timezone.from_file(rules, key=name)


@cache
def tzdata_version() -> str:
    """The release of the IANA database in force, such as `2026f`."""
    return str(import_module("tzdata").IANA_VERSION)


# A file of a million rows tends to hold the same few wrong names; each search takes milliseconds.
@lru_cache(maxsize=4096)
def _refusal(name: str) -> str:
    quoted = repr(name[:_LONGEST_QUOTED])
    suggestion = _suggestion(name)
    if suggestion is None:
        return f"unknown time zone {quoted}; give an IANA name such as 'Europe/Paris', not an offset"
    return f"unknown time zone {quoted}; did you mean '{suggestion}'?"


def _suggestion(name: str) -> str | None:
    wanted = name.strip().replace(" ", "_").casefold()
    if len(wanted) > _LONGEST_QUOTED:
        return None
    spellings = _spellings()
    if wanted in spellings:
        return spellings[wanted]
    if _OFFSET.match(wanted):
        return None
    close = difflib.get_close_matches(wanted, spellings, n=1, cutoff=0.7)
    return spellings[close[0]] if close else None


@cache
def _spellings() -> dict[str, str]:
    """What people write instead of a zone's name, in lower case: the name itself, or only its city."""
    names = sorted(allowed_zones())
    cities = {name.rpartition("/")[2].casefold(): name for name in names if not name.startswith("Etc/")}
    return cities | {name.casefold(): name for name in names}
