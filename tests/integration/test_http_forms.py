"""Requests made from templates: URL, headers, forms, authentication, slots; rules for the answers."""

from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from threading import Event, Thread
from urllib.parse import parse_qsl

import pytest

from scheduler.standard_webhooks import verify
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.http_providers import NOW, Make, makes_providers
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from tests.fixtures.sink import Request, Sink, running_sink
from worker.channels.http_settings import AnswerRule, Verdict
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome
from worker.channels.slots import RequestSlots
from worker.channels.tokens import TokenUnavailable

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture
def make(sink: Sink) -> Iterator[Make]:
    with makes_providers(sink) as make:
        yield make


def test_url_headers_and_form_are_filled_in_for_each_message(make: Make, sink: Sink) -> None:
    provider = make(
        url=sink.url + "v1/{address}/messages?tag={tag}",
        headers={"X-To": "<{address}>", "X-Subject": "{subject}", "X-Html?": "{html}"},
        body='[["To", "{address}"], ["Body", "{text}"], ["Body", "again"], ["Html?", "{html}"]]',
        body_form="form",
    )
    messages = [outgoing(number, subject="Zoë", text="a&b=ü +") for number in range(20)]
    assert provider.deliver(messages, Signal()) == [Accepted(NOW)] * 20
    by_key = {request.key: request for request in sink.requests}
    for number, message in enumerate(messages):
        request = by_key[message.id]
        assert request.target == f"/v1/ann{number}%40example.org/messages?tag=7-{number}-20270228-0-email"
        assert request.headers["x-to"] == f"<{message.address}>"
        assert request.headers["x-subject"].encode("latin-1").decode() == "Zoë"
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert "x-html" not in request.headers
        pairs = parse_qsl(request.body.decode(), strict_parsing=True)
        assert pairs == [("To", message.address), ("Body", "a&b=ü +"), ("Body", "again")]


def test_each_message_can_have_a_url_of_its_own(make: Make, sink: Sink) -> None:
    messages = [outgoing(number, address=f"{sink.url}hooks/{number}") for number in range(8)]
    assert make(url="{address}").deliver(messages, Signal()) == [Accepted(NOW)] * 8
    assert sorted(request.target for request in sink.requests) == [f"/hooks/{number}" for number in range(8)]


def test_a_message_that_cannot_be_written_fails_alone(make: Make, sink: Sink) -> None:
    provider = make(
        url=sink.url + "{locale}/{address}", headers={"X-Subject": "{subject}", "X-Nick?": "{nick}"}
    )
    outcomes = provider.deliver(
        [
            outgoing(1),
            outgoing(2, subject="a\r\nX-Admin: 1"),
            outgoing(3, address=".."),
            outgoing(4, subject="\ud800"),
            outgoing(5, address="\ud800"),
            outgoing(6),
        ],
        Signal(),
    )
    assert [getattr(outcome, "category", "") for outcome in outcomes] == [
        "", "invalid_header", "invalid_url", "not_unicode", "not_unicode", ""
    ]  # fmt: skip
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Failed)} == {FailureKind.PERMANENT}
    assert len(sink.requests) == 2


def test_dots_in_a_constant_path_are_left_as_they_are(make: Make, sink: Sink) -> None:
    make(url=sink.url + "a/../b").deliver([outgoing()], Signal())
    assert sink.requests[0].target == "/a/../b"


def test_a_detail_names_no_host_where_the_url_is_the_users(make: Make) -> None:
    provider = make(url="{address}", total_timeout_seconds=2)
    [outcome] = provider.deliver([outgoing(1, address="http://secret-name.invalid/hook")], Signal())
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.RETRYABLE
    assert "secret" not in outcome.detail


def test_basic_authentication(make: Make, sink: Sink) -> None:
    make(basic_auth=("AC:1".replace(":", "x"), "s3cret:ü")).deliver(outgoing_many(2), Signal())
    assert len(sink.requests) == 2
    for request in sink.requests:
        scheme, _, encoded = request.headers["authorization"].partition(" ")
        assert scheme == "Basic"
        assert b64decode(encoded).decode() == "ACx1:s3cret:ü"


