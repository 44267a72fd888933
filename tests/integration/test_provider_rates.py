"""Messages per second of a provider, over threads and processes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from threading import Barrier

import pytest
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock, SystemClock
from scheduler.store import provider_rates
from scheduler.store.database import create_database_engine
from tests.fixtures.events import logged_events
from tests.fixtures.messages import Signal, outgoing_many
from tests.fixtures.providers import SteppingProvider, failed
from worker.breaker import Circuit, CircuitPolicy
from worker.channels.guarded import CircuitProvider
from worker.channels.limited import MOST_WAITING, SLICE, LimitedProvider, Rate
from worker.channels.port import Accepted, Failed, NotAttempted, Outcome, OutgoingMessage

RATE = 10.0


@dataclass
class Recorder:
    """Accepts everything and keeps when."""

    clock: SettableClock | SystemClock
    times: list[datetime] = field(default_factory=list)

    def __call__(self, _: OutgoingMessage) -> Outcome:
        self.times.append(self.clock.now())
        return Accepted(self.times[-1])


def limited(
    engine: Engine, clock: SettableClock, rate: float = RATE
) -> tuple[LimitedProvider, Recorder, Rate]:
    recorder = Recorder(clock)
    shared = Rate("limited", rate, engine, clock)
    return LimitedProvider(SteppingProvider(recorder), shared, clock), recorder, shared


def most_in_window(times: list[datetime], window: timedelta) -> int:
    """The most instants that any window of this length holds."""
    return max(sum(start <= each < start + window for each in times) for start in times)


def test_a_batch_is_spread_over_its_time(engine: Engine, clock: SettableClock) -> None:
    provider, recorder, _ = limited(engine, clock)
    began_at = clock.now()
    outcomes = provider.deliver(outgoing_many(45), Signal())
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert [round((at - began_at).total_seconds(), 3) for at in recorder.times] == [
        n // 10 for n in range(45)
    ]


def test_what_takes_longer_than_a_delivery_may_wait_is_handed_back(
    engine: Engine, clock: SettableClock
) -> None:
    provider, recorder, _ = limited(engine, clock)
    began_at = clock.now()
    outcomes = provider.deliver(outgoing_many(500), Signal())
    assert clock.now() - began_at <= MOST_WAITING
    assert len(recorder.times) == 60
    free_at = began_at + timedelta(seconds=6)
    assert outcomes[60:] == [NotAttempted(free_at)] * 440
    # The channel is left alone until then, and goes on where it stopped.
    assert provider.pauses_until() == free_at
    clock.set(free_at)
    assert provider.pauses_until() is None
    provider.deliver(outgoing_many(10), Signal())
    assert recorder.times[60:] == [free_at] * 10


def test_a_thread_that_waits_keeps_the_others_of_its_process_away(
    engine: Engine, clock: SettableClock
) -> None:
    _, _, rate = limited(engine, clock)
    assert rate.reserve(10, MOST_WAITING) == clock.now()
    assert rate.used_up_until() is None
    assert rate.reserve(10, MOST_WAITING) == clock.now() + SLICE
    assert rate.used_up_until() == clock.now() + SLICE


def test_a_rate_below_one_a_second_sends_one_message_at_a_time(engine: Engine, clock: SettableClock) -> None:
    provider, recorder, _ = limited(engine, clock, rate=0.1)
    began_at = clock.now()
    assert (
        provider.deliver(outgoing_many(3), Signal())[1:]
        == [NotAttempted(began_at + timedelta(seconds=10))] * 2
    )
    assert recorder.times == [began_at]


def test_a_stop_ends_the_waiting(engine: Engine, clock: SettableClock) -> None:
    provider, recorder, _ = limited(engine, clock)
    # Asked before the first slice, ten times while it is sent, and three times afterwards.
    outcomes = provider.deliver(outgoing_many(30), Signal(starts=14))
    assert len(recorder.times) == 10
    assert [type(outcome) for outcome in outcomes[10:]] == [NotAttempted] * 20
    assert clock.now() - recorder.times[0] < SLICE


def test_a_circuit_that_opens_ends_the_delivery(engine: Engine, clock: SettableClock) -> None:
    provider, _, _ = limited(engine, clock)
    guarded = CircuitProvider(provider, Circuit("limited", clock, CircuitPolicy(failures=3)))
    sent: list[str] = []

    def fail(message: OutgoingMessage) -> Outcome:
        sent.append(message.id)
        return failed()

    provider._provider = SteppingProvider(fail)
    outcomes = guarded.deliver(outgoing_many(30), Signal())
    assert (len(sent), sum(isinstance(outcome, Failed) for outcome in outcomes)) == (3, 3)
    assert outcomes[3:] == [NotAttempted(clock.now() + timedelta(seconds=30))] * 27


def test_threads_that_reserve_at_once_never_exceed_the_rate(engine: Engine, clock: SettableClock) -> None:
    """Each of them with a pool of its own, as processes have."""
    count, slices = 8, 12
    barrier = Barrier(count)

    def reserve(_: int) -> list[tuple[datetime, int]]:
        own = create_database_engine(
            engine.url.render_as_string(hide_password=False),
            pool_size=1,
            application_name="daybreak-tests",
        )
        rate = Rate("limited", RATE, own, clock)
        barrier.wait()
        granted = [(rate.reserve(messages, timedelta(hours=1)), messages) for messages in range(1, slices)]
        own.dispose()
        return [(starts_at, messages) for starts_at, messages in granted if starts_at is not None]

    with ThreadPoolExecutor(count) as threads:
        granted = sorted(each for grants in threads.map(reserve, range(count)) for each in grants)
    assert len(granted) == count * (slices - 1)
    assert granted[0][0] == clock.now()
    for (starts_at, messages), (next_at, _) in pairwise(granted):
        assert next_at - starts_at == timedelta(seconds=messages / RATE)


def test_several_processes_share_one_rate_by_the_real_clock(engine: Engine) -> None:
    clock, rate, window = SystemClock(), 200.0, timedelta(seconds=0.5)
    recorders: list[Recorder] = []

    def deliver(_: int) -> int:
        recorder = Recorder(clock)
        recorders.append(recorder)
        provider = LimitedProvider(SteppingProvider(recorder), Rate("limited", rate, engine, clock), clock)
        outcomes = provider.deliver(outgoing_many(150), Signal())
        return sum(isinstance(outcome, Accepted) for outcome in outcomes)

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(deliver, range(3))) == 450
    times = sorted(at for recorder in recorders for at in recorder.times)
    # A slice may begin a quarter of a second late.
    assert most_in_window(times, window) <= rate * (window.total_seconds() + 0.25) + rate
    assert times[-1] - times[0] >= timedelta(seconds=(450 - rate) / rate - 0.25)


def test_a_clock_that_was_set_back_blocks_nobody(engine: Engine, clock: SettableClock) -> None:
    _, _, rate = limited(engine, clock)
    assert rate.reserve(10, MOST_WAITING) is not None
    clock.set(clock.now() - timedelta(hours=1))
    assert rate.reserve(10, MOST_WAITING) == clock.now()
    assert rate.reserve(10, MOST_WAITING) == clock.now() + SLICE


def test_each_provider_has_a_rate_of_its_own(engine: Engine, clock: SettableClock) -> None:
    rates = [Rate(name, RATE, engine, clock) for name in ("a", "b")]
    assert [rate.reserve(10, timedelta()) for rate in rates] == [clock.now()] * 2
    assert [rate.reserve(10, timedelta()) for rate in rates] == [None] * 2
    with engine.connect() as connection:
        assert provider_rates.next_free_at(connection, "a") == clock.now() + SLICE
        assert provider_rates.next_free_at(connection, "c") is None


@pytest.fixture
def broken(engine: Engine) -> Engine:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE provider_rates"))
    return engine


def test_without_the_database_nothing_is_sent(broken: Engine, clock: SettableClock) -> None:
    provider, recorder, _ = limited(broken, clock)
    with logged_events("rate_") as events:
        outcomes = provider.deliver(outgoing_many(3), Signal())
    assert outcomes == [NotAttempted(clock.now() + timedelta(seconds=2))] * 3
    assert recorder.times == []
    assert [event.name for event in events] == ["rate_not_reserved"]
