"""Run a peer's own worker over made-up messages, and see how many it sends a second.

All messages are enqueued before its worker starts, and its rate is taken from the middle of its run: neither
enqueuing nor starting counts against it. Each message brings all that is to be sent, so that a task reads nothing.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import text

from tests.bench.databases import Database, database
from tests.bench.environment import Environment
from tests.bench.measures import steady_rate
from tests.bench.processes import ROOT, Process, Processes, processes
from tests.fixtures.waiting import wait_until

_LONGEST_SECONDS: Final = 60.0
_FEWEST: Final = 200

_TABLE: Final = """
CREATE TABLE peer_messages (LIKE message_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    PRIMARY KEY (user_id, local_date, occasion_id, slot, channel)) WITH (fillfactor = 44)"""
_SEED: Final = text("""
INSERT INTO peer_messages (user_id, send_at, batch_id, occasion_id, local_date, channel, tenant_id, state, user_version,
                           date_rule, time_rule, slot, attempt, timezone)
SELECT n, timestamptz '2026-01-01 09:00+00', 1, 1, date '2026-01-01', 'email', 1, 'sending', 1, 'exact', 'exact', 0, 1,
       'Etc/UTC'
FROM generate_series(1, :count) AS n""")
_SENT: Final = "SELECT count(*) FROM peer_messages WHERE state = 'sent'"
_INSTANTS: Final = text("SELECT extract(epoch FROM accepted_at) FROM peer_messages WHERE state = 'sent'")


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: the commands of its worker processes, in its environment's `bin`, and a first guess at its rate."""

    name: str
    commands: Sequence[Sequence[str]]
    guess: int
    """Messages a second, for the size of the first round."""

    variables: Mapping[str, str]


_MODULES: Final = "tests.bench.peers"

PEERS: Final = (
    Peer(
        "celery",
        [
            [
                "celery", "-A", f"{_MODULES}.celery_peer", "worker", "--pool=prefork", "--concurrency=4",
                "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR",
            ]
        ],
        guess=700,
        variables={},
    ),
    Peer(
        "dramatiq",
        [["dramatiq", f"{_MODULES}.dramatiq_peer", "--processes", "2", "--threads", "4"]],
        guess=900,
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
        [["pgq", "run", f"{_MODULES}.pgqueuer_peer:main", "--batch-size", "250"]] * 2,
        guess=1500,
        variables={},
    ),
    Peer(
        "procrastinate",
        [["python", "-m", f"{_MODULES}.procrastinate_peer"]] * 2,
        guess=300,
        variables={},
    ),
)  # fmt: skip


class PeerRuns:
    """Runs peers in turn; each round is as long as the one before says it should be."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._rates = {peer.name: float(peer.guess) for peer in PEERS}

    def rate(self, peer: Peer, sink_url: str) -> float:
        """Messages a second that a peer's worker sends through the sink, in a database of its own."""
        sizes = self._environment.sizes
        count = max(_FEWEST, int(self._rates[peer.name] * sizes.peer_seconds))
        name = f"peer_{peer.name}_{secrets.token_hex(4)}"
        with database(self._environment.server, name) as own:
            with running_peer(self._environment, peer, own, sink_url, count) as started:
                wait_until(
                    lambda: own.scalar(_SENT) >= count, f"{peer.name} is done", seconds=_LONGEST_SECONDS
                )
            with own.engine.connect() as connection:
                rate = steady_rate(float(instant) for instant in connection.execute(_INSTANTS).scalars())
        self._rates[peer.name] = rate
        return rate


@contextmanager
def running_peer(
    environment: Environment, peer: Peer, own: Database, sink_url: str, count: int
) -> Iterator[list[Process]]:
    """A peer's worker processes, over messages that were all enqueued before; gone at the end."""
    seed(own, count)
    variables = variables_of(environment, peer, own, sink_url)
    run(environment, peer, variables, "install")
    run(environment, peer, variables, "enqueue", "1", str(count))
    with processes(environment.folder / "peers", environment.memory) as started:
        yield start_workers(environment, peer, variables, started)


def seed(own: Database, count: int) -> None:
    """The rows that a peer's tasks update, in a table like ours."""
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


def has_ended(started: Sequence[Process]) -> bool:
    """False as long as all of them run; raises RuntimeError with what one said that has ended."""
    for process in started:
        if not process.is_running():
            raise RuntimeError(f"{process.role} ended:\n{process.log[-2000:]}")
    return False


def _bin(environment: Environment) -> Path:
    assert environment.peers is not None, "the peers are not installed"
    return environment.peers / "bin"
