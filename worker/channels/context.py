"""What every adapter is built with besides its own options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from scheduler.clock import Clock
from worker.channels.slots import RequestSlots


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """The parts of a process that adapters share. `slots` None: no limit but the adapter's own."""

    clock: Clock
    engine: Engine
    outbox_file: Path
    slots: RequestSlots | None = None
