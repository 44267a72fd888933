"""When a circuit opens, lets a probe through and closes; what it logs of that."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest

from scheduler.clock import SettableClock
from tests.fixtures.events import Event, logged_events
from tests.fixtures.providers import AT, failed
from worker.breaker import WHILE_PROBING_SECONDS, Circuit, CircuitPolicy, CircuitState
from worker.channels.port import Accepted, FailureKind, NotAttempted, Outcome

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
RESET = timedelta(seconds=30)
THREADS = 8
ACCEPTED = Accepted(AT)
REFUSED = failed(FailureKind.PROVIDER, "http_401")
PERMANENT = failed(FailureKind.PERMANENT, "http_400")
UNKNOWN = failed(FailureKind.UNKNOWN, "timeout")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


@pytest.fixture
def circuit(clock: SettableClock) -> Circuit:
    return Circuit("http", clock, CircuitPolicy(failures=3, reset_seconds=30.0))


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with logged_events("circuit_") as events:
        yield events


def note(circuit: Circuit, *outcomes: Outcome, began_at: float = 0.0) -> CircuitState:
    for outcome in outcomes:
        circuit.note(outcome, began_at)
    return circuit.state


def probe(circuit: Circuit, outcome: Outcome | None) -> CircuitState:
    assert circuit.begin_probe()
    circuit.end_probe(outcome, 0.0)
    return circuit.state


def open_until_probe(circuit: Circuit, clock: SettableClock) -> None:
    """Open the circuit and let the reset time pass."""
    note(circuit, REFUSED)
    clock.advance(RESET)


def all_at_once(work: Callable[[], object]) -> None:
    """Run `work` in several threads that begin together."""
    barrier = Barrier(THREADS)

    def run() -> None:
        barrier.wait()
        work()

    threads = [Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("failure", [failed(), UNKNOWN])
def test_failures_in_a_row_open_a_circuit(circuit: Circuit, failure: Outcome) -> None:
    assert note(circuit, failure, failure) is CircuitState.CLOSED
    assert note(circuit, failure) is CircuitState.OPEN


@pytest.mark.parametrize("sign", [ACCEPTED, PERMANENT])
def test_a_sign_of_life_begins_the_row_anew(circuit: Circuit, sign: Outcome) -> None:
    assert note(circuit, failed(), failed(), sign, failed(), failed()) is CircuitState.CLOSED
    assert note(circuit, failed()) is CircuitState.OPEN


def test_failures_of_messages_alone_never_open_it(circuit: Circuit) -> None:
    assert note(circuit, *[PERMANENT] * 100) is CircuitState.CLOSED


def test_what_was_not_attempted_is_no_sign_of_life(circuit: Circuit) -> None:
    assert note(circuit, failed(), failed(), NotAttempted(), failed()) is CircuitState.OPEN


def test_a_refusal_of_ours_opens_it_at_once(circuit: Circuit) -> None:
    assert note(circuit, REFUSED) is CircuitState.OPEN


def test_requests_that_hang_beside_others_that_are_answered_do_not_open_it(circuit: Circuit) -> None:
    """They end last and together, although others that were sent after them were accepted long ago."""
    note(circuit, ACCEPTED, began_at=2.0)
    assert note(circuit, *[UNKNOWN] * 50, began_at=1.0) is CircuitState.CLOSED
    assert note(circuit, *[UNKNOWN] * 3, began_at=2.5) is CircuitState.OPEN


def test_an_open_circuit_pauses_for_its_reset_time(circuit: Circuit, clock: SettableClock) -> None:
    assert circuit.pauses_until() is None
    note(circuit, REFUSED)
    assert circuit.pauses_until() == NOW + RESET
    clock.advance(RESET - timedelta(seconds=1))
    assert circuit.pauses_until() == NOW + RESET
    assert not circuit.begin_probe()
    clock.advance(timedelta(seconds=1))
    assert circuit.pauses_until() is None
    assert circuit.state is CircuitState.OPEN


def test_a_clock_that_is_set_back_prolongs_no_pause(circuit: Circuit, clock: SettableClock) -> None:
    note(circuit, REFUSED)
    clock.set(NOW - timedelta(hours=1))
    assert circuit.pauses_until() == NOW - timedelta(hours=1) + RESET
    clock.advance(RESET)
    assert circuit.begin_probe()


def test_while_a_probe_is_under_way_nothing_else_is_let_through(
    circuit: Circuit, clock: SettableClock
) -> None:
    open_until_probe(circuit, clock)
    assert circuit.begin_probe()
    assert circuit.state is CircuitState.HALF_OPEN
    assert not circuit.begin_probe()
    assert circuit.pauses_until() == clock.now() + timedelta(seconds=WHILE_PROBING_SECONDS)


def test_a_closed_circuit_needs_no_probe(circuit: Circuit) -> None:
    assert not circuit.begin_probe()


@pytest.mark.parametrize("sign", [ACCEPTED, PERMANENT])
def test_a_probe_that_is_answered_closes_the_circuit(
    circuit: Circuit, clock: SettableClock, sign: Outcome
) -> None:
    open_until_probe(circuit, clock)
    assert probe(circuit, sign) is CircuitState.CLOSED
    assert circuit.pauses_until() is None
    assert note(circuit, failed(), failed()) is CircuitState.CLOSED


@pytest.mark.parametrize("failure", [failed(), UNKNOWN, REFUSED])
def test_a_probe_that_fails_opens_it_for_the_full_reset_time(
    circuit: Circuit, clock: SettableClock, failure: Outcome
) -> None:
    open_until_probe(circuit, clock)
    clock.advance(timedelta(minutes=10))
    assert probe(circuit, failure) is CircuitState.OPEN
    assert circuit.pauses_until() == clock.now() + RESET
    assert circuit.failed_probes == 1


def test_a_probe_that_shows_nothing_makes_room_for_another(circuit: Circuit, clock: SettableClock) -> None:
    open_until_probe(circuit, clock)
    assert probe(circuit, None) is CircuitState.HALF_OPEN
    assert circuit.pauses_until() is None
    assert probe(circuit, ACCEPTED) is CircuitState.CLOSED


def test_what_was_in_flight_decides_nothing_any_more(circuit: Circuit, clock: SettableClock) -> None:
    open_until_probe(circuit, clock)
    assert note(circuit, ACCEPTED, failed(), REFUSED) is CircuitState.OPEN
    assert circuit.begin_probe()
    assert note(circuit, ACCEPTED, failed(), REFUSED) is CircuitState.HALF_OPEN
    circuit.end_probe(ACCEPTED, 0.0)
    assert circuit.state is CircuitState.CLOSED


def test_of_many_threads_one_may_probe(circuit: Circuit, clock: SettableClock) -> None:
    open_until_probe(circuit, clock)
    allowed: list[bool] = []
    all_at_once(lambda: allowed.append(circuit.begin_probe()))
    assert sorted(allowed) == [False] * (THREADS - 1) + [True]


def test_many_threads_that_fail_open_it_once(circuit: Circuit, events: list[Event]) -> None:
    all_at_once(lambda: note(circuit, *[failed()] * 200))
    assert [event.name for event in events] == ["circuit_opened"]
    assert events[0].fields["failures"] == 3


def test_transitions_are_logged(circuit: Circuit, clock: SettableClock, events: list[Event]) -> None:
    note(circuit, failed(), failed(), failed(category="timeout"))
    clock.advance(RESET)
    probe(circuit, failed())
    clock.advance(RESET)
    probe(circuit, ACCEPTED)
    assert [(event.name, event.level) for event in events] == [
        ("circuit_opened", "WARNING"),
        ("circuit_half_open", "INFO"),
        ("circuit_probe_failed", "INFO"),
        ("circuit_half_open", "INFO"),
        ("circuit_closed", "INFO"),
    ]
    assert {event.fields["provider"] for event in events} == {"http"}
    assert [event.fields["failures"] for event in events] == [3, 3, 4, 4, 4]
    assert [event.fields.get("category") for event in events] == ["timeout", None, "http_503", None, None]


def test_a_refusal_of_ours_is_logged_as_an_error(circuit: Circuit, events: list[Event]) -> None:
    note(circuit, REFUSED)
    [event] = events
    assert (event.level, event.fields["category"], event.fields["kind"]) == ("ERROR", "http_401", "provider")


def test_refusals_are_excused_unless_the_circuit_was_only_just_closed(
    circuit: Circuit, clock: SettableClock
) -> None:
    excused: list[bool] = []
    for closed_for in (RESET, timedelta(seconds=1), RESET):
        note(circuit, REFUSED)
        excused.append(circuit.excuses_refusals)
        clock.advance(RESET)
        probe(circuit, ACCEPTED)
        clock.advance(closed_for)
    note(circuit, REFUSED)
    excused.append(circuit.excuses_refusals)
    assert excused == [True, True, False, True]
