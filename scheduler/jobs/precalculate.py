"""The daily job: plan every active occasion through the horizon, partitions first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from scheduler.planner import Planner


class Precalculate:
    """Plans from each occasion's watermark through now + horizon; harmless to run at any time."""

    name = "precalculate"

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def run(self, now: datetime) -> Mapping[str, int]:
        """Plan; returns messages added and already there, batches, and partitions made."""
        partitions = self._planner.create_partitions(now)
        planned = self._planner.plan(now=now, through=now + self._planner.policy.horizon)
        return {
            "added": planned.added,
            "already_there": planned.already_there,
            "batches": planned.batches,
            "partitions": partitions,
        }
