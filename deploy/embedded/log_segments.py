"""Segments of a new server's write-ahead log, filled with zeros before anybody waits for them.

A server that finds no next segment fills one in the midst of a commit, and all others wait. Later checkpoints leave it
the segments of before to write over; a new one has had none, and would stand still in its first minutes. A segment
that is there already is taken as it is: the server looks for one before it makes it (`XLogFileInitInternal` in
PostgreSQL's src/backend/access/transam/xlog.c), as its own checkpoints make them in advance too.
"""

import os
import re
from pathlib import Path
from typing import Final

AHEAD: Final = 4
"""As many as a cluster begins with, of 16 MB each: enough for tens of thousands of requests that write."""

_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")  # timeline, upper and lower half
_ZEROS: Final = bytes(2**20)


def fill_ahead(log: Path) -> None:
    """Add the segments that follow the last one in `log`, the folder of a cluster that no server runs on.

    They belong to whom the folder belongs to. Errors: OSError; what was made by then must not be served.
    """
    last = max(path for path in log.iterdir() if _SEGMENT.fullmatch(path.name))
    size = last.stat().st_size
    for distance in range(1, AHEAD + 1):
        _fill(log / _following(last.name, distance, size), size)
    descriptor = os.open(log, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _following(name: str, distance: int, size: int) -> str:
    """The name of the segment that is `distance` after another: each upper half stands for 4 GB of the log."""
    match = _SEGMENT.fullmatch(name)
    assert match is not None
    timeline, *halves = match.groups()
    a_half = 2**32 // size
    upper, lower = (int(half, 16) for half in halves)
    following = upper * a_half + lower + distance
    return f"{timeline}{following // a_half:08X}{following % a_half:08X}"


def _fill(path: Path, size: int) -> None:
    folder = path.parent.stat()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
        for _ in range(size // len(_ZEROS)):
            file.write(_ZEROS)
        file.flush()
        os.fsync(file.fileno())
