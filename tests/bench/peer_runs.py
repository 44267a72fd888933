"""Run a peer's own worker over made-up messages, and see how many it sends a second.

All messages are enqueued before its worker starts, and its rate is taken from the middle of its run: neither
enqueuing nor starting counts against it. Each message brings all that is to be sent, so that a task reads nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Final, Self

from sqlalchemy import text

from tests.bench.databases import Database, database
from tests.bench.environment import Environment
from tests.bench.measures import steady_rate
from tests.bench.processes import ROOT, Process, Processes, processes

_LONGEST_SECONDS: Final = 60.0
_FEWEST: Final = 200
_SECONDS_BETWEEN_LOOKS: Final = 0.1
_SECONDS_TO_END: Final = 0.5
"""Given to a peer whose work is done and committed, for its last acknowledgements. Celery took 15 s and more."""


_TABLE: Final = """
CREATE TABLE peer_messages (LIKE message_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    PRIMARY KEY (user_id, local_date, occasion_id, slot, channel)) WITH (fillfactor = 44)"""
_SEED: Final = text("""
INSERT INTO peer_messages (user_id, send_at, batch_id, occasion_id, local_date, channel, tenant_id, state, user_version,
                           date_rule, time_rule, slot, attempt, timezone)
SELECT n, timestamptz '2026-01-01 09:00+00', 1, 1, date '2026-01-01', 'email', 1, 'sending', 1, 'exact', 'exact', 0, 1,
       'Etc/UTC'
FROM generate_series(1, :count) AS n""")
SENT: Final = "SELECT count(*) FROM peer_messages WHERE state = 'sent'"
"""How many messages a peer has sent."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: the commands of its worker processes, in its environment's `bin`, and a first guess at its rate."""

    name: str
    commands: Sequence[Sequence[str]]
    guess: int
    """Messages a second, for the size of the first round."""

    variables: Mapping[str, str]
    has_tables: bool = False
    """Whether it has tables of its own, to be created first."""


_MODULES: Final = "tests.bench.peers"

PEERS: Final = (
    Peer(
        "celery",
        [
            [
                "celery", "-A", f"{_MODULES}.celery_peer", "worker", "--pool=threads", "--concurrency=8",
                f"--hostname={node}@localhost", "--without-gossip", "--without-mingle", "--without-heartbeat",
                "--loglevel=ERROR",
            ]
            for node in ("first", "second")
        ],
        guess=1000,
        variables={},
    ),
    Peer(
        "dramatiq",
        [["dramatiq", f"{_MODULES}.dramatiq_peer", "--processes", "2", "--threads", "8"]],
        guess=1000,
        variables={"dramatiq_queue_prefetch": "256"},
    ),
    Peer(
        "taskiq",
        [
            [
                "taskiq", "worker", f"{_MODULES}.taskiq_peer:broker", "--workers", "2", "--max-async-tasks", "64",
                "--max-prefetch", "256", "--no-parse", "--log-level", "ERROR",
            ]
        ],
        guess=700,
        variables={},
    ),
    Peer(
        "pgqueuer",
        [["python", "-m", f"{_MODULES}.pgqueuer_peer"]] * 2,
        guess=2000,
        variables={},
        has_tables=True,
    ),
    Peer(
        "procrastinate",
        [["python", "-m", f"{_MODULES}.procrastinate_peer"]] * 2,
        guess=200,
        variables={},
        has_tables=True,
    ),
)  # fmt: skip


class PeerRuns:
    """Runs peers in turn, each in a database of its own; a round is as long as the one before says it should be."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._rates = {peer.name: float(peer.guess) for peer in PEERS}
        self._databases: dict[str, Database] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rate(self, peer: Peer, sink_url: str) -> float:
        """Messages a second that a peer's worker sends to the sink and commits as sent."""
        environment = self._environment
        count = max(_FEWEST, int(self._rates[peer.name] * environment.sizes.peer_seconds))
        own = self._database(peer)
        seed(own, count)
        variables = variables_of(environment, peer, own, sink_url)
        run(environment, peer, variables, "enqueue", "1", str(count))
        with peer_processes(environment) as started:
            rate = steady_rate(_progress(own, start_workers(environment, peer, variables, started), count))
        self._rates[peer.name] = rate
        return rate

    def _database(self, peer: Peer) -> Database:
        if peer.name not in self._databases:
            own = self._stack.enter_context(database(self._environment.server, f"peer_{peer.name}"))
            if peer.has_tables:
                run(self._environment, peer, variables_of(self._environment, peer, own, ""), "install")
            self._databases[peer.name] = own
        return self._databases[peer.name]


def peer_processes(environment: Environment) -> AbstractContextManager[Processes]:
    """For a peer's processes, gone at the end."""
    return processes(environment.folder / "peers", environment.memory, seconds_to_end=_SECONDS_TO_END)


def seed(own: Database, count: int) -> None:
    """The rows that a peer's tasks update, in a table like ours."""
    own.execute(text("DROP TABLE IF EXISTS peer_messages"))
    own.execute(text(_TABLE))
    own.execute(_SEED, count=count)
    own.vacuum("peer_messages")


def variables_of(environment: Environment, peer: Peer, own: Database, sink_url: str) -> dict[str, str]:
    """The environment variables of a peer's processes."""
    return {
        **os.environ,
        **peer.variables,
        "PYTHONPATH": str(ROOT),
        "BENCH_DATABASE_URL": own.plain_url,
        "BENCH_BROKER_URL": environment.broker_url,
        "BENCH_SINK_URL": sink_url,
    }


def run(environment: Environment, peer: Peer, variables: Mapping[str, str], *arguments: str) -> None:
    """Do what a peer has no command for. Raises RuntimeError with what it said."""
    command = [str(_bin(environment) / "python"), "-m", _MODULES, peer.name, *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{peer.name} {arguments[0]} failed:\n{ran.stderr[-2000:]}")


def start_workers(
    environment: Environment, peer: Peer, variables: Mapping[str, str], started: Processes
) -> list[Process]:
    """Start a peer's worker processes."""
    return [
        started.start(peer.name, [_bin(environment) / command[0], *command[1:]], variables)
        for command in peer.commands
    ]


def _progress(own: Database, started: Sequence[Process], count: int) -> list[tuple[float, int]]:
    """When how many messages were committed as sent, until all are. Raises RuntimeError where a process ends.

    Looked at ten times a second: counting costs the peer something as well.
    """
    rest = Event()
    looks: list[tuple[float, int]] = []
    for _ in range(int(_LONGEST_SECONDS / _SECONDS_BETWEEN_LOOKS)):
        looks.append((perf_counter(), int(own.scalar(SENT))))
        if looks[-1][1] >= count:
            return looks
        for process in started:
            if not process.is_running():
                raise RuntimeError(f"{process.role} ended:\n{process.log[-2000:]}")
        rest.wait(_SECONDS_BETWEEN_LOOKS)
    raise RuntimeError(f"{started[0].role} sent {looks[-1][1]:,} of {count:,} in {_LONGEST_SECONDS:.0f} s")


def _bin(environment: Environment) -> Path:
    assert environment.peers is not None, "the peers are not installed"
    return environment.peers / "bin"
