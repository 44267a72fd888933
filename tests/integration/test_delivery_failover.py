"""Two providers of a channel, on a real log and over real HTTP: who sends what when the first one fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event as ThreadEvent
from typing import Final

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.store import batch_queries
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.events import Event, logged_events
from tests.fixtures.pipeline import LEASE, NINE, Pipeline
from tests.fixtures.providers import failed
from tests.fixtures.sink import Request, Sink, running_sink
from worker.breaker import Circuit, CircuitListener, CircuitPolicy, Refusal
from worker.channels.failover import FailoverProvider
from worker.channels.guarded import CircuitProvider
from worker.channels.http import HttpProvider
from worker.channels.http_settings import HttpSettings
from worker.channels.limited import LimitedProvider, Rate
from worker.channels.port import FailureKind, Provider
from worker.consumer import DeliveryLoop
from worker.leases import LeaseKeeper, Shutdown

RESET: Final = timedelta(seconds=30)
STEP: Final = timedelta(seconds=5)
AWAY: Final = Answer(status=503)
REFUSES: Final = Answer(status=401)
REFUSED: Final = failed(FailureKind.PROVIDER, "http_401")
HANGS: Final = Answer(ending=Ending.HANG, accepts=True)


class Pages(CircuitListener):
    """Keeps what people would be told."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


@dataclass
class Service:
    """A fake service behind its circuit: `answer` None accepts."""

    sink: Sink
    provider: CircuitProvider
    answer: Answer | None = None

    def choose(self, _: Request) -> Answer:
        """How the sink answers."""
        return self.answer or Answer()

    @property
    def requests(self) -> int:
        """How many it has had."""
        return self.sink.counts["requests"]


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, batch_size=20)


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with logged_events() as events:
        yield events


MakeService = Callable[..., Service]


@pytest.fixture
def make(clock: SettableClock, engine: Engine, pages: Pages) -> Iterator[MakeService]:
    """Make services that are closed at the end of the test. Each sends one request at a time."""
    with ExitStack() as made:

        def make(
            name: str,
            *,
            failures: int = 5,
            messages_per_second: float | None = None,
            sink: Sink | None = None,
        ) -> Service:
            """`sink`: one that is there already, as a new process sees it."""
            sink = sink or made.enter_context(running_sink())
            settings = HttpSettings(name, sink.url, concurrency=1, total_timeout_seconds=0.2)
            inner: Provider = HttpProvider(settings, clock)
            made.callback(inner.close)
            if messages_per_second is not None:
                inner = LimitedProvider(inner, Rate(name, messages_per_second, engine, clock), clock)
            circuit = Circuit(name, clock, CircuitPolicy(failures, RESET.total_seconds()), pages)
            service = Service(sink, CircuitProvider(inner, circuit))
            sink.answer_by = service.choose
            return service

        yield make


@dataclass
class Worker:
    """A worker's loop and the enqueue job, on the clock of the test."""

    pipeline: Pipeline
    clock: SettableClock
    loop: DeliveryLoop

    def work_until(self, instant: datetime) -> None:
        """Enqueue and deliver all that is due, every few seconds."""
        while self.clock.now() < instant:
            self.work()
            self.clock.advance(STEP)

    def work(self) -> int:
        """Enqueue and deliver what is due now; returns how many batches."""
        delivered = 0
        while self.pipeline.enqueue():
            while self.loop.deliver_next(timedelta()):
                delivered += 1
                assert delivered < 100, "the same batches come back again and again"
        return delivered


@pytest.fixture
def start(pipeline: Pipeline, engine: Engine, clock: SettableClock) -> Iterator[Callable[..., Worker]]:
    """Start a worker that sends e-mail through `services` in order, and text messages through another."""
    with ExitStack() as started:

        def start(*services: Service, sms: Service | None = None) -> Worker:
            consumer = pipeline.broker.consumer("worker", list(Channel))
            started.callback(consumer.close)
            email = FailoverProvider(Channel.EMAIL, [service.provider for service in services], clock)
            providers = {Channel.EMAIL: email, Channel.SMS: sms.provider if sms else email}
            shutdown = Shutdown(ThreadEvent(), clock, timedelta(seconds=20))
            keeper = LeaseKeeper(engine, clock, LEASE)
            loop = DeliveryLoop(consumer, pipeline.deliverer(providers), keeper, shutdown, clock, LEASE)
            return Worker(pipeline, clock, loop)

        yield start


def attempts(pipeline: Pipeline, channel: Channel = Channel.EMAIL) -> Counter[tuple[str, int]]:
    """How many messages of a channel are in which state after how many attempts."""
    rows = pipeline.rows(
        "SELECT CAST(state AS text) AS state, attempt FROM message_log WHERE CAST(channel AS text) = :channel",
        channel=channel.value,
    )
    return Counter((row.state, row.attempt) for row in rows)


