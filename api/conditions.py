"""Conditional requests (RFC 9110 §13): a resource's ETag is its version, and `If-Match` guards a write by it.

A write with `If-Match` happens to the version that the caller has read, or is answered 412: `expected_version` reads
the header, and whoever writes compares it in the writing transaction by `check_version`. Without the header the last
writer wins. A read with `If-None-Match` is answered 304 by the hooks of `api.conduct`.

Limit: one version, or `*`. A list of versions in `If-Match` is refused: nobody can mean two states of one thing.
"""

from __future__ import annotations

import re
from typing import Final

from flask import request

from api.problems import Refused, stale
from scheduler.errors import VersionConflict

CODED: Final = "-gzip"
"""At the end of an ETag: of the compressed form, which is another representation (RFC 9110 §8.8.3.3)."""

# A version as `etag_of` writes it, marked by compression or not. Weak tags match nothing here (RFC 9110 §13.1.1).
_TAG: Final = re.compile(rf'"([1-9][0-9]{{0,17}})(?:{CODED})?"')


def etag_of(version: int) -> str:
    """The ETag of a resource of this version."""
    return f'"{version}"'


def expected_version() -> int | None:
    """The version that the present request is to change; None: any. Raises Refused (412) for a tag of no version."""
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    found = _TAG.fullmatch(given.strip())
    if found is None:
        raise Refused(
            stale("If-Match is not the ETag of any version; take it from the last answer, unchanged")
        )
    return int(found.group(1))


def check_version(current_version: int) -> None:
    """Raise VersionConflict unless the present request may change this version; call it where the row is locked."""
    expected = expected_version()
    if expected is not None and expected != current_version:
        raise VersionConflict(expected, current_version)
