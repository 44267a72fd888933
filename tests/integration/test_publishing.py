"""What the enqueue job does about a broker that comes and goes, and about leases during a long backlog."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from scheduler.broker.port import Consumer
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import BrokerUnavailable
from scheduler.jobs import enqueue
from scheduler.jobs.enqueue import Enqueue
from scheduler.store import batches
from scheduler.store.batches import BatchReference, Queue
from tests.fixtures.tickets import add_ticket

SECOND = timedelta(seconds=1)


class ComingAndGoing:
    """A broker that is away while `is_away`, and takes `publish_for` for each publication."""

    def __init__(self, clock: SettableClock) -> None:
        self.is_away = False
        self.publish_for = timedelta()
        self.tries = 0
        self.published: list[int] = []
        self._clock = clock

    def publish(self, batches: Sequence[BatchReference]) -> None:
        self.tries += 1
        self._clock.advance(self.publish_for)
        if self.is_away:
            raise BrokerUnavailable("away")
        self.published += [batch.id for batch in batches]

    def holding(self) -> Mapping[Queue, int] | None:
        return {}

    def consumer(self, worker: str, channels: Collection[Channel]) -> Consumer:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture
def broker(clock: SettableClock) -> ComingAndGoing:
    return ComingAndGoing(clock)


def test_what_was_enqueued_during_an_outage_is_published_after_it_unless_somebody_took_it(
    engine: Engine, clock: SettableClock, broker: ComingAndGoing
) -> None:
    job = Enqueue(engine, broker, clock)
    broker.is_away = True
    for _ in range(3):
        add_ticket(engine, clock.now())
        assert job.run(clock.now()) == {"enqueued": 1, "unpublished": 1, "lapsed_leases": 0}
        clock.advance(SECOND)
    broker.is_away = False
    with engine.begin() as connection:
        taken = batches.lease_oldest(
            connection, Channel.EMAIL, worker="w", expires_at=clock.now() + 60 * SECOND
        )
    assert taken is not None
    assert job.run(clock.now()) == {"enqueued": 0, "unpublished": 0, "lapsed_leases": 0}
    assert broker.published == []
    clock.advance(5 * SECOND)
    job.run(clock.now())
    assert len(broker.published) == 2
    assert taken.id not in broker.published
    job.run(clock.now())
    assert len(broker.published) == 2


def test_a_broker_that_is_away_is_asked_ever_more_rarely(
    engine: Engine, clock: SettableClock, broker: ComingAndGoing
) -> None:
    job = Enqueue(engine, broker, clock)
    broker.is_away = True
    started = clock.now()
    tries = []
    for _ in range(200):
        before = broker.tries
        job.run(clock.now())
        if broker.tries > before:
            tries.append(round((clock.now() - started).total_seconds()))
        clock.advance(SECOND)
    assert tries == [0, 5, 15, 35, 75, 135, 195]


def test_a_short_outage_leaves_no_long_rest_behind(
    engine: Engine, clock: SettableClock, broker: ComingAndGoing
) -> None:
    job = Enqueue(engine, broker, clock)
    for _ in range(2):
        broker.is_away = True
        job.run(clock.now())
        broker.is_away = False
        clock.advance(5 * SECOND)
        add_ticket(engine, clock.now())
        assert job.run(clock.now())["unpublished"] == 0


def test_leases_lapse_while_a_backlog_is_published(
    engine: Engine, clock: SettableClock, broker: ComingAndGoing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue, "_MOST_AT_ONCE", 1)
    add_ticket(engine, clock.now(), priority=Priority.CRITICAL)
    job = Enqueue(engine, broker, clock)
    job.run(clock.now())
    with engine.begin() as connection:
        lost = batches.lease_oldest(connection, Channel.EMAIL, worker="lost", expires_at=clock.now() + SECOND)
    assert lost is not None
    for _ in range(5):
        add_ticket(engine, clock.now())
    broker.publish_for = SECOND / 2
    broker.published.clear()
    assert job.run(clock.now()) == {"enqueued": 6, "unpublished": 0, "lapsed_leases": 1}
    assert broker.published.index(lost.id) > 1
