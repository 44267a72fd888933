"""Everyone is due at one instant, and a worker is killed on the way: how late, how many lost, how many twice.

Ours goes out 500 messages to a request, the form in which providers take such numbers, to the sink that keeps a
ledger by the id of each message. The killed worker's leases lapse and another takes over; one is started in its
place at once, as a supervisor does. Celery does the same with fewer messages, one request each, and is extrapolated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from loguru import logger
from sqlalchemy import text

from tests.bench.databases import Database, database
from tests.bench.environment import Environment
from tests.bench.measures import Result, percentile, single
from tests.bench.ours import ELEMENTS, THREADS_OF_A_WORKER, Ours, await_finished, begin_at, our_processes
from tests.bench.peer_runs import PEERS, SENT, peer_processes, run, seed, start_workers, variables_of
from tests.bench.sinks import CountingSink, counting_sink
from tests.fixtures.waiting import wait_until

_WORKERS: Final = 2
_KILL_AT: Final = 0.25
"""The share of the messages after whose acceptance a worker is killed."""

_WARM_UP: Final = 20
"""Messages after which Celery's workers count as ready."""

_KEYS: Final = text("""
SELECT concat_ws('.', occasion_id, user_id, to_char(local_date, 'YYYYMMDD'), slot, channel) FROM message_log
WHERE state = 'sent'""")


@dataclass(frozen=True, slots=True)
class Lateness:
    """Seconds after the due instant, ascending."""

    seconds: Sequence[float]

    @property
    def half(self) -> float:
        """The median."""
        return percentile(self.seconds, 0.5)

    @property
    def most_but_one_in_a_hundred(self) -> float:
        """The 99th percentile."""
        return percentile(self.seconds, 0.99)

    @property
    def worst(self) -> float:
        """The last."""
        return self.seconds[-1]


def measure(environment: Environment) -> Sequence[Result]:
    """Lateness by the sink's clock, and what log and ledger say of each other."""
    size = environment.sizes.burst
    with (
        database(environment.server, "burst") as own,
        counting_sink(environment.folder, elements=ELEMENTS) as sink,
    ):
        environment.memory.watch("sink", sink.pid)
        own.add_users(size)
        with our_processes(
            environment,
            own,
            sink.url,
            batched=True,
            workers=_WORKERS,
            worker_threads=THREADS_OF_A_WORKER,
            lease_seconds=environment.sizes.lease_seconds,
        ) as ours:
            due = begin_at(size)
            own.plan_due_at("burst", due)
            late = (datetime.now(UTC) - due).total_seconds()
            if late > 0:
                environment.note(
                    f"planning ended {late:.1f} s after the due instant: lateness holds as much of it"
                )
            killing = _Killing(environment, sink, ours, int(size * _KILL_AT))
            await_finished(own, killing.look)
        lateness, lost, twice = _compare(environment, own, sink, due)
    peers = _peers(environment, size)
    work = f"{size:,} due at once, a worker killed"
    return [
        single(f"{work}: all accepted", "s", lateness.worst, **_against(peers, lateness.worst, "worst")),
        single(f"{work}: lateness p50", "s", lateness.half, **_against(peers, lateness.half, "half")),
        single(
            f"{work}: lateness p99",
            "s",
            lateness.most_but_one_in_a_hundred,
            **_against(peers, lateness.most_but_one_in_a_hundred, "most_but_one_in_a_hundred"),
        ),
        single(f"{work}: lost", "messages", lost),
        single(f"{work}: accepted twice", "messages", twice),
    ]


class _Killing:
    """Kills one worker, once the sink has accepted enough, and starts another."""

    def __init__(self, environment: Environment, sink: CountingSink, ours: Ours, accepted: int) -> None:
        self._environment = environment
        self._sink = sink
        self._ours = ours
        self._accepted = accepted
        self._is_done = False

    def look(self) -> None:
        """Kill, if it is time to; once."""
        if self._is_done or self._sink.counts()["accepted_keys"] < self._accepted:
            return
        self._is_done = True
        self._ours.workers[0].kill()
        self._ours.start_worker()
        self._environment.say(f"  killed a worker after {self._accepted:,} acceptances")


def _compare(
    environment: Environment, own: Database, sink: CountingSink, due: datetime
) -> tuple[Lateness, int, int]:
    """The lateness of all; how many messages the sink never accepted, and how many more than once."""
    accepted = Counter(key for _, key in sink.acceptances())
    lateness = sorted(instant - due.timestamp() for instant, _ in sink.acceptances())
    with own.engine.connect() as connection:
        sent = set(connection.execute(_KEYS).scalars())
    messages = int(own.scalar("SELECT count(*) FROM message_log"))
    if sent != set(accepted):
        environment.note(f"LOG AND LEDGER DIFFER in {len(sent ^ set(accepted)):,} messages")
    repeats = sink.counts()["repeats"]
    environment.note(
        f"{repeats:,} messages were offered again under the same key, which the sink answered as before"
    )
    return Lateness(lateness), messages - len(accepted), sum(number > 1 for number in accepted.values())


def _peers(environment: Environment, size: int) -> dict[str, Lateness]:
    """Celery's lateness, its seconds multiplied by how many more messages there are to be sent."""
    if environment.peers is None:
        return {}
    count = environment.sizes.burst_of_peer
    try:
        seconds = _celery(environment, count)
    except Exception as error:
        logger.exception("contestant_failed")
        environment.note(f"CELERY FAILED and is left out: {error}")
        return {}
    factor = size / count
    environment.note(
        f"Celery sent {count:,} in {seconds[-1]:.1f} s with one of two workers killed: extrapolated by {factor:g}"
    )
    return {"celery": Lateness([each * factor for each in seconds])}


def _celery(environment: Environment, count: int) -> list[float]:
    """Seconds from the due instant to each acceptance: two workers, of which one is killed and replaced."""
    (peer,) = (each for each in PEERS if each.name == "celery")
    with (
        database(environment.server, "burst_celery") as own,
        counting_sink(environment.folder) as sink,
        peer_processes(environment) as started,
    ):
        seed(own, count + _WARM_UP)
        variables = variables_of(environment, peer, own, sink.url) | {"BENCH_QUEUE": "celery-burst"}
        workers = start_workers(environment, peer, variables, started)
        run(environment, peer, variables, "enqueue", "1", str(_WARM_UP))
        wait_until(lambda: own.scalar(SENT) >= _WARM_UP, "Celery is ready", seconds=60)
        due = datetime.now(UTC).timestamp()
        run(environment, peer, variables, "enqueue", str(1 + _WARM_UP), str(count))
        wait_until(lambda: own.scalar(SENT) >= count * _KILL_AT, "a quarter is sent", seconds=600)
        workers[0].kill()
        start_workers(environment, replace(peer, commands=peer.commands[:1]), variables, started)
        wait_until(lambda: own.scalar(SENT) >= count + _WARM_UP, "Celery is done", seconds=900)
        return sorted(instant - due for instant, _ in sink.acceptances())[_WARM_UP:]


def _against(peers: dict[str, Lateness], ours: float, what: str) -> dict[str, object]:
    figures = {name: float(getattr(lateness, what)) for name, lateness in peers.items()}
    if not figures:
        return {}
    return {"peers": figures, "ratio_to_best_peer": min(figures.values()) / ours}
