"""Schedulers and workers as processes: stopped, killed, and several at once. The sink's ledger is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import time, timedelta
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine

from scheduler.clock import SystemClock
from scheduler.domain.occasion import OnceRule
from scheduler.store import occasions
from tests.fixtures.answers import Answer
from tests.fixtures.occasions import an_occasion
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.planning import ZONES, hold_up
from tests.fixtures.programs import Programs, programs
from tests.fixtures.sink import Sink, running_sink
from tests.fixtures.waiting import wait_until

BATCH: Final = 50
THREADS: Final = 2


@pytest.fixture
def pipeline(engine: Engine) -> Pipeline:
    return Pipeline(engine, SystemClock(), batch_size=BATCH)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink(keeps_requests=False) as sink:
        yield sink


@pytest.fixture
def running(tmp_path: Path, database_url: str, sink: Sink) -> Iterator[Programs]:
    """Processes that deliver to the sink, four requests at a time in each of two threads."""
    with programs(
        tmp_path,
        database_url,
        provider="http",
        http_url=sink.url,
        http_concurrency=4,
        batch_size=BATCH,
        worker_threads=THREADS,
        lease_seconds=2,
        stop_deadline_seconds=10,
    ) as running:
        yield running


def assert_ledger_equals_log(pipeline: Pipeline, sink: Sink, count: int) -> None:
    """Nothing lost, nothing unexpected, nothing accepted twice."""
    assert pipeline.states() == {"sent": count}
    assert set(sink.ledger.accepted) == pipeline.keys_in("sent")
    assert sink.ledger.accepted.total() == count


def recover_until_sent(pipeline: Pipeline, count: int) -> None:
    def recover() -> bool:
        pipeline.recover()
        pipeline.enqueue()
        return pipeline.states() == {"sent": count}

    wait_until(recover, "everything is sent")


def test_a_worker_told_to_stop_finishes_or_hands_back_and_nothing_is_sent_twice(
    pipeline: Pipeline, running: Programs, sink: Sink
) -> None:
    pipeline.add_people_due_now(600)
    pipeline.enqueue()
    worker = running.start("worker", http_url=f"{sink.url}?delay=0.05")
    wait_until(lambda: sink.counts["requests"] > 30, "the worker is delivering")
    worker.terminate()
    assert worker.exit_code() == 0
    states = pipeline.states()
    assert set(states) == {"sent", "scheduled"}
    assert set(sink.ledger.accepted) == pipeline.keys_in("sent")
    assert sink.counts["requests"] == states["sent"]
    assert set(pipeline.batch_states()) <= {"done", "pending", "enqueued"}
    pipeline.enqueue()
    running.start("worker")
    wait_until(lambda: pipeline.states() == {"sent": 600}, "the rest is sent")
    assert_ledger_equals_log(pipeline, sink, 600)
    assert sink.counts["requests"] == 600
    assert {row.attempt for row in pipeline.rows("SELECT attempt FROM message_log")} == {1}


def test_a_worker_told_to_stop_does_not_wait_beyond_its_deadline(
    pipeline: Pipeline, running: Programs, sink: Sink
) -> None:
    pipeline.add_people_due_now(20)
    pipeline.enqueue()
    worker = running.start("worker", http_url=f"{sink.url}?ending=hang&accepts=1", stop_deadline_seconds=1)
    wait_until(lambda: sink.counts["requests"] == 4, "four requests hang")
    worker.terminate()
    assert worker.exit_code() == 0
    # What was in flight may have been accepted; the rest was not begun.
    assert pipeline.states() == {"retrying": 4, "scheduled": 16}
    assert len(sink.ledger.accepted) == 4
    running.start("worker")
    recover_until_sent(pipeline, 20)
    assert_ledger_equals_log(pipeline, sink, 20)
    assert sink.counts["repeats"] == 4


def test_a_worker_whose_provider_is_away_waits_for_it_and_goes_on(
    pipeline: Pipeline, running: Programs, sink: Sink
) -> None:
    sink.answer_by = lambda _: Answer(status=503)
    pipeline.add_people_due_now(600)
    pipeline.enqueue()
    worker = running.start("worker", breaker_reset_seconds=0.5)
    wait_until(lambda: worker.has_logged("circuit_half_open"), "a probe was sent")
    # Five failures open the circuit that both threads share; four requests of each were in flight.
    assert sink.counts["requests"] < 50
    sink.answer_by = None
    recover_until_sent(pipeline, 600)
    assert worker.has_logged("circuit_closed")
    assert_ledger_equals_log(pipeline, sink, 600)
    [most] = pipeline.rows("SELECT max(attempt) AS attempt FROM message_log")
    assert most.attempt <= 3


def test_one_of_three_workers_killed_while_draining_loses_and_doubles_nothing(
    pipeline: Pipeline, running: Programs, sink: Sink
) -> None:
    """FAULTS 2: what the killed one had sent is sent again under the same keys."""
    count = 2_000
    pipeline.add_people_due_now(count)
    pipeline.enqueue()
    workers = [running.start("worker", http_url=f"{sink.url}?delay=0.02") for _ in range(3)]
    wait_until(lambda: all(worker.has_logged("batch_delivered") for worker in workers), "all deliver")
    workers[0].kill()
    recover_until_sent(pipeline, count)
    assert_ledger_equals_log(pipeline, sink, count)
    assert sink.counts["repeats"] <= THREADS * BATCH
    [again] = pipeline.rows("SELECT count(*) AS n, max(attempt) AS most FROM message_log WHERE attempt > 1")
    assert sink.counts["repeats"] <= again.n <= THREADS * BATCH
    for worker in workers[1:]:
        worker.terminate()
    assert [worker.exit_code() for worker in workers[1:]] == [0, 0]


def test_a_worker_paused_past_its_lease_writes_nothing_when_it_wakes(
    pipeline: Pipeline, running: Programs, sink: Sink
) -> None:
    """FAULTS 4, with a real process stopped and continued."""
    pipeline.add_people_due_now(BATCH)
    pipeline.enqueue()
    paused = running.start("worker", http_url=f"{sink.url}?delay=0.1")
    wait_until(lambda: sink.counts["requests"] > 4, "the worker is delivering")
    paused.pause()
    running.start("worker")
    recover_until_sent(pipeline, BATCH)
    log = pipeline.rows("SELECT user_id, accepted_at, batch_id, attempt FROM message_log ORDER BY user_id")
    paused.resume()
    wait_until(lambda: paused.has_logged("outcomes_fenced_off"), "the paused one is fenced off")
    assert (
        pipeline.rows("SELECT user_id, accepted_at, batch_id, attempt FROM message_log ORDER BY user_id")
        == log
    )
    assert_ledger_equals_log(pipeline, sink, BATCH)


def test_a_scheduler_recovers_at_its_start_and_stops_when_told(pipeline: Pipeline, running: Programs) -> None:
    pipeline.add_people_due_now(1)
    scheduler = running.start("scheduler")
    runs = "SELECT 1 FROM job_runs WHERE job = 'recover' AND trigger = 'start' AND state = 'succeeded'"
    wait_until(lambda: pipeline.rows(runs), "recovery has run")
    wait_until(lambda: pipeline.batch_states() == {"enqueued": 1}, "what is due is enqueued")
    scheduler.terminate()
    assert scheduler.exit_code() == 0
    assert pipeline.rows("SELECT 1 FROM job_runs WHERE state <> 'succeeded'") == []
    assert pipeline.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


def test_a_scheduler_killed_while_it_plans_loses_and_doubles_nothing(
    pipeline: Pipeline, running: Programs, engine: Engine
) -> None:
    """What it has written ahead of the watermark is found there by the next one."""
    settings = {"horizon": "P9D", "planning_slices_at_once": 2}
    on = pipeline.clock.now().date() + timedelta(days=2)
    users = [pipeline.add_people(10, first=10 * number, timezone=zone) for number, zone in enumerate(ZONES)]
    pipeline.planner.create_partitions(pipeline.clock.now())
    with engine.begin() as connection:
        news = an_occasion(
            key="news", rule=OnceRule(on), local_times=(time(12),), honours_preferred_time=False
        )
        occasion = occasions.add(connection, news, now=pipeline.clock.now())
    planned = f"SELECT user_id FROM message_log WHERE occasion_id = {occasion.id}"
    with engine.connect() as holding_up:
        hold_up(holding_up, users[0][0], occasion.id, on)
        scheduler = running.start("scheduler", **settings)
        wait_until(lambda: len(pipeline.rows(planned)) == 60, "all slices but the first are written")
        scheduler.kill()
    [watermark] = pipeline.rows(f"SELECT planned_through AS at FROM occasions WHERE id = {occasion.id}")
    assert watermark.at.date() < on
    running.start("scheduler", **settings)
    wait_until(lambda: len(pipeline.rows(planned)) == 70, "the first slice is written")
    in_batches = pipeline.rows(
        f"SELECT unnest(user_ids) AS id FROM batches WHERE occasion_id = {occasion.id} AND state = 'pending'"
    )
    assert sorted(row.id for row in in_batches) == sorted(user_id for each in users for user_id in each)


def test_three_schedulers_and_four_workers_send_each_message_once(
    pipeline: Pipeline, running: Programs, sink: Sink
) -> None:
    """FAULTS 5, in small."""
    count = 3_000
    for _ in range(3):
        running.start("scheduler")
    for _ in range(4):
        running.start("worker", worker_threads=1, lease_seconds=60)
    for first in range(0, count, 500):
        pipeline.add_people_due_now(500, first=first)
    wait_until(lambda: pipeline.states() == {"sent": count}, "everything is sent", seconds=60)
    assert_ledger_equals_log(pipeline, sink, count)
    assert sink.counts["requests"] == count
    assert {row.attempt for row in pipeline.rows("SELECT attempt FROM message_log")} == {1}


def test_when_the_scheduler_at_work_is_killed_another_takes_over(
    pipeline: Pipeline, running: Programs
) -> None:
    at_work = running.start("scheduler")
    enqueuing = "SELECT 1 FROM job_runs WHERE job = 'enqueue' AND state = 'running'"
    wait_until(lambda: pipeline.rows(enqueuing), "the first enqueues")
    standing_by = running.start("scheduler")
    recovered = "SELECT 1 FROM job_runs WHERE job = 'recover' AND trigger = 'start' AND state = 'succeeded'"
    wait_until(lambda: len(pipeline.rows(recovered)) == 2, "the second is up")
    at_work.kill()
    pipeline.add_people_due_now(1)
    wait_until(lambda: pipeline.batch_states() == {"enqueued": 1}, "the second enqueues")
    standing_by.terminate()
    assert standing_by.exit_code() == 0
