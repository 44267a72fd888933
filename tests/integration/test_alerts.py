"""Alerts, posted to a real server on loopback."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import orjson
import pytest
from pydantic import SecretStr

from scheduler.clock import SettableClock
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.events import Event, logged_events
from tests.fixtures.providers import failed
from tests.fixtures.sink import Sink, running_sink
from tests.fixtures.waiting import wait_until
from worker.alerts import MOST_KEPT, Alerts
from worker.breaker import Circuit, CircuitPolicy
from worker.channels.port import Accepted, FailureKind
from worker.circuit_reporter import Signals

REFUSED = failed(FailureKind.PROVIDER, "http_401")


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture
def events() -> Iterator[list[Event]]:
    with logged_events("alert_") as events:
        yield events


Start = Callable[..., Alerts]


@pytest.fixture
def start(sink: Sink) -> Iterator[Start]:
    """Start alerts that are closed at the end of the test."""
    with ExitStack() as started:

        def start(url: str | None = None, timeout_seconds: float = 5.0) -> Alerts:
            alerts = Alerts(SecretStr(url or sink.url), timeout_seconds)
            alerts.start()
            started.callback(alerts.close)
            return alerts

        yield start


def texts(sink: Sink) -> list[str]:
    return [orjson.loads(request.body)["text"] for request in sink.requests]


def test_a_refusal_is_posted_once_an_opening(sink: Sink, start: Start, clock: SettableClock) -> None:
    alerts = start()
    circuit = Circuit("main", clock, CircuitPolicy(), Signals("host:1", alerts))
    for outcome in (REFUSED, REFUSED, Accepted(clock.now()), REFUSED):
        circuit.note(outcome, 0.0)
        clock.advance(timedelta(seconds=30))
        assert circuit.begin_probe()
        circuit.end_probe(outcome, 0.0)
    alerts.close()
    assert len(texts(sink)) == 2
    assert texts(sink)[0] == (
        "Daybreak: provider main refuses us (http_401); nothing is sent through it until that is put right. "
        "It said: the provider said no [host:1]"
    )
    assert sink.requests[0].headers["content-type"] == "application/json"


def test_closing_posts_what_is_kept(sink: Sink, start: Start) -> None:
    alerts = start()
    for number in range(5):
        alerts.tell(str(number))
    alerts.close()
    assert texts(sink) == list("01234")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Answer(status=500), "http_500"),
        (Answer(status=302, headers=("Location: /",)), "http_302"),
        (Answer(ending=Ending.RESET, accepts=False), "curl_"),
        (Answer(ending=Ending.HANG, accepts=False), "curl_28"),
    ],
)
def test_an_alert_that_fails_is_logged_and_not_repeated(
    sink: Sink, start: Start, events: list[Event], answer: Answer, cause: str
) -> None:
    sink.answer_by = lambda _: answer
    alerts = start(timeout_seconds=0.3)
    alerts.tell("something")
    alerts.close()
    assert [event.name for event in events] == ["alert_failed"]
    assert str(events[0].fields["cause"]).startswith(cause)
    assert sink.counts["requests"] == 1


def test_nothing_waits_for_a_server_that_hangs(sink: Sink, start: Start, events: list[Event]) -> None:
    sink.answer_by = lambda _: Answer(ending=Ending.HANG, accepts=False)
    alerts = start(timeout_seconds=0.3)
    alerts.tell("first")
    wait_until(lambda: sink.counts["requests"] == 1, "the first is under way")
    for number in range(MOST_KEPT + 3):
        alerts.tell(str(number))
    assert [event.name for event in events].count("alert_dropped") == 3
    alerts._texts.queue.clear()


def test_without_an_address_nothing_is_kept() -> None:
    alerts = Alerts(None)
    alerts.start()
    for _ in range(MOST_KEPT + 1):
        alerts.tell("something")
    alerts.close()
    assert alerts._texts.empty()
