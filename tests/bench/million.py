"""Plan a million messages and drain them through each provider, in bounded memory.

    python -m tests.bench.million [--messages N] [--providers outbox,http] [--workers N]

Everything is real: PostgreSQL with fsync on, a scheduler and worker processes, a sink on loopback that keeps
a ledger. The log is compared with what the provider took at the end of each drain. Rates and the largest
resident memory of each process are printed; nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Final

import click
from sqlalchemy import Engine, text

from deploy.embedded import start_embedded
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Occasion, OnceRule
from scheduler.domain.user import UserInput
from scheduler.logs import configure_logs
from scheduler.planner import Planner, PlanningPolicy
from scheduler.registry import Registry
from scheduler.store import migrate, occasions
from scheduler.store.database import create_database_engine
from tests.fixtures.occasions import an_occasion

_TENANT: Final = 1
_USERS_AT_ONCE: Final = 5_000
_ZONES: Final = (
    "America/New_York",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Africa/Lagos",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Sydney",
)
_LATENESS_LIMIT: Final = timedelta(days=7)
_REST_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain: how long it took, how large each process became, and what both sides counted."""

    provider: str
    seconds: float
    sent: int
    accepted: int
    repeated: int
    peak_megabytes: dict[str, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement and print its table."""
    options = _options(arguments)
    configure_logs(level="WARNING", log_format="human", service="bench")
    with tempfile.TemporaryDirectory(prefix="daybreak-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with start_embedded(root / "postgresql") as server:
            engine = create_database_engine(server.url, pool_size=4, application_name="daybreak-bench")
            migrate.upgrade(engine)
            planner = Planner(engine, PlanningPolicy(timedelta(hours=48), _LATENESS_LIMIT))
            _add_users(engine, planner, options.messages)
            for provider in options.providers.split(","):
                _plan(engine, planner, provider)
                _report(_drain(engine, server.url, provider, root, options.workers))
            engine.dispose()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--providers", default="outbox,http")
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    click.echo(line)


def _add_users(engine: Engine, planner: Planner, count: int) -> None:
    registry = Registry(engine, planner, SystemClock())
    started = perf_counter()
    for first in range(0, count, _USERS_AT_ONCE):
        numbers = range(first, min(count, first + _USERS_AT_ONCE))
        registry.upsert(_TENANT, [_user(number) for number in numbers])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE users"))
    _say(
        f"users added       {count:>10,}   {count / (perf_counter() - started):>9,.0f} users/s, planning included"
    )


def _user(number: int) -> UserInput:
    return UserInput(
        external_id=f"user-{number:07}",
        first_name="Ann",
        last_name=f"Example {number}",
        email=f"user-{number:07}@example.com",
        timezone=_ZONES[number % len(_ZONES)],
    )


def _plan(engine: Engine, planner: Planner, provider: str) -> None:
    """Plan an occasion of yesterday noon for everyone, as if planning had happened before it."""
    now = datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    midnight = datetime.combine(yesterday, time(), UTC)
    with engine.begin() as connection:
        occasions.add(connection, _occasion(provider, yesterday), now=now)
    started = perf_counter()
    planned = planner.plan(now=midnight - timedelta(days=1), through=midnight + timedelta(days=2))
    seconds = perf_counter() - started
    _say(f"planned           {planned.added:>10,}   {planned.added / seconds:>9,.0f} messages/s")


def _occasion(provider: str, on: date) -> Occasion:
    return an_occasion(
        key=provider, rule=OnceRule(on), local_times=(time(12),), body="Hello, {{ full_name }}!"
    )


def _drain(engine: Engine, database_url: str, provider: str, root: Path, workers: int) -> Drained:
    outbox = root / "outbox.ndjson"
    with _sink(root / "ledger") as sink_url:
        environment = os.environ | {
            "DAYBREAK_DATABASE_URL": database_url,
            "DAYBREAK_DATA_DIR": str(root),
            "DAYBREAK_LATENESS_LIMIT": f"PT{int(_LATENESS_LIMIT.total_seconds())}S",
            "DAYBREAK_PROVIDER": provider,
            "DAYBREAK_OUTBOX_PATH": str(outbox),
            "DAYBREAK_HTTP_URL": sink_url,
            "DAYBREAK_LOG_LEVEL": "WARNING",
        }
        started = perf_counter()
        with _processes(["scheduler"] + ["worker"] * workers, environment) as processes:
            _await_drained(engine)
            seconds = perf_counter() - started
            peaks = {f"{name} {process.pid}": _peak_megabytes(process.pid) for name, process in processes}
        accepted, repeated = _taken(provider, outbox, sink_url)
    return Drained(provider, seconds, _sent(engine, provider), accepted, repeated, peaks)


@contextmanager
def _sink(ledger: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.fixtures.sink", "--port", "0", "--ledger", str(ledger)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sink:
        assert sink.stdout is not None
        found = re.search(r"http://\S+", sink.stdout.readline())
        assert found is not None, "the sink did not say where it listens"
        try:
            yield found[0]
        finally:
            sink.terminate()


@contextmanager
def _processes(
    names: Sequence[str], environment: dict[str, str]
) -> Iterator[list[tuple[str, subprocess.Popen[bytes]]]]:
    running = [(name, subprocess.Popen([sys.executable, "-m", name], env=environment)) for name in names]
    try:
        yield running
    finally:
        for _, process in running:
            process.send_signal(signal.SIGTERM)
        for _, process in running:
            process.wait()


def _await_drained(engine: Engine) -> None:
    rest = Event()
    unfinished = text("SELECT EXISTS (SELECT FROM batches WHERE state <> 'done')")
    while True:
        with engine.connect() as connection:
            if not connection.execute(unfinished).scalar_one():
                return
        rest.wait(_REST_SECONDS)


def _peak_megabytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) // 1024 if found else 0


def _taken(provider: str, outbox: Path, sink_url: str) -> tuple[int, int]:
    if provider == "outbox":
        with outbox.open() as lines:
            ids = [json.loads(line)["id"] for line in lines]
        return len(set(ids)), len(ids) - len(set(ids))
    with urllib.request.urlopen(f"{sink_url.rstrip('/')}/_counts") as answer:  # the sink's own address
        counts = json.load(answer)
    return counts["accepted_keys"], counts["repeats"]


def _sent(engine: Engine, provider: str) -> int:
    statement = text("""
        SELECT count(*) FROM message_log m JOIN occasions o ON o.id = m.occasion_id
        WHERE o.key = :key AND m.state = 'sent'""")
    with engine.connect() as connection:
        return int(connection.execute(statement, {"key": provider}).scalar_one())


def _report(drained: Drained) -> None:
    rate = drained.sent / drained.seconds
    _say(f"drained: {drained.provider:<8} {drained.sent:>10,}   {rate:>9,.0f} messages/s")
    verdict = "equal" if drained.sent == drained.accepted else "DIFFERENT"
    _say(f"  log {drained.sent:,}, provider {drained.accepted:,} ({verdict}), repeated {drained.repeated:,}")
    for process, megabytes in drained.peak_megabytes.items():
        _say(f"  {process}: at most {megabytes} MB resident")


if __name__ == "__main__":
    main()
