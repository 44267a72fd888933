"""What a run ran on, as far as it matters to its figures."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
import pycurl

IDLE_LOAD: Final = 0.5
"""Runnable processes above which somebody else is using the machine."""


def describe(folder: Path) -> dict[str, Any]:
    """Processor, memory, disk of `folder`, versions, and how busy the machine is before the run."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _first_line(["git", "rev-parse", "--short", "HEAD"]),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "file_system": _file_system(folder),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libcurl": pycurl.version_info()[1],
        "nginx": _first_line(["nginx", "-v"]),
        "load_before": round(os.getloadavg()[0], 2),
    }


def is_idle(machine: Mapping[str, Any]) -> bool:
    """Whether nobody else was using it when the run began."""
    return float(machine["load_before"]) <= IDLE_LOAD


def _processor() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    partitions = sorted(psutil.disk_partitions(all=True), key=lambda each: len(each.mountpoint))
    on = [each.fstype for each in partitions if folder.resolve().is_relative_to(each.mountpoint)]
    return on[-1] if on else "unknown"


def _lines(path: Path) -> Sequence[str]:
    return path.read_text().splitlines() if path.exists() else ()


def _first_line(command: Sequence[str]) -> str | None:
    """What a program says of itself first, on either stream; None where it is not there."""
    try:
        answered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (answered.stdout + answered.stderr).splitlines()
    return re.sub(r"^\w+ version: ", "", lines[0]) if lines else None