def accepted(*services: Service) -> Counter[str]:
    """How often each message was accepted, by all of the services together."""
    return sum((service.sink.ledger.accepted for service in services), Counter[str]())


def test_with_the_first_down_all_is_delivered_through_the_second(
    pipeline: Pipeline, make: MakeService, start: Callable[..., Worker]
) -> None:
    pipeline.add_due_people(100)
    main, backup = make("main"), make("backup")
    main.answer = AWAY
    worker = start(main, backup)
    worker.work()
    # Those that opened the circuit failed in the ordinary way; no other lost an attempt or any time.
    assert attempts(pipeline) == {("sent", 1): 95, ("retrying", 1): 5}
    worker.work_until(NINE + timedelta(seconds=10))
    assert attempts(pipeline) == {("sent", 1): 95, ("sent", 2): 5}
    assert (main.requests, len(main.sink.ledger.accepted)) == (5, 0)
    assert set(accepted(main, backup).values()) == {1}
    assert backup.sink.ledger.accepted.total() == 100


def test_a_provider_that_refuses_us_is_left_at_once_and_people_are_told_once(
    pipeline: Pipeline,
    make: MakeService,
    start: Callable[..., Worker],
    events: list[Event],
    pages: Pages,
) -> None:
    pipeline.execute("UPDATE occasions SET channels = ARRAY['email', 'sms']::channel[] WHERE id = 1")
    pipeline.retry = RetryPolicy(max_attempts=1)
    pipeline.add_due_people(60)
    pipeline.execute("UPDATE batches SET due_at = due_at + interval '40 seconds' WHERE id % 3 = 0")
    main, backup, sms = make("main"), make("backup"), make("sms")
    main.answer = REFUSES
    worker = start(main, backup, sms=sms)
    worker.work()
    assert main.requests == 1
    worker.work_until(NINE + timedelta(minutes=1))
    assert attempts(pipeline) == attempts(pipeline, Channel.SMS) == {("sent", 1): 60}
    # The probe was refused as well: it cost nothing, and belongs to the same opening.
    assert (main.requests, backup.requests, sms.requests) == (2, 60, 60)
    kept = pipeline.rows("SELECT provider, kind, category, attempt FROM delivery_attempts")
    assert [tuple(row) for row in kept] == [("main", "provider", "http_401", 1)] * 2
    opened = [event for event in events if event.name == "circuit_opened"]
    assert {(event.level, event.fields["provider"]) for event in opened} == {("ERROR", "main")}
    assert [(page.provider, page.category) for page in pages.refusals] == [("main", "http_401")]


def test_an_unknown_outcome_is_resent_to_the_same_provider_only(
    pipeline: Pipeline, make: MakeService, start: Callable[..., Worker]
) -> None:
    pipeline.add_due_people(10)
    main, backup = make("main", failures=3), make("backup")
    main.answer = HANGS
    worker = start(main, backup)
    worker.work()
    assert attempts(pipeline) == {("sent", 1): 7, ("retrying", 1): 3}
    asked = main.requests
    worker.work_until(NINE + RESET - STEP)
    # Its circuit is open: they wait for it, and are not looked at again and again.
    assert main.requests == asked == 3
    assert attempts(pipeline) == {("sent", 1): 7, ("retrying", 1): 3}
    [leases] = pipeline.rows("SELECT sum(lease_token) AS n FROM batches WHERE attempt = 1")
    assert leases.n <= 2 * 3
    main.answer = None
    worker.work_until(NINE + 2 * RESET)
    assert attempts(pipeline) == {("sent", 1): 7, ("sent", 2): 3}
    assert set(accepted(main, backup).values()) == {1}
    assert backup.requests == 7


