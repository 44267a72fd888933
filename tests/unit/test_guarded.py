"""A provider behind its circuit: what is sent, what comes back untouched, and what it costs a message."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Barrier, Event, Thread

import pytest

from scheduler.clock import SettableClock
from tests.fixtures.messages import Signal, outgoing_many
from tests.fixtures.providers import AT, UNSENDABLE, SteppingProvider, failed
from worker.breaker import WHILE_PROBING_SECONDS, Circuit, CircuitPolicy, CircuitState
from worker.channels.guarded import PROBES_PER_TURN, STEP_ASIDE, CircuitProvider
from worker.channels.port import (
    Accepted,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
    named,
)

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
RESET = timedelta(seconds=30)
REFUSED = failed(FailureKind.PROVIDER, "http_401")
ACCEPTED = Accepted(AT)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


@pytest.fixture
def circuit(clock: SettableClock) -> Circuit:
    return Circuit("stepping", clock, CircuitPolicy())


@pytest.fixture
def inner() -> SteppingProvider:
    return SteppingProvider()


@pytest.fixture
def provider(inner: SteppingProvider, circuit: Circuit) -> CircuitProvider:
    return CircuitProvider(inner, circuit)


def deliver(provider: CircuitProvider, count: int = 10) -> list[Outcome]:
    return provider.deliver(outgoing_many(count), Signal())


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def burned(outcomes: list[Outcome]) -> list[bool]:
    return [outcome.burns_attempt for outcome in outcomes if isinstance(outcome, Failed)]


def open_until_probe(provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock) -> None:
    """Open the circuit, let its reset time pass and forget what was sent."""
    inner.answer = lambda _: REFUSED
    deliver(provider, 1)
    clock.advance(RESET)
    inner.calls.clear()


def test_what_goes_well_is_passed_through(provider: CircuitProvider, inner: SteppingProvider) -> None:
    control = Signal()
    assert provider.deliver(outgoing_many(3), control) == control.noted == [ACCEPTED] * 3
    assert (provider.name, provider.pauses_until(), len(inner.calls)) == ("stepping", None, 1)


def test_a_batch_that_meets_a_dead_provider_stops_at_the_threshold(
    provider: CircuitProvider, inner: SteppingProvider
) -> None:
    inner.answer = lambda _: failed()
    outcomes = deliver(provider, 500)
    assert outcomes == [named(failed(), "stepping")] * 5 + [NotAttempted(NOW + RESET)] * 495
    assert provider.pauses_until() == NOW + RESET


def test_nothing_is_sent_through_an_open_circuit(provider: CircuitProvider, inner: SteppingProvider) -> None:
    inner.answer = lambda _: REFUSED
    deliver(provider)
    inner.calls.clear()
    assert deliver(provider) == [NotAttempted(NOW + RESET)] * 10
    assert inner.calls == []


def test_the_probe_is_one_message_and_the_rest_follows_once_it_is_answered(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock, circuit: Circuit
) -> None:
    open_until_probe(provider, inner, clock)
    states: list[CircuitState] = []

    def answer(_: OutgoingMessage) -> Outcome:
        states.append(circuit.state)
        return ACCEPTED

    inner.answer = answer
    assert deliver(provider) == [ACCEPTED] * 10
    assert [len(call) for call in inner.calls] == [1, 9]
    assert states == [CircuitState.HALF_OPEN] + [CircuitState.CLOSED] * 9


@pytest.mark.parametrize("failure", [failed(), failed(FailureKind.UNKNOWN, "timeout"), REFUSED])
def test_a_probe_that_fails_costs_no_attempt_and_nothing_else_is_sent(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock, failure: Failed
) -> None:
    open_until_probe(provider, inner, clock)
    inner.answer = lambda _: failure
    outcomes = deliver(provider)
    assert kinds(outcomes) == ["Failed"] + ["NotAttempted"] * 9
    assert burned(outcomes) == [False]
    assert [len(call) for call in inner.calls] == [1]
    assert provider.pauses_until() == clock.now() + RESET


def test_a_probe_at_fault_itself_is_a_sign_of_life(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock
) -> None:
    open_until_probe(provider, inner, clock)
    answers: list[Outcome] = [failed(FailureKind.PERMANENT, "http_400"), *[ACCEPTED] * 9]
    inner.answer = lambda _: answers.pop(0)
    outcomes = deliver(provider)
    assert kinds(outcomes) == ["Failed"] + ["Accepted"] * 9
    assert burned(outcomes) == [True]


def test_a_message_that_never_left_is_no_probe(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock
) -> None:
    open_until_probe(provider, inner, clock)
    answers = [failed(FailureKind.PERMANENT, UNSENDABLE)] * 2 + [failed()]
    inner.answer = lambda _: answers.pop(0)
    assert kinds(deliver(provider)) == ["Failed"] * 3 + ["NotAttempted"] * 7
    assert [len(call) for call in inner.calls] == [1, 1, 1]


def test_a_probe_that_is_told_to_stop_leaves_the_probe_to_another(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock, circuit: Circuit
) -> None:
    open_until_probe(provider, inner, clock)
    assert kinds(provider.deliver(outgoing_many(3), Signal(starts=0))) == ["NotAttempted"] * 3
    assert circuit.state is CircuitState.HALF_OPEN
    inner.answer = lambda _: ACCEPTED
    assert deliver(provider, 3) == [ACCEPTED] * 3


def test_a_probe_that_raises_leaves_the_probe_to_another(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock
) -> None:
    def raise_a_mistake(_: OutgoingMessage) -> Outcome:
        raise RuntimeError("a mistake")

    open_until_probe(provider, inner, clock)
    inner.answer = raise_a_mistake
    with pytest.raises(RuntimeError):
        deliver(provider)
    inner.answer = lambda _: ACCEPTED
    assert deliver(provider, 3) == [ACCEPTED] * 3


def test_a_refusal_of_ours_costs_no_attempt(provider: CircuitProvider, inner: SteppingProvider) -> None:
    inner.answer = lambda _: REFUSED
    outcomes = deliver(provider)
    assert kinds(outcomes) == ["Failed"] + ["NotAttempted"] * 9
    assert burned(outcomes) == [False]


def test_a_message_that_alone_is_refused_pays_from_the_second_time_on(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock
) -> None:
    """Or it would open the circuit of all others every reset time, until it expires."""
    open_until_probe(provider, inner, clock)
    answers: list[Outcome] = [ACCEPTED, REFUSED]
    inner.answer = lambda _: answers.pop(0)
    outcomes = deliver(provider)
    assert kinds(outcomes) == ["Accepted", "Failed"] + ["NotAttempted"] * 8
    assert burned(outcomes) == [True]


def test_every_tenth_probe_in_a_row_that_fails_lets_another_batch_go_first(
    provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock
) -> None:
    open_until_probe(provider, inner, clock)
    waits: list[timedelta] = []
    for _ in range(2 * PROBES_PER_TURN):
        deliver(provider)
        due_at = provider.pauses_until()
        assert due_at is not None
        waits.append(due_at - clock.now())
        clock.advance(RESET)
    turn = [RESET] * (PROBES_PER_TURN - 1) + [RESET + STEP_ASIDE]
    assert waits == turn + turn


def in_threads(*works: Callable[[], object]) -> None:
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_threads_that_share_a_circuit_one_sends_the_probe(
    circuit: Circuit, provider: CircuitProvider, inner: SteppingProvider, clock: SettableClock
) -> None:
    open_until_probe(provider, inner, clock)
    others_are_back, barrier, count = Event(), Barrier(4), 4
    results: list[list[Outcome]] = []

    def answer(_: OutgoingMessage) -> Outcome:
        assert others_are_back.wait(timeout=20)
        return failed()

    inners = [SteppingProvider(answer) for _ in range(count)]

    def work(own: SteppingProvider) -> None:
        barrier.wait()
        results.append(deliver(CircuitProvider(own, circuit)))
        if len(results) >= count - 1:
            others_are_back.set()

    in_threads(*(partial(work, own) for own in inners))
    assert sorted(sum(len(call) for call in own.calls) for own in inners) == [0, 0, 0, 1]
    while_probing = NotAttempted(clock.now() + timedelta(seconds=WHILE_PROBING_SECONDS))
    assert results[:3] == [[while_probing] * 10] * 3
