"""What a run has: a folder, PostgreSQL and RabbitMQ on free ports, the peers if they are installed, its sizes."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import click

from deploy.embedded import EmbeddedServer, start_embedded
from tests.bench.databases import ZONES, Database, database
from tests.bench.memory import Memory
from tests.bench.processes import ROOT
from tests.bench.sinks import Nginx, running_nginx
from tests.fixtures.rabbitmq import rabbitmq_nodes

PEERS_FOLDER: Final = ROOT / ".venv-peers"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each work is done; in messages unless it says otherwise."""

    rounds: int = 5
    drain: int = 100_000
    batched_drain: int = 160_000
    plan: int = 1_000_000
    log: int = 10_000_000
    """Rows that lie in the log where planning into a large one is measured."""

    burst: int = 1_000_000
    burst_of_peer: int = 20_000
    few_future_rows: int = 100_000
    punctual_seconds: int = 600
    punctual_rate: int = 500
    peer_seconds: float = 1.5
    """How long one peer works in one round, by what it did in the round before."""

    api_users: int = 700
    api_reads: int = 2_500
    imported: int = 100_000
    ticks: int = 200
    lease_seconds: int = 10
    """How long the batches of the killed worker are kept from others."""


SHORT: Final = Sizes(
    rounds=2,
    drain=5_000,
    batched_drain=10_000,
    plan=20_000,
    log=100_000,
    burst=10_000,
    burst_of_peer=500,
    few_future_rows=20_000,
    punctual_seconds=5,
    punctual_rate=500,
    peer_seconds=1.0,
    api_users=400,
    api_reads=480,
    imported=4_000,
    ticks=50,
    lease_seconds=3,
)


@dataclass
class Environment:
    """Everything works share; what a work does not need is not started."""

    folder: Path
    server: EmbeddedServer
    sizes: Sizes
    memory: Memory
    workers: int
    peers: Path | None
    """The folder of the peers' environment; None where it is not installed or not wanted."""

    notes: list[str] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @cached_property
    def broker_url(self) -> str:
        """RabbitMQ, started when it is first asked for."""
        (node,) = self._stack.enter_context(rabbitmq_nodes())
        return node.url

    @cached_property
    def nginx(self) -> Nginx:
        """nginx, started when it is first asked for."""
        return self._stack.enter_context(running_nginx())

    @cached_property
    def large_log(self) -> Database:
        """A database with users, kept to the end of the run, for the works on a large log."""
        made = self._stack.enter_context(database(self.server, "large_log"))
        made.add_users(self.sizes.plan, zones=ZONES)
        return made

    def say(self, line: str) -> None:
        """Tell whoever watches."""
        click.echo(line)

    def note(self, line: str) -> None:
        """Tell whoever watches, and whoever reads the results."""
        self.notes.append(line)
        self.say(f"  {line}")


@contextmanager
def environment(sizes: Sizes, *, workers: int, with_peers: bool) -> Iterator[Environment]:
    """An environment whose servers and files are gone at the end."""
    # A run that is told to stop leaves neither processes nor gigabytes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    # Not in /tmp, which may be memory: fsync must cost what it costs.
    folder = Path(tempfile.mkdtemp(prefix="daybreak-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    memory = Memory()
    installed = (PEERS_FOLDER / "bin" / "celery").exists()
    try:
        with start_embedded(folder / "postgresql") as server, ExitStack() as stack:
            peers = PEERS_FOLDER if with_peers and installed else None
            yield Environment(folder, server, sizes, memory, workers, peers, _stack=stack)
    finally:
        memory.close()
        shutil.rmtree(folder, ignore_errors=True)
