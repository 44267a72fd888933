"""Our processes at work: a scheduler and workers through RabbitMQ, towards one HTTP provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Final

from tests.bench.databases import HORIZON, LATENESS_LIMIT, Database
from tests.bench.environment import Environment
from tests.bench.measures import Drained
from tests.bench.processes import Process, Processes, processes, wait_until_started

_SECONDS_TO_PLAN: Final = 1.0
_PLANNED_A_SECOND: Final = 150_000
"""Messages that are planned in a second at least, unless the machine is busy."""

THREADS_OF_A_WORKER: Final = 1
"""Where providers answer at once, a process a core with one thread takes the least time (decision 0014)."""

_SECONDS_BETWEEN_LOOKS: Final = 0.05
_LONGEST_DRAIN_SECONDS: Final = 900

_SINGLE: Final = """
[providers.sink]
kind = "http"
url = "{url}"
concurrency = 64

[channels.email]
providers = ["sink"]
"""
_BATCHED: Final = """
[providers.sink]
kind = "http"
url = "{url}"
body = '{{"messages": "{{messages}}"}}'
concurrency = 8

[providers.sink.batch]
element = '{{"id": "{{id}}", "to": "{{address}}", "subject": "{{subject}}", "text": "{{text}}"}}'
most = 500

[channels.email]
providers = ["sink"]
"""

ELEMENTS: Final = "messages"
"""The member of a batched request's body that holds its messages."""


@dataclass
class Ours:
    """A scheduler and workers that are ready."""

    started: Processes
    settings: dict[str, object]
    scheduler: Process
    workers: list[Process]

    def start_worker(self) -> Process:
        """One more worker."""
        worker = self.started.start_ours("worker", self.settings)
        self.workers.append(worker)
        return worker


@contextmanager
def our_processes(
    environment: Environment,
    database: Database,
    sink_url: str,
    *,
    batched: bool = False,
    workers: int | None = None,
    **settings: object,
) -> Iterator[Ours]:
    """Our processes, ready to deliver to a sink; gone at the end."""
    folder = environment.folder / "processes"
    providers = _providers_file(environment.folder, sink_url, batched=batched)
    with processes(folder, environment.memory) as started:
        common: dict[str, object] = {
            "database_url": database.url,
            "broker_url": environment.broker_url,
            "data_dir": environment.folder,
            "providers_file": providers,
            "lateness_limit": f"PT{int(LATENESS_LIMIT.total_seconds())}S",
            "horizon": f"PT{int(HORIZON.total_seconds())}S",
            "log_level": "INFO",
            **settings,
        }
        scheduler = started.start_ours("scheduler", common)
        ours = Ours(started, common, scheduler, [])
        for _ in range(workers or environment.workers):
            ours.start_worker()
        wait_until_started([scheduler, *ours.workers])
        yield ours


def begin_at(messages: int) -> datetime:
    """An instant by which that many messages will have been planned; a whole second, as people choose."""
    soon = timedelta(seconds=1 + _SECONDS_TO_PLAN + messages / _PLANNED_A_SECOND)
    return (datetime.now(UTC) + soon).replace(microsecond=0)


def drain(environment: Environment, database: Database) -> Drained:
    """The rates of a drain; the whole lasts from the instant at which all fall due to the last outcome in the log.

    Our processes must be running; whoever else is measured meanwhile finds them idle.
    """
    database.empty_log()
    due = begin_at(int(database.scalar("SELECT count(*) FROM users")))
    planned = database.plan_due_at("drain", due)
    # Planning that took longer than it was given time for is not counted as delivery.
    began = max(due, datetime.now(UTC))
    ended = await_finished(database)
    sent = database.sent()
    if sent != planned:
        environment.note(f"NOT ALL WAS SENT: {sent:,} of {planned:,}")
    return Drained(steady=database.steady_rate(), whole=sent / (ended - began).total_seconds())


def await_finished(database: Database, unless: Callable[[], None] = lambda: None) -> datetime:
    """The instant at which no batch was left to be delivered; `unless` is called at each look, and may raise."""
    rest = Event()
    for _ in range(int(_LONGEST_DRAIN_SECONDS / _SECONDS_BETWEEN_LOOKS)):
        if not database.unfinished_batches():
            return datetime.now(UTC)
        unless()
        rest.wait(_SECONDS_BETWEEN_LOOKS)
    raise RuntimeError(f"not drained within {_LONGEST_DRAIN_SECONDS} s")


def _providers_file(folder: Path, sink_url: str, *, batched: bool) -> Path:
    path = folder / ("providers-batched.toml" if batched else "providers.toml")
    path.write_text((_BATCHED if batched else _SINGLE).format(url=sink_url))
    return path
