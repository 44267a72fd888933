"""What a request may use: made once by `create_app`, found by every handler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from flask import current_app
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.registry import Registry
from scheduler.settings import Settings
from scheduler.store.readers import Readers

EXTENSION: Final = "daybreak"
"""Under this name the application keeps its services."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one application."""

    settings: Settings
    engine: Engine
    clock: Clock
    registry: Registry
    readers: Readers

    def reading(self) -> Connection:
        """A connection on which each statement stands for itself: without BEGIN and ROLLBACK a read costs half."""
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def services() -> Services:
    """The services of the application that handles the present request."""
    return cast("Services", current_app.extensions[EXTENSION])
