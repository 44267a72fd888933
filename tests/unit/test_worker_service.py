"""How a worker is put together from its settings."""

from datetime import timedelta
from pathlib import Path
from threading import Event

from sqlalchemy import create_engine

from scheduler.clock import SettableClock
from scheduler.settings import Settings
from tests.fixtures.messages import Signal, outgoing_many
from worker.channels.port import NotAttempted
from worker.service import Worker


def test_the_threads_of_a_worker_share_the_circuit_of_a_provider(
    tmp_path: Path, clock: SettableClock
) -> None:
    settings = Settings(outbox_path=tmp_path, breaker_reset_seconds=7.0)  # a folder cannot be appended to
    worker = Worker(settings, create_engine("sqlite://"), clock, Event())
    first, second = worker._provider(), worker._provider()
    first.deliver(outgoing_many(2), Signal())
    assert second.pauses_until() == clock.now() + timedelta(seconds=7)
    assert second.deliver(outgoing_many(2), Signal()) == [NotAttempted()] * 2
    first.close()
    second.close()
