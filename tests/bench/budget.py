"""Where a message's microseconds go: processor time of each process in a drain, and of the worker by what it does.

    python -m tests.bench.budget [--messages 100000] [--batched] [--workers 1]

Processor time is counted by the kernel, so other work on the machine disturbs it little. The worker's own is divided
by py-spy, from the peers' environment, and where that is missing left whole. Nothing is written; it prints a table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import psutil

from scheduler.logs import configure_logs
from tests.bench.databases import Database, database
from tests.bench.environment import PEERS_FOLDER, Environment, Sizes, environment
from tests.bench.ours import THREADS_OF_A_WORKER, Ours, await_finished, begin_at, our_processes

_SPY: Final = PEERS_FOLDER / "bin" / "py-spy"
_SAMPLES_A_SECOND: Final = 200
_LONGEST_SECONDS: Final = 600
_FUNCTIONS: Final = 25

# The first that fits a stack, from the innermost frame outwards, says what the sample was spent on.
_KINDS: Final = (
    ("http", r"worker/channels/"),
    ("rendering", r"worker/(rendering|templates)|scheduler/(texts|links)|jinja2"),
    ("broker", r"pika|scheduler/broker"),
    ("database: rows and statements", r"psycopg|sqlalchemy"),
    ("database: store", r"scheduler/store"),
    ("claims and results", r"worker/(claims|claiming|results|delivery)"),
)
_OTHER: Final = "everything else"


def kind_of(stack: str) -> str:
    """What a stack of py-spy's raw form (frames from the outermost, with semicolons between) is spent on."""
    for frame in reversed(stack.split(";")):
        for kind, pattern in _KINDS:
            if re.search(pattern, frame):
                return kind
    return _OTHER


def divided(lines: Iterable[str]) -> dict[str, float]:
    """The share of each kind in py-spy's raw output: lines of a stack and a number of samples."""
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        counted[kind_of(stack)] += int(samples)
    return {kind: samples / counted.total() for kind, samples in counted.most_common()}


def costliest(lines: Iterable[str], most: int) -> dict[str, float]:
    """The shares of the innermost frames, the most expensive first: what libcurl does counts for its caller."""
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        counted[stack.rpartition(";")[2]] += int(samples)
    return {frame: samples / counted.total() for frame, samples in counted.most_common(most)}


def main() -> None:
    """Drain once and print the budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batched", action="store_true", help="500 messages in a request")
    options = parser.parse_args()
    configure_logs(level="WARNING", log_format="human", service="bench")
    with (
        environment(Sizes(), workers=options.workers, with_peers=False) as made,
        database(made.server, "budget") as own,
    ):
        own.add_users(options.messages)
        spent, samples = _drain(made, own, batched=options.batched)
    _print(spent, samples, options.messages)


def _print(spent: Mapping[str, float], samples: Sequence[str], messages: int) -> None:
    for name, seconds in sorted(spent.items(), key=lambda each: -each[1]):
        microseconds = 1e6 * seconds / messages
        click.echo(f"{name:<36} {microseconds:8.1f} µs a message")
        if name == "worker" and samples:
            for kind, share in divided(samples).items():
                click.echo(f"  {kind:<34} {share * microseconds:8.1f}")
            click.echo("  by the innermost function:")
            for frame, share in costliest(samples, _FUNCTIONS).items():
                click.echo(f"    {share * microseconds:6.1f}  {frame}")


def _drain(made: Environment, own: Database, *, batched: bool) -> tuple[Mapping[str, float], Sequence[str]]:
    raw = made.folder / "samples"
    threads = THREADS_OF_A_WORKER
    with our_processes(made, own, made.nginx.url, batched=batched, worker_threads=threads) as ours:
        due = begin_at(int(own.scalar("SELECT count(*) FROM users")))
        own.plan_due_at("budget", due)
        before = _processor_seconds(ours)
        with _spied(ours, raw):
            await_finished(own)
        after = _processor_seconds(ours)
    samples = raw.read_text().splitlines() if raw.exists() else []
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}, samples


@contextmanager
def _spied(ours: Ours, raw: Path) -> Iterator[None]:
    """Sample one worker, if there is something to do it with."""
    if not _SPY.exists():
        yield
        return
    command = [
        str(_SPY),
        "record",
        "--pid",
        str(ours.workers[0].pid),
        "--format",
        "raw",
        "--output",
        str(raw),
    ]
    command += [
        "--function",
        "--rate",
        str(_SAMPLES_A_SECOND),
        "--duration",
        str(_LONGEST_SECONDS),
        "--nonblocking",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
        yield
        spy.send_signal(2)
        spy.wait(30)


def _processor_seconds(ours: Ours) -> dict[str, float]:
    """Processor time so far, by process; of PostgreSQL by the kind of its processes."""
    named = {ours.scheduler.pid: "scheduler", **{worker.pid: "worker" for worker in ours.workers}}
    seconds: defaultdict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        try:
            name = named.get(process.pid) or _server(process)
            if name is not None:
                times = process.cpu_times()
                seconds[name] += times.user + times.system
        except psutil.Error:
            continue
    return dict(seconds)


def _server(process: psutil.Process) -> str | None:
    """The server that a process belongs to; None for what is none."""
    name = process.name()
    if name == "postgres":
        title = " ".join(process.cmdline())
        return "PostgreSQL: sessions" if "daybreak" in title and "(" in title else "PostgreSQL: background"
    return {"nginx": "nginx", "beam.smp": "RabbitMQ"}.get(name)


if __name__ == "__main__":
    main()
