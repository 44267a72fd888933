"""The HTTP provider against a real server on loopback, well-behaved and not."""

import gc
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from threading import Thread

import pytest

from scheduler.clock import SettableClock
from scheduler.errors import ConfigurationError
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.http_providers import NOW, Make, makes_providers
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from tests.fixtures.sink import Request, Sink, running_sink
from worker.channels.http import HttpProvider
from worker.channels.http_kept import KeptConnections
from worker.channels.http_settings import MOST_CONCURRENCY, HttpSettings
from worker.channels.http_transfers import Transfers
from worker.channels.http_transport import LONGEST_ANSWER, Transport
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome, OutgoingMessage

UNKNOWN = FailureKind.UNKNOWN


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture(params=[KeptConnections, Transfers])
def transport(request: pytest.FixtureRequest) -> type[Transport]:
    """How requests are carried; every promise is one of both."""
    chosen: type[Transport] = request.param
    return chosen


@pytest.fixture
def make(sink: Sink, transport: type[Transport], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    if transport is Transfers:
        monkeypatch.setattr("worker.channels.http.is_plain_url", lambda _: False)
    with makes_providers(sink) as make:
        yield make


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """A server that takes one connection, reads a request, sends `answer` and waits to be left."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(answer)
            while connection.recv(65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


def failure(provider: HttpProvider, number: int = 1) -> Failed:
    """The outcome of one message that must fail."""
    [outcome] = provider.deliver([outgoing(number)], Signal())
    assert isinstance(outcome, Failed)
    return outcome


def test_each_message_is_one_request_with_its_own_key_and_body(make: Make, sink: Sink) -> None:
    messages = outgoing_many(50)
    assert make().deliver(messages, Signal()) == [Accepted(NOW)] * 50
    assert {request.key: json.loads(request.body) for request in sink.requests} == {
        message.id: {
            "id": message.id,
            "channel": "email",
            "to": message.address,
            "subject": message.subject,
            "text": message.text,
        }
        for message in messages
    }
    assert len(sink.requests) == 50


def test_the_request_carries_the_headers_of_the_settings(make: Make, sink: Sink) -> None:
    make(headers={"Authorization": "Bearer s3cret"}).deliver([outgoing()], Signal())
    [request] = sink.requests
    assert request.head.startswith(b"POST / HTTP/1.1\r\n")
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == outgoing().id


def test_connections_and_handles_are_reused_from_batch_to_batch(make: Make, sink: Sink) -> None:
    provider = make()
    for _ in range(5):
        provider.deliver(outgoing_many(40), Signal())
    assert sink.summary()["connections"] <= 4
    assert sink.summary()["requests"] == 200


def test_outcomes_stand_in_the_order_of_the_messages(make: Make, sink: Sink) -> None:
    def later_for_the_first(request: Request) -> Answer:
        number = int(request.key.split(".")[1])
        return Answer(status=200 if number % 3 else 400, delay_seconds=(40 - number) / 1000)

    sink.answer_by = later_for_the_first
    outcomes = make(concurrency=16).deliver(outgoing_many(40), Signal())
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [
        number % 3 != 0 for number in range(40)
    ]


def test_unicode_arrives_as_it_is(make: Make, sink: Sink) -> None:
    text = 'Zoë 陈 🎂 "quoted" \\ {address} \u2028'
    make().deliver([outgoing(text=text)], Signal())
    assert json.loads(sink.requests[0].body)["text"] == text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, FailureKind.RETRYABLE),
        (503, FailureKind.RETRYABLE),
        (401, FailureKind.PROVIDER),
        (409, FailureKind.PERMANENT),
        (422, FailureKind.PERMANENT),
    ],
)
def test_a_refusal_by_status(make: Make, status: int, kind: FailureKind) -> None:
    failed = failure(make(f"?status={status}"))
    assert failed == Failed(kind, f"http_{status}", f'HTTP {status}: {{"status":"accepted"}}', None, NOW)


def test_a_status_can_be_declared_to_mean_accepted(make: Make) -> None:
    provider = make("?status=409", accepted_statuses=frozenset({200, 409}))
    assert provider.deliver([outgoing()], Signal()) == [Accepted(NOW)]


def test_the_wait_asked_for_is_relative_to_the_clock_given(make: Make) -> None:
    assert failure(make("?status=429&retry_after=7")).retry_after == timedelta(seconds=7)
    date = "Sun,%2028%20Feb%202027%2009:02:00%20GMT"
    assert failure(make(f"?status=503&retry_after={date}")).retry_after == timedelta(minutes=2)
    for nonsense in ("-5", "soon", "99999999999"):
        assert failure(make(f"?status=503&retry_after={nonsense}")).retry_after is None


def test_a_redirect_is_not_followed(make: Make, sink: Sink) -> None:
    failed = failure(make(f"?status=307&location={sink.url}elsewhere"))
    assert (failed.kind, failed.category) == (FailureKind.PERMANENT, "http_307")
    assert [request.target.partition("?")[0] for request in sink.requests] == ["/"]


@pytest.mark.parametrize("ending", [Ending.HANG, Ending.RESET])
def test_without_an_answer_the_outcome_is_unknown(make: Make, sink: Sink, ending: Ending) -> None:
    failed = failure(make(f"?ending={ending}&accepts=1", total_timeout_seconds=0.2))
    assert (failed.kind, failed.category) == (
        UNKNOWN,
        "timeout" if ending is Ending.HANG else "connection_lost",
    )
    assert sink.ledger.accepted == {outgoing().id: 1}


def test_a_connection_that_dies_when_it_is_used_again_is_unknown_and_not_repeated(
    make: Make, sink: Sink
) -> None:
    provider = make(concurrency=1)
    provider.deliver([outgoing(1)], Signal())
    sink.answer_by = lambda _: Answer(ending=Ending.RESET, accepts=True)
    failed = failure(provider, 2)
    assert (failed.kind, failed.category) == (UNKNOWN, "connection_lost")
    assert [request.connection for request in sink.requests] == [1, 1]
    sink.answer_by = None
    assert provider.deliver([outgoing(3)], Signal()) == [Accepted(NOW)]


def test_connections_closed_a_moment_ago_are_replaced(
    make: Make, sink: Sink, transport: type[Transport]
) -> None:
    provider = make()
    provider.deliver(outgoing_many(20), Signal())
    open_connections = sink.summary()["connections"]
    sink.drop_connections()
    outcomes = provider.deliver(outgoing_many(20), Signal())
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if transport is Transfers:
        # libcurl does not look at a connection that it used a moment ago.
        assert {failure.kind for failure in failed} == {UNKNOWN}
        assert len(failed) <= open_connections
    else:
        assert failed == []
    assert outcomes.count(Accepted(NOW)) == sink.summary()["requests"] - 20 == 20 - len(failed)
    assert provider.deliver(outgoing_many(20), Signal()) == [Accepted(NOW)] * 20


def test_a_connection_closed_after_each_answer_is_opened_again(make: Make, sink: Sink) -> None:
    assert make("?ending=close").deliver(outgoing_many(20), Signal()) == [Accepted(NOW)] * 20
    assert sink.summary()["connections"] == 20


def test_an_answer_that_trickles_in_ends_within_the_total_time(make: Make) -> None:
    """The status line decides: a late body takes nothing back, and promises nothing."""
    assert make("?ending=trickle", total_timeout_seconds=0.2).deliver([outgoing()], Signal()) == [
        Accepted(NOW)
    ]
    failed = failure(make("?status=500&ending=trickle", total_timeout_seconds=0.2))
    assert (failed.kind, failed.category) == (FailureKind.RETRYABLE, "http_500")


def test_of_a_huge_answer_only_a_short_excerpt_is_kept(make: Make) -> None:
    size = LONGEST_ANSWER * 40
    assert make(f"?body_bytes={size}").deliver(outgoing_many(6), Signal()) == [Accepted(NOW)] * 6
    failed = failure(make(f"?status=400&body_bytes={size}"))
    assert (failed.kind, failed.category) == (FailureKind.PERMANENT, "http_400")
    assert len(failed.detail) < 250


def test_a_huge_answer_of_unannounced_length_is_cut_off(make: Make) -> None:
    chunk = b"%x\r\n%b\r\n" % (LONGEST_ANSWER, b"x" * LONGEST_ANSWER)
    with raw_server(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 40) as url:
        failed = failure(make(url=url))
    assert (failed.kind, failed.category) == (FailureKind.PERMANENT, "http_400")


def test_an_answer_that_is_no_http_is_unknown(make: Make) -> None:
    with raw_server(b"220 smtp.example.org ESMTP\r\n") as url:
        assert failure(make(url=url)).kind is UNKNOWN


def test_an_interim_answer_decides_nothing(make: Make) -> None:
    with raw_server(b"HTTP/1.1 103 Early Hints\r\n\r\n") as url:
        assert failure(make(url=url, total_timeout_seconds=0.2)).kind is UNKNOWN


def test_details_hold_nothing_private_that_the_provider_repeats(make: Make, sink: Sink) -> None:
    sink.answer_by = lambda request: Answer(status=400, body=request.head + request.body)
    detail = failure(make(headers={"X-Api-Key": "canary-token"})).detail
    message = outgoing()
    assert detail.startswith("HTTP 400: ")
    for private in ("canary", message.address, message.id, message.text, "Ann"):
        assert private not in detail


def test_a_refused_connection_is_retryable(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failed = failure(make(url=f"http://127.0.0.1:{port}/"))
    assert (failed.kind, failed.category) == (FailureKind.RETRYABLE, "connect")


def test_a_connection_that_is_never_made_times_out_as_retryable(make: Make) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # The kernel completes these for the full queue; whoever comes next waits.
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        failed = failure(make(url=url, connect_timeout_seconds=0.2))
    assert (failed.kind, failed.category) == (FailureKind.RETRYABLE, "connect_timeout")


def test_a_failed_tls_handshake_is_retryable(make: Make) -> None:
    with raw_server(b"220 this is no TLS\r\n") as url:
        failed = failure(make(url=url.replace("http:", "https:")))
    assert (failed.kind, failed.category) == (FailureKind.RETRYABLE, "tls")


def test_a_name_that_does_not_resolve_is_retryable(make: Make) -> None:
    failed = failure(make(url="http://name.invalid/", total_timeout_seconds=5))
    assert failed.kind is FailureKind.RETRYABLE


@pytest.mark.parametrize("key", ["1\r\nX-Admin: 1", "1\nx", "", " ", "ключ", "a b", "x" * 256, "a\x00b"])
def test_a_key_that_could_break_out_of_its_header_is_never_sent(make: Make, sink: Sink, key: str) -> None:
    outcomes = make().deliver([outgoing(1), outgoing(2, id=key), outgoing(3)], Signal())
    assert [type(outcome) for outcome in outcomes] == [Accepted, Failed, Accepted]
    assert len(sink.requests) == 2


def test_what_cannot_be_written_fails_alone(make: Make, sink: Sink) -> None:
    provider = make(body='{"text": "{text}", "name": "{first_name}"}')
    outcomes = provider.deliver([outgoing(1), outgoing(2, text="\ud800"), outgoing(3)], Signal())
    assert [type(outcome) for outcome in outcomes] == [Accepted, Failed, Accepted]
    failed = failure(make(body='{"name": "{nickname}"}'))
    assert (failed.kind, failed.category) == (FailureKind.PERMANENT, "missing_field")
    assert "nickname" in failed.detail


def test_once_stop_is_asked_nothing_is_started_and_answers_are_waited_for(make: Make, sink: Sink) -> None:
    # Asked once for all that are started together.
    outcomes = make("?delay=0.05", concurrency=3).deliver(outgoing_many(10), Signal(starts=1))
    assert outcomes == [Accepted(NOW)] * 3 + [NotAttempted()] * 7
    assert len(sink.requests) == 3


def test_whether_more_may_be_started_is_asked_anew_when_time_has_passed(make: Make, sink: Sink) -> None:
    """As after a pause of the whole process, while which its lease may have ended."""

    class Restless(SettableClock):
        def monotonic(self) -> float:
            self.advance(timedelta(milliseconds=3))
            return super().monotonic()

    provider = HttpProvider(HttpSettings("sink", sink.url, concurrency=20), Restless(NOW))
    outcomes = provider.deliver(outgoing_many(20), Signal(starts=2))
    provider.close()
    assert 0 < len(sink.requests) == 20 - outcomes.count(NotAttempted()) <= 4


def test_what_is_abandoned_in_flight_is_unknown(make: Make, sink: Sink) -> None:
    provider = make()
    stop = Signal(starts=4)

    def hang(_: Request) -> Answer:
        stop.waits = 0
        return Answer(ending=Ending.HANG)

    sink.answer_by = hang
    outcomes = provider.deliver(outgoing_many(6), stop)
    sent = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert {(failed.kind, failed.category) for failed in sent} == {(UNKNOWN, "abandoned")}
    assert outcomes[4:] == [NotAttempted()] * 2
    sink.answer_by = None
    assert provider.deliver(outgoing_many(6), Signal()) == [Accepted(NOW)] * 6


def test_what_is_abandoned_before_it_was_sent_was_not_attempted(make: Make, sink: Sink) -> None:
    assert make().deliver(outgoing_many(6), Signal(waits=0)) == [NotAttempted()] * 6
    assert sink.requests == []


def test_each_answer_is_told_as_soon_as_it_is_there(make: Make, sink: Sink) -> None:
    control = Signal()
    noted: list[int] = []

    def answer(_: Request) -> Answer:
        noted.append(len(control.noted))
        return Answer()

    sink.answer_by = answer
    outcomes = make(concurrency=1).deliver(outgoing_many(5), control)
    assert noted == [0, 1, 2, 3, 4]
    assert control.noted == outcomes


def test_a_request_is_told_with_the_instant_it_began(make: Make, sink: Sink) -> None:
    class Instants(Signal):
        began_at: list[float]

        def note(self, outcome: Outcome, began_at: float) -> None:
            self.began_at.append(began_at)

    clock = SettableClock(NOW)

    def answer(_: Request) -> Answer:
        clock.advance(timedelta(seconds=2))
        return Answer()

    sink.answer_by = answer
    control = Instants()
    control.began_at = []
    provider = HttpProvider(HttpSettings("sink", sink.url, concurrency=1), clock)
    provider.deliver(outgoing_many(3), control)
    provider.close()
    assert control.began_at == [0.0, 2.0, 4.0]


def test_what_shows_nothing_of_the_provider_is_not_told(make: Make) -> None:
    control = Signal()
    unsendable = [outgoing(1, id="no key"), outgoing(2, text="\ud800")]
    assert len(make().deliver(unsendable, control)) == 2
    abandoned = Signal(waits=1)
    make("?ending=hang").deliver([outgoing(3)], abandoned)
    assert control.noted == abandoned.noted == []


def test_a_batch_that_takes_too_long_hands_back_the_rest(make: Make, sink: Sink) -> None:
    clock = SettableClock(NOW)

    def answer(_: Request) -> Answer:
        clock.advance(timedelta(seconds=61))
        return Answer()

    sink.answer_by = answer
    provider = HttpProvider(HttpSettings("sink", sink.url, concurrency=1, batch_timeout_seconds=60), clock)
    outcomes = provider.deliver(outgoing_many(3), Signal())
    provider.close()
    assert [type(outcome) for outcome in outcomes] == [Accepted, NotAttempted, NotAttempted]


def test_a_signal_while_waiting_disturbs_nothing(make: Make) -> None:
    received: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: received.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        assert make("?delay=0.2").deliver([outgoing()], Signal()) == [Accepted(NOW)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert received


def test_an_empty_batch_asks_nothing(make: Make, sink: Sink) -> None:
    assert make().deliver([], Signal()) == []
    assert sink.summary()["connections"] == 0


def test_the_proxy_of_the_environment_is_not_used(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert make().deliver([outgoing()], Signal()) == [Accepted(NOW)]


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://example.org/"},
        {"url": "http://example.org/\r\nX: 1"},
        {"concurrency": 0},
        {"concurrency": MOST_CONCURRENCY + 1},
        {"total_timeout_seconds": 0.0},
        {"headers": {"X-A": "b\r\nX-B: c"}},
        {"headers": {"X A": "b"}},
        {"headers": {"X-A": ""}},
        {"headers": {"idempotency-key": "1"}},
        {"headers": {"Content-Length": "1"}},
        {"body": '{"to": "{address"}'},
    ],
)
def test_settings_that_cannot_work_are_refused(make: Make, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        make(**settings)


def test_close_may_be_called_twice(make: Make) -> None:
    provider = make()
    provider.deliver([outgoing()], Signal())
    provider.close()
    provider.close()


def test_a_delivery_leaves_no_message_to_the_garbage_collector(make: Make) -> None:
    provider = make()
    gc.collect()
    of_other_tests = _messages()
    gc.disable()
    try:
        provider.deliver([outgoing(number) for number in range(3)], Signal())
        assert [each for each in _messages() if all(each is not other for other in of_other_tests)] == []
    finally:
        gc.enable()


def _messages() -> list[OutgoingMessage]:
    return [each for each in gc.get_objects() if type(each) is OutgoingMessage]
