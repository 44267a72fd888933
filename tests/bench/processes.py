"""Processes of ours and of peers: started with a log, watched, and stopped whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.bench.memory import Memory
from tests.fixtures.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
_SECONDS_TO_END: Final = 15.0


class Process:
    """A running process in a group of its own, and what it wrote."""

    def __init__(
        self, role: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.role = role
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """All it has written so far."""
        return self._log.read_text("utf-8", errors="replace")

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def has_written(self, words: str) -> bool:
        """Whether it wrote these words; raises RuntimeError where it ended without them."""
        ended = not self.is_running()
        if words in self.log:
            return True
        if ended:
            raise RuntimeError(f"{self.role} ended without {words!r}:\n{self.log[-2000:]}")
        return False

    def kill(self) -> None:
        """kill -9, its children included."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def ask_to_end(self) -> None:
        """SIGTERM, as a supervisor sends it."""
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)

    def end(self, seconds: float) -> None:
        """Wait for it to end, for so long at most; kill what is left of its group then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()


class Processes:
    """Starts processes with logs in one folder; their memory is watched."""

    def __init__(self, folder: Path, memory: Memory, seconds_to_end: float) -> None:
        self._folder = folder
        self._memory = memory
        self._seconds_to_end = seconds_to_end
        self._started: list[Process] = []

    def start(self, role: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> Process:
        """Start a process under the name of its role."""
        log = self._folder / f"{role}-{len(self._started) + 1}.log"
        process = Process(role, command, log, environment)
        self._started.append(process)
        self._memory.watch(role, process.pid)
        return process

    def start_ours(self, role: str, settings: Mapping[str, object]) -> Process:
        """Start `python -m role`, `scheduler` or `worker`, with settings by their names."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBREAK_")}
        own = {f"DAYBREAK_{name.upper()}": str(value) for name, value in settings.items()}
        return self.start(role, [sys.executable, "-m", role], inherited | own)

    def stop(self) -> None:
        """End all of them, side by side."""
        for process in reversed(self._started):
            process.ask_to_end()
        for process in reversed(self._started):
            process.end(self._seconds_to_end)
        self._started.clear()


@contextmanager
def processes(
    folder: Path, memory: Memory, *, seconds_to_end: float = _SECONDS_TO_END
) -> Iterator[Processes]:
    """Processes that are all gone at the end; one that takes longer to end than these seconds is killed."""
    folder.mkdir(exist_ok=True)
    started = Processes(folder, memory, seconds_to_end)
    try:
        yield started
    finally:
        started.stop()


def wait_until_started(running: Sequence[Process]) -> None:
    """Return once schedulers and workers have said that they are ready."""
    for process in running:
        wait_until(
            lambda process=process: process.has_written(f"{process.role}_started"),  # type: ignore[misc]
            f"{process.role} has started",
            seconds=60,
        )