def test_a_token_is_asked_for_once_for_each_delivery(make: Make, sink: Sink) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append(f"token{len(asked)}")
        return asked[-1]

    provider = make(token=token)
    provider.deliver([], Signal())
    for _ in range(2):
        provider.deliver(outgoing_many(3), Signal())
    assert [request.headers["authorization"] for request in sink.requests] == ["Bearer token0"] * 3 + [
        "Bearer token1"
    ] * 3


def test_a_token_that_an_answer_repeats_is_in_no_detail(make: Make, sink: Sink) -> None:
    sink.answer_by = lambda request: Answer(status=400, body=request.head)
    provider = make(token=lambda: "canary-token", basic_auth=None)
    [outcome] = provider.deliver([outgoing()], Signal())
    assert isinstance(outcome, Failed)
    assert "Bearer" in outcome.detail
    assert "canary" not in outcome.detail


def test_without_a_token_nothing_is_sent_and_no_attempt_is_spent(make: Make, sink: Sink) -> None:
    def token() -> str:
        raise TokenUnavailable(FailureKind.PROVIDER, "token_refused", "no", timedelta(seconds=3))

    control = Signal(starts=2)
    outcomes = make(token=token).deliver(outgoing_many(3), control)
    failed = Failed(
        FailureKind.PROVIDER, "token_refused", "no", timedelta(seconds=3), NOW, burns_attempt=False
    )
    assert outcomes == [failed, failed, NotAttempted()]
    assert control.noted == [failed, failed]
    assert sink.summary()["connections"] == 0


def test_requests_can_be_signed(make: Make, sink: Sink) -> None:
    make(signing_secrets=(SECRET, SECRET.replace("M", "N"))).deliver(outgoing_many(3), Signal())
    for request in sink.requests:
        verify([SECRET], request.headers, request.body, NOW)
        assert request.headers["webhook-id"] == request.key
        assert request.headers["webhook-timestamp"] == str(int(NOW.timestamp()))
        assert len(request.headers["webhook-signature"].split(" ")) == 2


def test_the_key_can_be_left_out(make: Make, sink: Sink) -> None:
    make(sends_key=False).deliver([outgoing()], Signal())
    assert "idempotency-key" not in sink.requests[0].headers


def test_rules_decide_what_an_answer_means(make: Make, sink: Sink) -> None:
    bodies = {
        0: b'{"ok":true}',
        1: b'{"ok":false,"error":"blocked"}',
        2: b'{"ok":false,"error":"busy"}',
        3: b"what",
    }
    sink.answer_by = lambda request: Answer(
        body=bodies[int(request.key.split(".")[1])], headers=("X-Wait: 7",)
    )
    provider = make(
        rules=(
            AnswerRule(Verdict.ACCEPTED, pointer="/ok", values=frozenset({"true"})),
            AnswerRule(
                Verdict.PERMANENT, pointer="/error", values=frozenset({"blocked"}), category="blocked"
            ),
            AnswerRule(Verdict.RETRYABLE, pointer="/ok", wait_header="x-wait"),
        ),
        accepted_statuses=frozenset(),
    )
    accepted, blocked, busy, unclear = provider.deliver(outgoing_many(4), Signal())
    assert accepted == Accepted(NOW)
    assert blocked == Failed(
        FailureKind.PERMANENT, "blocked", 'HTTP 200: {"ok":false,"error":"blocked"}', None, NOW
    )
    assert isinstance(busy, Failed)
    assert (busy.kind, busy.category, busy.retry_after) == (
        FailureKind.RETRYABLE,
        "http_200",
        timedelta(seconds=7),
    )
    assert isinstance(unclear, Failed)
    assert unclear.kind is FailureKind.PERMANENT


def test_an_acceptance_that_must_be_read_and_never_came_whole_is_unknown(make: Make) -> None:
    rule = AnswerRule(Verdict.RETRYABLE, pointer="/ok", values=frozenset({"false"}))
    provider = make("?ending=trickle", total_timeout_seconds=0.2, rules=(rule,))
    [outcome] = provider.deliver([outgoing()], Signal())
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.category) == (FailureKind.UNKNOWN, "incomplete_answer")


