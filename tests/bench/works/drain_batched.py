"""Drain: 500 messages in each HTTP request, through RabbitMQ, the log on PostgreSQL with fsync on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.bench.databases import database
from tests.bench.environment import Environment
from tests.bench.limits import sql_drain
from tests.bench.measures import Result
from tests.bench.ours import THREADS_OF_A_WORKER, drain, our_processes
from tests.bench.rounds import Drains, alternate

UNIT = "messages/s"
_CONNECTIONS = 4


def measure(environment: Environment) -> Sequence[Result]:
    """Ours beside the bare statements of the same reads and updates."""
    url = environment.nginx.url
    users = environment.sizes.batched_drain
    with (
        database(environment.server, "drain_batched") as own,
        # The limit writes in a database of its own, where no scheduler looks for what is due.
        database(environment.server, "drain_limit") as bare,
        our_processes(environment, own, url, batched=True, worker_threads=THREADS_OF_A_WORKER),
    ):
        for each in (own, bare):
            each.add_users(users)
        drains = Drains(partial(drain, environment, own), partial(sql_drain, bare, _CONNECTIONS))
        rounds = alternate(environment, UNIT, drains.contestants)
    return drains.results("drain, 500 messages a request", UNIT, rounds)
