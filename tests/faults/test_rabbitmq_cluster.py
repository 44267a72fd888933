"""A cluster of three RabbitMQ nodes that loses one, and then its majority, while workers drain a backlog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine

from scheduler.broker.rabbitmq import RabbitBroker, confirms, topology
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable
from scheduler.jobs.enqueue import Enqueue
from tests.fixtures.answers import Answer
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.programs import Programs, programs
from tests.fixtures.rabbitmq import RabbitNode, rabbitmq_nodes
from tests.fixtures.scale import scaled
from tests.fixtures.sink import Sink, running_sink
from tests.fixtures.waiting import wait_until

MESSAGES: Final = scaled(2_000, 50_000)
BATCH: Final = scaled(20, 100)
QUEUE: Final = topology.queue_name(Channel.EMAIL, Priority.NORMAL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RabbitNode]]:
    with rabbitmq_nodes(3) as nodes:
        yield nodes


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink(keeps_requests=False) as sink:
        yield sink


@pytest.fixture
def running(tmp_path: Path, database_url: str, sink: Sink, cluster: list[RabbitNode]) -> Iterator[Programs]:
    with programs(
        tmp_path,
        database_url,
        broker_url=url_of(cluster),
        provider="http",
        http_url=sink.url,
        http_concurrency=4,
    ) as running:
        yield running


@pytest.fixture
def pipeline(engine: Engine, cluster: list[RabbitNode]) -> Iterator[Pipeline]:
    pipeline = Pipeline(engine, SystemClock(), batch_size=BATCH)
    pipeline.broker = RabbitBroker(url_of(cluster), engine, SystemClock())
    yield pipeline
    pipeline.broker.close()


def url_of(cluster: list[RabbitNode]) -> str:
    return ",".join(node.url for node in cluster)


def leader_of(queue: str, cluster: list[RabbitNode]) -> RabbitNode:
    """The node that would be missed most."""
    listing = cluster[0].control("list_queues", "--no-table-headers", "name", "leader")
    leader = dict(line.split("\t") for line in listing.splitlines())[queue]
    return next(node for node in cluster if node.name == leader)


def test_a_node_killed_during_a_drain_loses_nothing_and_sends_nothing_twice(
    pipeline: Pipeline, running: Programs, sink: Sink, cluster: list[RabbitNode]
) -> None:
    for first in range(0, MESSAGES, 500):
        pipeline.add_people_due_now(500, first=first)
    pipeline.enqueue()
    leader = leader_of(QUEUE, cluster)
    sink.answer_by = lambda _: Answer(delay_seconds=0.5)
    workers = [running.start("worker") for _ in range(3)]
    wait_until(lambda: all(worker.has_logged("batch_delivered") for worker in workers), "each delivers")
    leader.kill()
    assert pipeline.states()["sent"] < MESSAGES / 2
    sink.answer_by = None
    wait_until(lambda: pipeline.states() == {"sent": MESSAGES}, "everything is sent", seconds=300)
    pipeline.add_people_due_now(500, first=MESSAGES)

    def publish() -> bool:
        with suppress(BrokerUnavailable):
            pipeline.broker.publish([])
            return pipeline.enqueue() > 0
        return False

    wait_until(publish, "the two that are left are a cluster")
    count = MESSAGES + 500
    wait_until(lambda: pipeline.states() == {"sent": count}, "the rest is sent", seconds=60)
    assert set(sink.ledger.accepted) == pipeline.keys_in("sent")
    assert sink.ledger.accepted.total() == count
    assert sink.counts["requests"] == count


def test_a_cluster_without_its_majority_confirms_nothing_and_holds_up_nobody(
    pipeline: Pipeline,
    running: Programs,
    cluster: list[RabbitNode],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confirms, "_CONFIRM_SECONDS", 1.0)
    pipeline.broker.publish([])
    for node in cluster[1:]:
        node.kill()
    pipeline.add_people_due_now(100)
    enqueue = Enqueue(pipeline.engine, pipeline.broker, pipeline.clock)
    counts = enqueue.run(pipeline.clock.now())
    assert counts["enqueued"] == counts["unpublished"] > 0
    running.start("worker")
    wait_until(lambda: pipeline.states() == {"sent": 100}, "everything is sent")
