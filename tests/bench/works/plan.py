"""Plan a million messages, into an empty log and into one of ten million rows, all in the same partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from time import perf_counter

from sqlalchemy import text

from tests.bench.databases import HORIZON, Database
from tests.bench.environment import Environment
from tests.bench.future import fill
from tests.bench.limits import prepare_plan_limit, sql_plan_rate
from tests.bench.measures import LIMIT, OURS, Result, Round, summarize
from tests.bench.rounds import alternate

UNIT = "messages/s"


def measure(environment: Environment) -> Sequence[Result]:
    """Ours beside `INSERT ... SELECT` of the same rows."""
    sizes = environment.sizes
    large = environment.large_log
    numbers = count(1_000_000)
    prepare_plan_limit(large)
    into_empty = _rounds(environment, large, numbers, large.empty_log)
    large.empty_log()
    rows = fill(large, sizes.log)
    into_large = _rounds(environment, large, numbers, lambda: None)
    grown = int(large.scalar("SELECT count(*) FROM message_log"))
    environment.note(f"the large log grew from {rows:,} to {grown:,} rows in the rounds")
    return [
        summarize(f"plan {sizes.plan:,} into an empty log", UNIT, into_empty),
        summarize(f"plan {sizes.plan:,} into a log of {rows:,}", UNIT, into_large),
    ]


def _rounds(
    environment: Environment, own: Database, numbers: Iterator[int], begin: Callable[[], None]
) -> list[Round]:
    noon = datetime.combine(tomorrow(), time(12), UTC)

    def ours() -> float:
        begin()
        own.add_occasion(f"plan-{next(numbers)}", noon.date(), time(12))
        now = noon - timedelta(days=1)
        started = perf_counter()
        planned = own.planner.plan(now=now, through=now + HORIZON)
        rate = planned.added / (perf_counter() - started)
        own.execute(text("UPDATE occasions SET active = false"))
        return rate

    def limit() -> float:
        begin()
        return sql_plan_rate(own, next(numbers), noon)

    return alternate(environment, UNIT, {OURS: ours, LIMIT: limit})


def tomorrow() -> date:
    """The local date that is planned: ahead of all that runs meanwhile."""
    return datetime.now(UTC).date() + timedelta(days=1)
