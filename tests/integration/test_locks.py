"""What one process holds must not stop another: locks of one that stands still, and too few connections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from threading import Event, Thread

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.service import run_scheduler
from scheduler.settings import Settings
from scheduler.store import batches, job_runs
from scheduler.store.batches import Queue
from tests.fixtures.tickets import add_ticket, enqueue_all
from tests.fixtures.waiting import wait_until

LEASE = timedelta(seconds=60)


@pytest.fixture
def impatient(engine: Engine) -> Iterator[Connection]:
    """A transaction that fails where it would have to wait for another's lock."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
        yield connection


def test_a_worker_that_stands_still_in_a_transaction_holds_up_no_other_lease(
    engine: Engine, clock: SettableClock, impatient: Connection
) -> None:
    now = clock.now()
    for _ in range(2):
        add_ticket(engine, now)
    enqueue_all(engine, now)
    with engine.begin() as paused:
        batch = batches.lease_oldest(paused, Channel.EMAIL, worker="paused", expires_at=now + LEASE)
        other = batches.lease_oldest(paused, Channel.EMAIL, worker="lost", expires_at=now + LEASE)
    assert batch is not None
    assert other is not None
    with engine.begin() as paused:
        batches.fence(paused, batch, provider="http")
        assert batches.lapse_leases(impatient, now=now + 2 * LEASE) == 1


def test_a_worker_that_stands_still_while_it_leases_holds_up_no_other_batch(
    engine: Engine, clock: SettableClock, impatient: Connection
) -> None:
    now = clock.now()
    for _ in range(2):
        add_ticket(engine, now)
    references = enqueue_all(engine, now)
    later, deadline = now + timedelta(minutes=10), timedelta(minutes=5)
    with engine.begin() as paused:
        assert batches.lease(paused, references[0].id, worker="paused", expires_at=now + LEASE) is not None
        queue = Queue(references[0].channel, references[0].priority)
        assert batches.lapse_enqueued(impatient, queue, now=later, deadline=deadline) == 1


def test_the_server_ends_a_session_that_falls_silent_in_a_transaction(engine: Engine) -> None:
    with engine.connect() as connection:
        limit = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert limit == "1min"


def test_the_smallest_pool_lets_every_job_run(database_url: str, engine: Engine) -> None:
    """At the start recovery and enqueueing run side by side, each with its lock and its work."""
    settings = Settings(database_url=SecretStr(database_url), pool_size=1)
    stop = Event()
    scheduler = Thread(target=run_scheduler, args=(settings, stop))

    def recovered() -> bool:
        with engine.connect() as connection:
            runs = job_runs.latest(connection, ["enqueue", "recover"])
        return len(runs) == 2 and runs["recover"].state == "succeeded"

    scheduler.start()
    try:
        wait_until(recovered, "a recovery has succeeded while the enqueue job runs", seconds=15)
    finally:
        stop.set()
        scheduler.join()
