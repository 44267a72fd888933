"""What waits while a circuit is open goes out in the order in which it was due, on RabbitMQ as on PostgreSQL."""

from __future__ import annotations

from datetime import time, timedelta
from threading import Event

from sqlalchemy import Engine

from scheduler.broker.rabbitmq import RabbitBroker
from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel
from tests.fixtures.pipeline import LEASE, NINE, Pipeline
from tests.fixtures.providers import SteppingProvider, failed
from tests.fixtures.rabbitmq import RabbitNode
from worker.breaker import Circuit, CircuitPolicy
from worker.channels.guarded import CircuitProvider
from worker.channels.port import Accepted, Outcome, OutgoingMessage
from worker.consumer import DeliveryLoop
from worker.leases import LeaseKeeper, Shutdown

STEP = timedelta(seconds=10)
MINUTES = 10


def test_after_an_outage_the_oldest_goes_first(engine: Engine, rabbitmq: RabbitNode) -> None:
    clock = SettableClock(NINE)
    pipeline = Pipeline(engine, clock, batch_size=4)
    pipeline.broker = RabbitBroker(rabbitmq.url, engine, clock)
    due_minute = {
        user_id: minute
        for minute in range(MINUTES)
        for user_id in pipeline.add_people(4, first=minute * 10, preferred_time=time(9, minute))
    }
    pipeline.plan(NINE - timedelta(hours=1))
    is_away = True

    def answer(_: OutgoingMessage) -> Outcome:
        return failed() if is_away else Accepted(clock.now())

    service = SteppingProvider(answer, clock.monotonic)
    provider = CircuitProvider(service, Circuit("service", clock, CircuitPolicy(2, 30)))
    consumer = pipeline.broker.consumer("worker", list(Channel))
    shutdown = Shutdown(Event(), clock, timedelta(seconds=20))
    keeper = LeaseKeeper(engine, clock, LEASE)
    loop = DeliveryLoop(consumer, pipeline.deliverer(provider), keeper, shutdown, clock, LEASE)

    def work() -> None:
        pipeline.enqueue()
        while loop.deliver_next(timedelta()):
            pass
        clock.advance(STEP)

    while clock.now() < NINE + timedelta(minutes=MINUTES):
        work()
    is_away = False
    service.calls.clear()
    for _ in range(30):
        work()
    consumer.close()
    pipeline.broker.close()
    assert pipeline.states() == {"sent": 4 * MINUTES}
    order = [due_minute[MessageKey.parse(key).user_id] for call in service.calls for key in call]
    assert order == sorted(order)
