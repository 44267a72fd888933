"""The whole system on RabbitMQ: workers killed during a drain, and what is urgent beside what is plenty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from sqlalchemy import Engine

from scheduler.clock import SystemClock
from tests.fixtures.answers import Answer
from tests.fixtures.failover import assert_no_key_is_accepted_by_both, kill_after_failover, two_providers
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.programs import Programs, programs
from tests.fixtures.rabbitmq import RabbitNode, rabbitmq_nodes
from tests.fixtures.scale import scaled
from tests.fixtures.sink import Sink, running_sink
from tests.fixtures.waiting import wait_until

MESSAGES: Final = scaled(5_000, 100_000)
BATCH: Final = scaled(50, 500)
THREADS: Final = 2
BULK_BATCHES: Final = 100
BULK_BATCH: Final = scaled(20, 500)
CHUNK: Final = 5_000


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    with rabbitmq_nodes() as [node]:
        yield node


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink(keeps_requests=False) as sink:
        yield sink


@pytest.fixture
def running(tmp_path: Path, database_url: str, sink: Sink, node: RabbitNode) -> Iterator[Programs]:
    with programs(
        tmp_path,
        database_url,
        broker_url=node.url,
        provider="http",
        http_url=sink.url,
        worker_threads=THREADS,
        lease_seconds=2,
    ) as running:
        yield running


def add_people(pipeline: Pipeline, count: int, *, first: int = 0) -> None:
    """People whose messages are due now, batch by batch."""
    for start in range(first, first + count, CHUNK):
        pipeline.add_people_due_now(min(CHUNK, first + count - start), first=start)


def test_two_of_five_workers_killed_during_a_drain_lose_and_double_nothing(
    engine: Engine, running: Programs, sink: Sink
) -> None:
    pipeline = Pipeline(engine, SystemClock(), batch_size=BATCH)
    add_people(pipeline, MESSAGES)
    sink.answer_by = lambda _: Answer(delay_seconds=0.5)
    workers = [running.start("worker", http_concurrency=BATCH) for _ in range(5)]
    wait_until(
        lambda: all(worker.has_logged("consumer_connected") for worker in workers), "all are connected"
    )
    running.start("scheduler")
    wait_until(lambda: all(worker.has_logged("batch_delivered") for worker in workers), "each delivers")
    for worker in workers[:2]:
        worker.kill()
    assert pipeline.states()["sent"] < MESSAGES
    sink.answer_by = None
    wait_until(lambda: pipeline.states() == {"sent": MESSAGES}, "everything is sent", seconds=300)
    assert set(sink.ledger.accepted) == pipeline.keys_in("sent")
    assert sink.ledger.accepted.total() == MESSAGES
    # What the killed ones had under way is all that the provider was asked twice for.
    assert sink.counts["repeats"] <= 2 * THREADS * BATCH
    for worker in workers[2:]:
        worker.terminate()
    assert [worker.exit_code() for worker in workers[2:]] == [0, 0, 0]


def test_a_backlog_of_bulk_holds_up_nothing_critical_though_a_busy_worker_has_received_it(
    engine: Engine, running: Programs, sink: Sink
) -> None:
    pipeline = Pipeline(engine, SystemClock(), batch_size=BULK_BATCH)
    pipeline.execute("UPDATE occasions SET priority = 'bulk'")
    add_people(pipeline, BULK_BATCHES * BULK_BATCH)
    running.start("scheduler")
    busy = running.start(
        "worker", http_url=f"{sink.url}?ending=hang&accepts=0", http_total_timeout_seconds=60
    )
    wait_until(lambda: sink.counts["requests"] >= THREADS, "all threads of the worker are busy")
    assert busy.has_logged("consumer_connected")

    pipeline.execute("UPDATE occasions SET priority = 'critical'")
    add_people(pipeline, 1, first=BULK_BATCHES * BULK_BATCH)
    critical = "SELECT 1 FROM batches WHERE priority = 'critical' AND CAST(state AS text) = :state"
    wait_until(lambda: pipeline.rows(critical, state="enqueued"), "the busy worker is sent it")
    # Each batch takes some tenths of a second, so the backlog lasts.
    idle = running.start("worker", http_url=f"{sink.url}?delay=0.2", http_concurrency=BULK_BATCH)
    wait_until(lambda: idle.has_logged("consumer_connected"), "another worker is there")
    connected = monotonic()
    wait_until(lambda: pipeline.rows(critical, state="done"), "the critical one is sent")
    assert monotonic() - connected < 5
    assert pipeline.batch_states()["enqueued"] > BULK_BATCHES / 4


def test_what_a_killed_worker_gave_to_the_backup_is_given_to_nobody_else(
    engine: Engine, tmp_path: Path, database_url: str, node: RabbitNode
) -> None:
    pipeline = Pipeline(engine, SystemClock(), batch_size=20)
    add_people(pipeline, 200)
    with running_sink() as main, running_sink() as backup:
        settings = {"providers_file": two_providers(tmp_path, main, backup), "lease_seconds": 2}
        with programs(tmp_path, database_url, broker_url=node.url, worker_threads=1, **settings) as running:
            is_sent = kill_after_failover(running, pipeline, main, backup, 200)
            wait_until(is_sent, "everything is sent", seconds=120)
        assert_no_key_is_accepted_by_both(pipeline, main, backup)
