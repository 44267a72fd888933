"""Which providers operators have put on hold, as this process last looked; it looks again every few seconds.

Whoever asks while it is time to look does so in passing; the others go on with what is known. A database that does
not answer changes nothing: what was held stays so.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from threading import Lock
from typing import Final

from loguru import logger
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from scheduler.clock import Clock
from scheduler.store import provider_holds

LOOK_EVERY: Final = timedelta(seconds=3)


class ProviderHolds:
    """The holds of one installation; shared by the threads of a process."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = Lock()
        self._held: frozenset[str] = frozenset()
        self._looked_at: float | None = None

    def until(self, provider: str) -> datetime | None:
        """When to ask again whether a provider takes messages, while it is on hold; None: it is not."""
        self._look()
        return self._clock.now() + LOOK_EVERY if provider in self._held else None

    def _look(self) -> None:
        """Read the holds where that is due; whoever asks first in a process waits for it."""
        if not self._is_due() or not self._lock.acquire(blocking=self._looked_at is None):
            return
        try:
            if self._is_due():
                self._held = self._read()
                self._looked_at = self._clock.monotonic()
        finally:
            self._lock.release()

    def _is_due(self) -> bool:
        looked_at = self._looked_at
        return looked_at is None or self._clock.monotonic() - looked_at >= LOOK_EVERY.total_seconds()

    def _read(self) -> frozenset[str]:
        try:
            with self._engine.connect() as connection:
                held = frozenset(provider_holds.all_holds(connection))
        except SQLAlchemyError as error:
            logger.bind(cause=type(error).__name__).debug("provider_holds_not_read")
            return self._held
        for provider in sorted(held ^ self._held):
            logger.bind(provider=provider).info("provider_held" if provider in held else "provider_resumed")
        return held
