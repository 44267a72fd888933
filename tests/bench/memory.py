"""The resident memory of processes for as long as they live, sampled from outside."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from threading import Event, Lock, Thread
from typing import Final

import psutil

_SECONDS_BETWEEN_SAMPLES: Final = 0.5
_MEGABYTE: Final = 1_000_000
_LEAST_SAMPLES: Final = 20


class Memory:
    """Samples whoever is watched, by role: the largest process of each, its children included."""

    def __init__(self) -> None:
        self._watched: dict[int, str] = {}
        self._lock = Lock()
        self._stop = Event()
        self._peaks: defaultdict[str, float] = defaultdict(float)
        self._series: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._thread = Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def watch(self, role: str, pid: int) -> None:
        """Sample this process from now on, until it ends."""
        with self._lock:
            self._watched[pid] = role

    def close(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    @property
    def peaks(self) -> dict[str, float]:
        """The most that any one process of each role held at any time, in MB."""
        return dict(self._peaks)

    def growth(self, role: str) -> float | None:
        """By how many MB the longest-lived process of a role grew: last fifth of its life against the second.

        The first fifth is left out, in which caches and pools fill. None: none lived long enough to tell.
        """
        series = max(
            (each for (owner, _), each in self._series.items() if owner == role), key=len, default=[]
        )
        return growth(series)

    def _run(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_SAMPLES):
            with self._lock:
                watched = list(self._watched.items())
            for pid, role in watched:
                self._sample(pid, role)

    def _sample(self, pid: int, role: str) -> None:
        try:
            process = psutil.Process(pid)
            sizes = [
                each.memory_info().rss / _MEGABYTE for each in (process, *process.children(recursive=True))
            ]
        except psutil.Error:
            with self._lock:
                self._watched.pop(pid, None)
            return
        self._peaks[role] = max(self._peaks[role], *sizes)
        self._series[role, pid].append(sizes[0])


def growth(samples: list[float]) -> float | None:
    """The median of the last fifth less that of the second fifth; None for too few samples."""
    if len(samples) < _LEAST_SAMPLES:
        return None
    fifth = len(samples) // 5
    return median(samples[-fifth:]) - median(samples[fifth : 2 * fifth])
