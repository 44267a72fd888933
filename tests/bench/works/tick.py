"""The enqueue tick with nothing due: with few future rows, and with as many as time and disk allow."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Final

from scheduler.broker.rabbitmq import RabbitBroker
from scheduler.clock import SystemClock
from scheduler.jobs.enqueue import Enqueue
from scheduler.store import batches
from tests.bench.databases import ZONES, Database, database
from tests.bench.environment import Environment
from tests.bench.future import fill
from tests.bench.measures import LIMIT, OURS, Result, summarize
from tests.bench.rounds import alternate

_ROWS: Final = "SELECT count(*) FROM message_log"


def measure(environment: Environment) -> Sequence[Result]:
    """The cost with many rows; the limit is the cost with few, so a ratio of one says that they are equal."""
    sizes = environment.sizes
    large = environment.large_log
    if not large.scalar(_ROWS):
        fill(large, sizes.log)
    with database(environment.server, "tick") as small:
        small.add_users(sizes.few_future_rows, zones=ZONES)
        fill(small, sizes.few_future_rows)
        contestants = {
            OURS: lambda: _milliseconds(environment, large),
            LIMIT: lambda: _milliseconds(environment, small),
        }
        rounds = alternate(environment, "ms", contestants)
        few, many = (int(each.scalar(_ROWS)) for each in (small, large))
    work = f"tick with nothing due, {many:,} future rows against {few:,}"
    return [summarize(work, "ms", rounds)]


def _milliseconds(environment: Environment, own: Database) -> float:
    """The median cost of one look at what is due, with nothing due, through RabbitMQ's adapter."""
    clock = SystemClock()
    broker = RabbitBroker(environment.broker_url, own.engine, clock)
    enqueue = Enqueue(own.engine, broker, clock)
    taken = []
    for _ in range(environment.sizes.ticks):
        started = perf_counter()
        counts = enqueue.run(clock.now())
        with own.engine.connect() as connection:
            batches.next_due(connection)
        taken.append(1000 * (perf_counter() - started))
        if counts["enqueued"]:
            raise RuntimeError("something was due")
    broker.close()
    return median(taken)
