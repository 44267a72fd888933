"""A provider that fails, hangs or refuses us, on a real log and over real HTTP: what that costs its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from threading import Event as ThreadEvent
from typing import Final

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.store.batches import Counts
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.events import Event, logged_events
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import LATENESS_LIMIT, LEASE, NINE, Pipeline
from tests.fixtures.providers import ScriptedProvider, failed
from tests.fixtures.sink import Request, Sink, running_sink
from worker.breaker import Circuit, CircuitPolicy, CircuitState
from worker.channels.guarded import CircuitProvider
from worker.channels.http import HttpProvider
from worker.channels.http_settings import HttpSettings
from worker.channels.port import FailureKind
from worker.consumer import DeliveryLoop
from worker.leases import LeaseKeeper, Shutdown

RESET: Final = timedelta(seconds=30)
STEP: Final = timedelta(seconds=5)
AWAY: Final = Answer(status=503)
REFUSES: Final = Answer(status=401)
HANGS: Final = Answer(ending=Ending.HANG, accepts=True)


@dataclass
class Service:
    """A fake service behind its circuit: `answer` None accepts."""

    sink: Sink
    circuit: Circuit
    provider: CircuitProvider
    answer: Answer | None = None

    def choose(self, _: Request) -> Answer:
        """How the sink answers."""
        return self.answer or Answer()

    @property
    def accepted_users(self) -> list[int]:
        """Whose messages it has accepted, in order."""
        return [MessageKey.parse(key).user_id for key in self.sink.ledger.accepted]


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, batch_size=4)


MakeService = Callable[..., Service]


@pytest.fixture
def make(clock: SettableClock) -> Iterator[MakeService]:
    """Make services that are closed at the end of the test. Each sends one request at a time unless told otherwise."""
    with ExitStack() as made:

        def make(name: str, *, failures: int = 5, concurrency: int = 1) -> Service:
            sink = made.enter_context(running_sink())
            settings = HttpSettings(name, sink.url, concurrency=concurrency, total_timeout_seconds=0.2)
            inner = HttpProvider(settings, clock)
            made.callback(inner.close)
            circuit = Circuit(name, clock, CircuitPolicy(failures, RESET.total_seconds()))
            service = Service(sink, circuit, CircuitProvider(inner, circuit))
            sink.answer_by = service.choose
            return service

        yield make


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with logged_events() as events:
        yield events


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

    def work(self) -> None:
        """Enqueue and deliver what is due now."""
        self.pipeline.enqueue()
        while self.loop.deliver_next(timedelta()):
            pass


@pytest.fixture
def start(pipeline: Pipeline, engine: Engine, clock: SettableClock) -> Iterator[Callable[..., Worker]]:
    """Start a worker that sends e-mail through one service, and text messages through another."""
    with ExitStack() as started:

        def start(email: Service, sms: Service | None = None) -> Worker:
            consumer = pipeline.broker.consumer("worker", list(Channel))
            started.callback(consumer.close)
            providers = {Channel.EMAIL: email.provider, Channel.SMS: (sms or email).provider}
            shutdown = Shutdown(ThreadEvent(), clock, timedelta(seconds=20))
            keeper = LeaseKeeper(engine, clock, LEASE)
            loop = DeliveryLoop(consumer, pipeline.deliverer(providers), keeper, shutdown, clock, LEASE)
            return Worker(pipeline, clock, loop)

        yield start


def attempts(pipeline: Pipeline, channel: Channel = Channel.EMAIL) -> list[tuple[str, int]]:
    """State and attempts of each message of a channel, sorted."""
    rows = pipeline.rows(
        "SELECT CAST(state AS text) AS state, attempt FROM message_log WHERE CAST(channel AS text) = :channel",
        channel=channel.value,
    )
    return sorted((row.state, row.attempt) for row in rows)


def circuit_events(events: list[Event]) -> list[str]:
    return [event.name for event in events if event.name.startswith("circuit_")]


def test_a_provider_away_for_ten_minutes_costs_nothing_but_the_time(
    pipeline: Pipeline, make: MakeService, start: Callable[..., Worker], events: list[Event]
) -> None:
    pipeline.execute("UPDATE occasions SET channels = ARRAY['email', 'sms']::channel[] WHERE id = 1")
    due: dict[int, time] = {}
    for number, at in enumerate((time(9), time(9, 3), time(9, 7))):
        due |= dict.fromkeys(pipeline.add_people(10, first=10 * number, preferred_time=at), at)
    pipeline.plan(NINE - timedelta(hours=1))
    email, sms = make("email"), make("sms")
    worker = start(email, sms)

    email.answer = AWAY
    back_at = NINE + timedelta(minutes=10)
    worker.work_until(back_at)
    probes = 19  # every 30 seconds, from 09:00:30 to 09:09:30
    assert attempts(pipeline, Channel.SMS) == [("sent", 1)] * 30
    assert attempts(pipeline) == [("retrying", 1)] * 5 + [("scheduled", 0)] * 25
    assert email.sink.counts["requests"] == 5 + probes
    # Nothing was received that could only be handed back.
    [leases] = pipeline.rows(
        "SELECT sum(lease_token) AS n FROM batches WHERE CAST(channel AS text) = 'email'"
    )
    assert leases.n == 2 + probes
    assert email.circuit.state is CircuitState.OPEN
    assert sms.circuit.state is CircuitState.CLOSED

    email.answer = None
    worker.work_until(back_at + timedelta(seconds=10))
    assert attempts(pipeline) == [("sent", 1)] * 25 + [("sent", 2)] * 5
    order = [due[user_id] for user_id in email.accepted_users]
    assert order == sorted(order)
    assert email.sink.ledger.accepted.total() == sms.sink.ledger.accepted.total() == 30
    assert circuit_events(events) == [
        "circuit_opened",
        *["circuit_half_open", "circuit_probe_failed"] * probes,
        "circuit_half_open",
        "circuit_closed",
    ]
    assert {event.fields["provider"] for event in events if event.name.startswith("circuit_")} == {"email"}


def test_a_batch_stops_after_the_failures_that_open_the_circuit(
    engine: Engine, clock: SettableClock, make: MakeService, start: Callable[..., Worker]
) -> None:
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(500)
    email = make("email", concurrency=4)
    email.answer = AWAY
    start(email).work()
    requests = email.sink.counts["requests"]
    assert 5 <= requests < 5 + 4
    assert attempts(pipeline) == [("retrying", 1)] * requests + [("scheduled", 0)] * (500 - requests)
    [batch] = pipeline.rows("SELECT due_at FROM batches WHERE attempt = 0")
    assert batch.due_at == NINE + RESET


def test_a_provider_that_hangs_for_long_kills_no_message(
    pipeline: Pipeline, clock: SettableClock, make: MakeService, start: Callable[..., Worker]
) -> None:
    """Each attempt may have been accepted, so the first counts; those of probes that follow do not."""
    pipeline.retry = RetryPolicy(max_attempts=3, base_seconds=2.0, cap_seconds=2.0)
    pipeline.add_due_people(1)
    email = make("email", failures=1)
    email.answer = HANGS
    worker = start(email)
    for _ in range(6):
        worker.work()
        assert attempts(pipeline) == [("retrying", 1)]
        clock.advance(RESET)
    email.answer = None
    worker.work()
    assert attempts(pipeline) == [("sent", 2)]
    assert (email.sink.counts["requests"], email.sink.ledger.accepted.total()) == (7, 1)


def test_refused_credentials_burn_no_attempt_and_all_is_sent_once_they_are_right(
    pipeline: Pipeline,
    clock: SettableClock,
    make: MakeService,
    start: Callable[..., Worker],
    events: list[Event],
) -> None:
    pipeline.retry = RetryPolicy(max_attempts=1)
    pipeline.add_due_people(10)
    email = make("email")
    email.answer = REFUSES
    worker = start(email)
    for _ in range(3):
        worker.work()
        assert attempts(pipeline) == [("scheduled", 0)] * 10
        clock.advance(RESET)
    assert email.sink.counts["requests"] == 3
    kept = pipeline.rows("SELECT kind, category, attempt FROM delivery_attempts")
    assert [tuple(row) for row in kept] == [("provider", "http_401", 1)] * 3
    opened = [event for event in events if event.name == "circuit_opened"]
    assert {(event.level, event.fields["category"]) for event in opened} == {("ERROR", "http_401")}
    email.answer = None
    worker.work()
    assert attempts(pipeline) == [("sent", 1)] * 10


def test_a_batch_that_is_held_when_the_circuit_opens_is_handed_back_unclaimed(
    pipeline: Pipeline, make: MakeService, events: list[Event]
) -> None:
    pipeline.add_due_people(3)
    pipeline.enqueue()
    held = pipeline.lease()
    email = make("email")
    email.circuit.note(failed(FailureKind.PROVIDER, "http_401"), 0.0)
    assert pipeline.deliverer(email.provider).deliver(held, Signal()) == Counts()
    assert attempts(pipeline) == [("scheduled", 0)] * 3
    [batch] = pipeline.rows("SELECT CAST(state AS text) AS state, due_at, enqueued_at FROM batches")
    assert tuple(batch) == ("pending", NINE + RESET, None)
    assert email.sink.counts["requests"] == 0
    assert "batch_postponed" in [event.name for event in events]


def test_what_expires_while_the_circuit_is_open_expires_without_the_provider(
    pipeline: Pipeline, clock: SettableClock, make: MakeService
) -> None:
    """Recovery leaves a batch that a worker has held to the next worker."""
    pipeline.add_due_people(3)
    email = make("email")
    deliverer = pipeline.deliverer(email.provider)
    email.circuit.note(failed(FailureKind.PROVIDER, "http_401"), 0.0)
    pipeline.enqueue()
    deliverer.deliver(pipeline.lease(), Signal())
    clock.advance(LATENESS_LIMIT + timedelta(seconds=1))
    assert email.circuit.begin_probe()
    email.circuit.end_probe(failed(), 0.0)
    pipeline.enqueue()
    assert deliverer.deliver(pipeline.lease(), Signal()) == Counts(expired=3)
    assert attempts(pipeline) == [("expired", 0)] * 3


def test_what_a_killed_worker_left_behind_waits_for_the_provider_too(
    pipeline: Pipeline, clock: SettableClock, make: MakeService, start: Callable[..., Worker]
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    pipeline.add_due_people(3)
    pipeline.enqueue()
    with pytest.raises(KeyboardInterrupt):
        pipeline.deliverer(ScriptedProvider(before=die)).deliver(pipeline.lease("killed"), Signal())
    clock.advance(LEASE + timedelta(seconds=1))
    email = make("email")
    email.circuit.note(failed(FailureKind.PROVIDER, "http_401"), 0.0)
    worker = start(email)
    worker.work()
    assert attempts(pipeline) == [("sending", 1)] * 3
    clock.advance(RESET)
    worker.work()
    assert attempts(pipeline) == [("sent", 2)] * 3
