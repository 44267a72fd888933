"""Child processes: started, watched, started again when they die, and stopped.

Each runs in a session of its own, so that Ctrl-C in a terminal reaches only the supervisor, which then stops
them in order. On Linux each also ends by itself (SIGINT) when the thread that started it is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event, Thread
from types import FrameType
from typing import IO, Final

from loguru import logger

from deploy.embedded import launch
from deploy.terminal import MergedOutput
from scheduler.clock import Clock

_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 30.0
_HEALTHY_AFTER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_LAST_WORDS_SECONDS: Final = 1.0

_ORDERLY: Final = frozenset({0, -signal.SIGTERM, -signal.SIGINT})
"""How a program ends that was asked to: by an operator, or by an init that asks all processes of a system at once."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: `python -m module`, shown under `name`."""

    name: str
    module: str


def python_module(module: str) -> list[str]:
    """The command that runs a module of ours as a program.

    `-P`: a folder named `api` where the user happens to be must not be taken for it.
    """
    return [sys.executable, "-P", "-m", module]


def run_in_foreground(module: str, environment: Mapping[str, str]) -> int:
    """Run a module of ours as a child until it ends, with our terminal and our signals; returns its exit code.

    A child that a signal ended gives 128 and the signal's number, as shells have it.
    """
    process = _start(module, environment, output=None)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hand_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _start(module: str, environment: Mapping[str, str], output: int | None) -> subprocess.Popen[bytes]:
    """Start a module in a session of its own, tied to the life of this thread."""
    identity = ["invoker", str(os.getpid()), "0", "0"]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", launch.__file__, *identity, *python_module(module)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


class Child:
    """One program that is to run at all times."""

    def __init__(
        self, program: Program, environment: Mapping[str, str], output: MergedOutput, clock: Clock
    ) -> None:
        self.program = program
        self._environment = dict(environment)
        self._output = output
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: Thread | None = None
        self._started_at = 0.0
        self._start_again_at: float | None = None
        self._backoff_seconds = _FIRST_BACKOFF_SECONDS

    def start(self) -> None:
        """Start it now."""
        process = _start(self.program.module, self._environment, subprocess.PIPE)
        self._process, self._start_again_at = process, None
        self._started_at = self._clock.monotonic()
        self._reader = Thread(target=self._pass_on, args=(process.stdout,), daemon=True)
        self._reader.start()
        logger.bind(name=self.program.name, pid=process.pid).info("process_started")

    def keep_running(self) -> int | None:
        """Start it again if it is gone and its pause is over; its exit code where it has just ended."""
        now = self._clock.monotonic()
        if self._start_again_at is not None:
            if now >= self._start_again_at:
                self.start()
            return None
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._plan_restart(code, now)
        return code

    def ask_to_stop(self) -> None:
        """Ask it to end, if it runs; it will not be started again."""
        self._start_again_at = None
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_for_end(self, patience_seconds: float, give_up: Event) -> bool:
        """Wait until it has ended; False if it had to be killed. Setting `give_up` cuts the wait short."""
        if self._process is None:
            return True
        in_time = self._ends_within(self._process, patience_seconds, give_up)
        self._kill_group(self._process)
        self._process.wait()
        if self._reader is not None:
            self._reader.join(_LAST_WORDS_SECONDS)
        logger.bind(name=self.program.name, in_time=in_time).info("process_stopped")
        return in_time

    def _plan_restart(self, code: int, now: float) -> None:
        if self._process is not None:
            self._kill_group(self._process)
        if now - self._started_at >= _HEALTHY_AFTER_SECONDS:
            self._backoff_seconds = _FIRST_BACKOFF_SECONDS
        told = logger.bind(
            name=self.program.name, ended_by=_ending(code), again_in_seconds=self._backoff_seconds
        )
        if code in _ORDERLY:
            told.info("process_ended")
        else:
            told.error("process_died")
        self._start_again_at = now + self._backoff_seconds
        self._backoff_seconds = min(2 * self._backoff_seconds, _LONGEST_BACKOFF_SECONDS)

    def _ends_within(self, process: subprocess.Popen[bytes], seconds: float, give_up: Event) -> bool:
        deadline = self._clock.monotonic() + seconds
        while process.poll() is None:
            if self._clock.monotonic() >= deadline or give_up.wait(_POLL_SECONDS):
                return False
        return True

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of its session: the child itself, or children it left behind."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _pass_on(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._output.write_line(self.program.name, line.decode(errors="replace").rstrip())


def _ending(code: int) -> str:
    """How a process ended, in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