def killed_after_sending(worker: Worker) -> None:
    """Have its next delivery end, as by kill -9, when all is sent and nothing recorded; the lease lapses."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    deliverer = worker.loop._deliverer
    recorded, deliverer._record = deliverer._record, die  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        worker.work()
    deliverer._record = recorded  # type: ignore[method-assign]
    worker.clock.advance(2 * LEASE)


def test_what_a_killed_worker_held_goes_to_no_other_provider(
    pipeline: Pipeline, make: MakeService, start: Callable[..., Worker]
) -> None:
    """Not even where that one refused us: nothing of it is on record."""
    pipeline.add_due_people(20)
    main, backup = make("main", failures=1), make("backup")
    main.answer = REFUSES
    worker = start(main, backup)
    killed_after_sending(worker)  # at the refusal: nothing was accepted
    assert (main.requests, backup.requests) == (1, 0)
    main.answer = None
    [noted] = pipeline.rows("SELECT provider FROM batches")
    assert noted.provider == "main"
    worker.work()
    assert set(accepted(main, backup).values()) == {1}
    assert (len(main.sink.ledger.accepted), backup.requests) == (20, 0)
    assert attempts(pipeline) == {("sent", 2): 20}
    lost = pipeline.rows("SELECT DISTINCT provider, kind, category, attempt FROM delivery_attempts")
    assert [tuple(row) for row in lost] == [("main", "unknown", "worker_lost", 1)]


def test_what_a_killed_worker_gave_the_backup_waits_for_the_backup(
    pipeline: Pipeline, engine: Engine, clock: SettableClock, make: MakeService, start: Callable[..., Worker]
) -> None:
    """It had failed over; its successor's circuits are closed, so that it begins with the preferred provider."""
    pipeline.add_due_people(20)
    main, backup = make("main", failures=1), make("backup", failures=1)
    main.answer = REFUSES
    worker = start(main, backup)
    main.provider._circuit.note(REFUSED, clock.monotonic())
    killed_after_sending(worker)
    assert (main.requests, len(backup.sink.ledger.accepted)) == (0, 20)
    # The new process knows of no circuit that is open; the backup is away now, and the first is back.
    new_main = make("main", failures=1, sink=main.sink)
    new_backup = make("backup", failures=1, sink=backup.sink)
    new_backup.answer = AWAY
    successor = start(new_main, new_backup)
    successor.work_until(clock.now() + RESET - STEP)
    assert main.requests == 0
    bound = "SELECT provider, attempt FROM batches WHERE state = 'pending'"
    assert {row.provider for row in pipeline.rows(bound)} == {"backup"}
    with engine.connect() as connection:
        due_by = clock.now() + timedelta(hours=1)
        assert batch_queries.count_bound(connection, due_by=due_by) == {"backup": 20}
    new_backup.answer = None
    successor.work_until(clock.now() + 2 * RESET)
    assert {state for state, _ in attempts(pipeline)} == {"sent"}
    assert (main.requests, set(accepted(main, backup).values())) == (0, {1})


def test_an_unknown_outcome_is_free_once_its_provider_is_gone(
    pipeline: Pipeline, clock: SettableClock, make: MakeService, start: Callable[..., Worker]
) -> None:
    pipeline.add_due_people(1)
    former, backup, third = make("former"), make("backup"), make("third")
    former.answer = HANGS
    start(former, backup).work()
    assert attempts(pipeline) == {("retrying", 1): 1}
    clock.advance(timedelta(seconds=5))
    start(backup, third).work()
    assert attempts(pipeline) == {("sent", 2): 1}
    assert backup.requests == 1


def test_a_probe_that_fails_costs_nothing_and_the_second_goes_on(
    pipeline: Pipeline, make: MakeService, start: Callable[..., Worker]
) -> None:
    pipeline.add_due_people(60)
    for number in (1, 2):
        pipeline.execute(
            "UPDATE batches SET due_at = due_at + :later WHERE id % 3 = :number",
            later=number * timedelta(seconds=40),
            number=number,
        )
    main, backup = make("main", failures=1), make("backup")
    main.answer = AWAY
    worker = start(main, backup)
    worker.work_until(NINE + timedelta(minutes=1))
    assert attempts(pipeline) == {("sent", 1): 39, ("sent", 2): 1, ("scheduled", 0): 20}
    assert (main.requests, backup.requests) == (2, 40)
    main.answer = None
    worker.work_until(NINE + timedelta(minutes=2))
    assert attempts(pipeline) == {("sent", 1): 59, ("sent", 2): 1}
    assert (main.requests, backup.requests) == (22, 40)
    assert set(accepted(main, backup).values()) == {1}


def test_while_the_first_is_at_its_rate_nothing_goes_to_the_second(
    pipeline: Pipeline, clock: SettableClock, make: MakeService, start: Callable[..., Worker]
) -> None:
    pipeline.execute("UPDATE occasions SET channels = ARRAY['email', 'sms']::channel[] WHERE id = 1")
    pipeline.add_due_people(60)
    main, backup, sms = make("main", messages_per_second=2.0), make("backup"), make("sms")
    worker = start(main, backup, sms=sms)
    worker.work()
    assert attempts(pipeline, Channel.SMS) == {("sent", 1): 60}
    gone = clock.now() - NINE
    assert gone <= timedelta(seconds=20)
    worker.work_until(NINE + timedelta(seconds=60))
    assert attempts(pipeline) == {("sent", 1): 60}
    assert (main.requests, backup.requests) == (60, 0)
