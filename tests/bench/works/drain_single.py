"""Drain: one HTTP request for each message, through RabbitMQ, the log on PostgreSQL with fsync on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.bench.databases import database
from tests.bench.environment import Environment
from tests.bench.limits import curl_drain
from tests.bench.measures import Result
from tests.bench.ours import THREADS_OF_A_WORKER, drain, our_processes
from tests.bench.peer_runs import PEERS, PeerRuns
from tests.bench.rounds import Contestants, Drains, alternate

UNIT = "messages/s"


def measure(environment: Environment) -> Sequence[Result]:
    """Ours beside the peers and a bare libcurl loop, all against the same nginx."""
    size, url = environment.sizes.drain, environment.nginx.url
    with (
        database(environment.server, "drain_single") as own,
        our_processes(environment, own, url, worker_threads=THREADS_OF_A_WORKER),
        PeerRuns(environment) as runs,
    ):
        own.add_users(size)
        drains = Drains(partial(drain, environment, own), partial(curl_drain, url, size))
        contestants: Contestants = {
            **drains.contestants,
            **({peer.name: partial(runs.rate, peer, url) for peer in PEERS} if environment.peers else {}),
        }
        before = environment.nginx.requests()
        rounds = alternate(environment, UNIT, contestants)
    asked = environment.nginx.requests() - before
    if asked < 2 * size * len(rounds):
        environment.note(f"NGINX SAW ONLY {asked:,} requests")
    return drains.results("drain, one request a message", UNIT, rounds)