def test_outcomes_of_endpoints_of_their_own_are_not_told(make: Make) -> None:
    control = Signal()
    assert make(notes_outcomes=False).deliver([outgoing()], control) == [Accepted(NOW)]
    make("?ending=reset", notes_outcomes=False).deliver([outgoing()], control)
    assert control.noted == []


class CountingSlots(RequestSlots):
    """Slots that know how many were taken at once."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.taken = self.most_taken = 0

    def take(self) -> bool:
        """Count it; only the threads of one test take, so no lock is needed for a lower bound."""
        if not super().take():
            return False
        self.taken += 1
        self.most_taken = max(self.most_taken, self.taken)
        return True

    def give_back(self) -> None:
        """Count it."""
        self.taken -= 1
        super().give_back()


def test_threads_share_the_slots_of_their_process(make: Make, sink: Sink) -> None:
    slots = CountingSlots(3)
    providers = [make("?delay=0.005", slots) for _ in range(2)]
    outcomes: list[list[Outcome]] = []
    threads = [
        Thread(
            target=lambda provider=provider: outcomes.append(provider.deliver(outgoing_many(30), Signal()))
        )
        for provider in providers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[Accepted(NOW)] * 30] * 2
    assert slots.most_taken == 3
    assert slots.taken == 0


def test_a_slot_is_waited_for_and_the_stop_signal_is_heard_meanwhile(make: Make, sink: Sink) -> None:
    slots = RequestSlots(1)
    assert slots.take()
    provider = make(slots=slots)
    assert provider.deliver(outgoing_many(3), Signal(waits=5)) == [NotAttempted()] * 3
    assert sink.summary()["connections"] == 0
    slots.give_back()
    assert provider.deliver(outgoing_many(3), Signal()) == [Accepted(NOW)] * 3


@pytest.mark.parametrize("ending", Ending)
def test_slots_are_given_back_however_a_request_ends(make: Make, ending: Ending) -> None:
    slots = CountingSlots(2)
    make(f"?ending={ending}", slots, total_timeout_seconds=0.1).deliver(outgoing_many(3), Signal())
    assert slots.most_taken == 2
    assert slots.taken == 0


def test_slots_are_given_back_when_what_is_in_flight_is_abandoned(make: Make, sink: Sink) -> None:
    slots = CountingSlots(2)
    stop = Signal()

    def hang(_: Request) -> Answer:
        stop.waits = 0
        return Answer(ending=Ending.HANG)

    sink.answer_by = hang
    make(slots=slots).deliver(outgoing_many(3), stop)
    assert (slots.most_taken, slots.taken) == (2, 0)


def test_messages_that_cannot_be_written_take_no_slot(make: Make) -> None:
    slots = CountingSlots(1)
    outcomes = make(slots=slots).deliver([outgoing(1, id="no key"), outgoing(2)], Signal())
    assert [type(outcome) for outcome in outcomes] == [Failed, Accepted]
    assert slots.taken == 0


def test_a_slow_host_does_not_hold_up_the_others(make: Make, sink: Sink) -> None:
    others_are_done = Event()

    def fast(_: Request) -> Answer:
        if len(sink.requests) == 10:
            others_are_done.set()
        return Answer()

    def slow(_: Request) -> Answer:
        return Answer(status=500 if others_are_done.wait(10) else 400)

    with running_sink() as slow_sink:
        sink.answer_by, slow_sink.answer_by = fast, slow
        messages = [outgoing(number, address=slow_sink.url) for number in range(10)]
        messages += [outgoing(number, address=sink.url) for number in range(10, 20)]
        outcomes = make(url="{address}", host_connections=2).deliver(messages, Signal())
        assert [getattr(outcome, "category", "") for outcome in outcomes] == ["http_500"] * 10 + [""] * 10
        assert slow_sink.summary()["connections"] <= 2


def test_what_waits_for_its_host_is_handed_back_when_stop_is_asked(make: Make, sink: Sink) -> None:
    stop = Signal()

    def answer(_: Request) -> Answer:
        stop.starts = 0
        return Answer(delay_seconds=0.02)

    sink.answer_by = answer
    messages = [outgoing(number, address=sink.url) for number in range(6)]
    outcomes = make(url="{address}", host_connections=2).deliver(messages, stop)
    assert outcomes == [Accepted(NOW)] * 2 + [NotAttempted()] * 4
