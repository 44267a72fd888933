"""PostgreSQL as the broker keeps the contract, and promises more: strict order, and nothing to lose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from scheduler.broker.port import Broker
from scheduler.broker.postgres import PostgresBroker
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel, Priority
from scheduler.errors import DatabaseUnavailable
from scheduler.store.database import create_database_engine
from tests.fixtures.ports import free_port
from tests.fixtures.tickets import add_ticket, enqueue_all
from tests.integration.broker_contract import LEASE, SHORT, BrokerContract, consumer_of, drain, publish_all

_END_LISTENERS = text("""
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE query LIKE 'LISTEN%' AND datname = current_database()""")


class PostgresRig:
    """PostgreSQL holds nothing besides the log."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engines: list[Engine] = []

    def broker(self) -> Broker:
        return self._broker_at(self._url, pool_size=10)

    def unreachable_broker(self) -> Broker:
        return self._broker_at(f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere", pool_size=2)

    def lose_everything(self) -> None:
        """Nothing is held that is not in the log."""

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()

    def _broker_at(self, url: str, pool_size: int) -> Broker:
        engine = create_database_engine(url, pool_size=pool_size, application_name="daybreak-tests")
        self._engines.append(engine)
        return PostgresBroker(engine, SystemClock())


@pytest.fixture
def rig(database_url: str) -> Iterator[PostgresRig]:
    rig = PostgresRig(database_url)
    yield rig
    rig.close()


class TestPostgresBroker(BrokerContract):
    def test_the_most_urgent_batch_of_a_channel_comes_first(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for priority in (Priority.BULK, Priority.CRITICAL, Priority.NORMAL):
            for minutes in (1, 2):
                add_ticket(engine, now - timedelta(minutes=minutes), priority=priority)
        publish_all(engine, broker, now)
        received = drain(engine, consumer_of(broker, consumers), now)
        assert [(each.batch.priority, now - each.batch.send_at) for each in received] == [
            (priority, timedelta(minutes=minutes)) for priority in Priority for minutes in (2, 1)
        ]

    def test_channels_take_turns(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        for channel in Channel:
            for _ in range(2):
                add_ticket(engine, now, channel=channel)
        publish_all(engine, broker, now)
        received = drain(engine, consumer_of(broker, consumers, list(Channel)), now)
        assert [delivery.batch.channel for delivery in received] == [*Channel, *Channel]

    def test_what_is_committed_as_enqueued_is_published_already(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        add_ticket(engine, now)
        enqueue_all(engine, now)
        assert len(drain(engine, consumer_of(broker, consumers), now)) == 1

    def test_receiving_from_a_server_that_is_away_says_so(self, rig: PostgresRig) -> None:
        consumer = rig.unreachable_broker().consumer("worker", [Channel.EMAIL])
        with pytest.raises(DatabaseUnavailable):
            consumer.receive(LEASE, SHORT)
        consumer.close()

    def test_a_consumer_whose_connection_was_ended_listens_again(
        self, engine: Engine, broker: Broker, now: datetime, consumers: ExitStack
    ) -> None:
        consumer = consumer_of(broker, consumers)
        assert consumer.receive(LEASE, timedelta()) is None
        with engine.begin() as connection:
            assert connection.execute(_END_LISTENERS).scalars().all() == [True]
        with pytest.raises(DatabaseUnavailable):
            consumer.receive(LEASE, SHORT)
        add_ticket(engine, now)
        publish_all(engine, broker, now)
        assert len(drain(engine, consumer, now)) == 1
