"""What the main module of every process does: settings, logs, signals, and one line where it cannot start."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from threading import Event
from types import FrameType

from scheduler.errors import ConfigurationError
from scheduler.logs import configure_logs
from scheduler.settings import Settings, load_settings

CONFIGURATION_EXIT = 78
"""Exit code for a wrong setting (sysexits.h: EX_CONFIG)."""


def run_process(service: str, run: Callable[[Settings, Event], None]) -> None:
    """Run the process `service` until SIGTERM or SIGINT sets its stop event; a wrong setting ends it with one line."""
    stop = Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    try:
        settings = load_settings()
        configure_logs(level=settings.log_level, log_format=settings.log_format, service=service)
        run(settings, stop)
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the logs may be what is set up wrongly
        sys.exit(CONFIGURATION_EXIT)
