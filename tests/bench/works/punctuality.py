"""Punctuality: 500 messages due each second, for ten minutes; how late each is accepted, by the sink's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from sqlalchemy import text

from tests.bench.databases import Database, database
from tests.bench.environment import Environment
from tests.bench.measures import Result, percentile, single
from tests.bench.ours import await_finished, begin_at, our_processes
from tests.bench.sinks import counting_sink

_DUE: Final = text("""
SELECT concat_ws('.', occasion_id, user_id, to_char(local_date, 'YYYYMMDD'), slot, channel) AS key,
       extract(epoch FROM send_at) AS due
FROM message_log""")

_PREPARED_SLOWER: Final = 2
"""The users are added in the time before the first message as well."""


def measure(environment: Environment) -> Sequence[Result]:
    """Lateness of every message, one HTTP request each."""
    seconds, rate = environment.sizes.punctual_seconds, environment.sizes.punctual_rate
    count = seconds * rate
    with database(environment.server, "punctuality") as own, counting_sink(environment.folder) as sink:
        with our_processes(environment, own, sink.url, workers=1):
            begins = _begins(environment, count, seconds)
            own.add_users(count, first_time=begins.time(), per_second=rate)
            own.add_occasion("punctuality", begins.date(), begins.time(), honours_preferred_time=True)
            now = datetime.now(UTC)
            planned = own.planner.plan(now=now, through=begins + timedelta(seconds=seconds, minutes=1)).added
            environment.say(f"  {planned:,} messages, {rate} due each second for {seconds} s")
            await_finished(own)
        lateness = _lateness(environment, own, sink.acceptances())
    work = f"{rate} due each second for {seconds} s: lateness"
    return [
        single(f"{work} p50", "ms", 1000 * percentile(lateness, 0.5)),
        single(f"{work} p99", "ms", 1000 * percentile(lateness, 0.99)),
        single(f"{work} max", "ms", 1000 * lateness[-1]),
    ]


def _begins(environment: Environment, count: int, seconds: int) -> datetime:
    """When the first are due: not so that midnight comes between, for the users' times of day are of one date."""
    begins = begin_at(_PREPARED_SLOWER * count)
    ends = begins + timedelta(seconds=seconds)
    if begins.date() == ends.date():
        return begins
    begins = datetime.combine(ends.date(), time(0, 0, 1), UTC)
    environment.say(f"  waiting for {begins:%H:%M:%S} UTC, past midnight")
    return begins


def _lateness(
    environment: Environment, own: Database, acceptances: Iterable[tuple[float, str]]
) -> list[float]:
    """Seconds between due and accepted, ascending."""
    with own.engine.connect() as connection:
        due = {row.key: float(row.due) for row in connection.execute(_DUE)}
    lateness = sorted(instant - due.pop(key) for instant, key in acceptances)
    if due:
        environment.note(f"{len(due):,} MESSAGES WERE NEVER ACCEPTED")
    return lateness
