"""How much memory the embedded server may keep pages in: a part of what the machine, or the container, has.

Shared buffers are touched as they are used: a small database costs little, whatever they are.
"""

import os
from pathlib import Path
from typing import Final

_MEGABYTE: Final = 2**20
_LEAST_SHARED_MEGABYTES: Final = 128
_MOST_SHARED_MEGABYTES: Final = 4096

_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1; cgroups(7)


def shared_megabytes(*, control_groups: Path = _CONTROL_GROUPS) -> int:
    """A quarter of the memory, as PostgreSQL's manual advises to begin with, within bounds.

    A log of tens of millions has an index of gigabytes, and planning for everyone passes all of it.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = min([physical, *_limits(control_groups)]) // _MEGABYTE
    return min(_MOST_SHARED_MEGABYTES, max(_LEAST_SHARED_MEGABYTES, memory // 4))


def _limits(control_groups: Path) -> list[int]:
    """The limits of the container this runs in, in bytes: past those the kernel kills, whatever the machine has."""
    found = []
    for name in _LIMITS:
        try:
            limit = (control_groups / name).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():  # not "max"
            found.append(int(limit))
    return found
