"""Many messages in one HTTP request: what is sent, and what becomes of each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

import orjson
import pytest

from scheduler.errors import ConfigurationError
from tests.fixtures.answers import Answer, Ending
from tests.fixtures.http_providers import NOW, Make, makes_providers
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from tests.fixtures.sink import Request, Sink, running_sink
from worker.channels.http import HttpProvider
from worker.channels.http_settings import AnswerRule, BatchForm, Verdict
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, OutgoingMessage

ELEMENT = '{"id": "{id}", "to": "{address}", "text": "{text}", "html?": "{html}"}'
BODY = '{"messages": "{messages}", "from": "hello@example.org"}'
FORM = BatchForm(ELEMENT, most=100)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink(elements="messages") as sink:
        yield sink


@pytest.fixture
def make(sink: Sink) -> Iterator[Make]:
    with makes_providers(sink) as providers:

        def make(query: str = "", **settings: object) -> HttpProvider:
            return providers(query, **{"body": BODY, "batch": FORM, **settings})

        yield make


def ids(request: Request) -> list[str]:
    """The messages of a request."""
    return [element["id"] for element in orjson.loads(request.body)["messages"]]


def key_of(messages: Sequence[OutgoingMessage]) -> str:
    return sha256("\n".join(sorted(message.id for message in messages)).encode()).hexdigest()


def test_messages_go_together_each_with_its_id(make: Make, sink: Sink) -> None:
    messages = outgoing_many(250)
    messages[3] = replace(messages[3], html='<p>"ü"</p>')
    assert make().deliver(messages, Signal()) == [Accepted(NOW)] * 250
    assert sorted(len(ids(request)) for request in sink.requests) == [50, 100, 100]
    assert sink.ledger.accepted == {message.id: 1 for message in messages}
    first = next(request for request in sink.requests if messages[0].id in ids(request))
    assert first.key == key_of(messages[:100])
    sent = json.loads(first.body)
    assert sent["from"] == "hello@example.org"
    assert sent["messages"][3] == {
        "id": messages[3].id,
        "to": messages[3].address,
        "text": messages[3].text,
        "html": '<p>"ü"</p>',
    }
    assert "html" not in sent["messages"][4]


def test_elements_of_fields_alone_are_written_together_as_they_are_one_by_one(make: Make, sink: Sink) -> None:
    """Whatever is not as usual has its messages looked at one by one, from there on."""
    form = BatchForm('{"id": "{id}", "to": "{address}", "say": "{text}"}', most=4)
    messages = outgoing_many(12)
    messages[1] = replace(messages[1], text='"\n\\ü')
    messages[6] = replace(messages[6], id="7.6\nX: y")
    messages[9] = replace(messages[9], text="\ud800")
    outcomes = make(batch=form).deliver(messages, Signal())
    assert [place for place, outcome in enumerate(outcomes) if outcome != Accepted(NOW)] == [6, 9]
    sent = [element for request in sink.requests for element in orjson.loads(request.body)["messages"]]
    assert sorted(len(ids(request)) for request in sink.requests) == [2, 4, 4]
    assert sorted(sent, key=lambda element: str(element["id"])) == sorted(
        (
            {"id": each.id, "to": each.address, "say": each.text}
            for each in messages
            if each.text != "\ud800" and "X" not in each.id
        ),
        key=lambda element: element["id"],
    )
    first = next(request for request in sink.requests if messages[0].id in ids(request))
    assert first.key == key_of(messages[:4])
    sink.requests.clear()
    few = make(batch=replace(form, most=100, most_bytes=1_000))
    assert few.deliver(outgoing_many(40), Signal()) == [Accepted(NOW)] * 40
    assert len(sink.requests) > 1
    assert all(len(request.body) < 1_100 for request in sink.requests)


def test_the_key_depends_on_the_messages_alone(make: Make, sink: Sink) -> None:
    messages = outgoing_many(5)
    provider = make()
    provider.deliver(messages, Signal())
    provider.deliver(messages[::-1], Signal())
    provider.deliver(messages[:4], Signal())
    keys = [request.key for request in sink.requests]
    assert keys == [key_of(messages), key_of(messages), key_of(messages[:4])]
    assert sink.summary()["repeats"] == 9


def test_what_makes_a_request_too_long_goes_in_the_next(make: Make, sink: Sink) -> None:
    messages = [outgoing(number, text="x" * 400) for number in range(9)] + [outgoing(9, text="x" * 5_000)]
    provider = make(batch=BatchForm(ELEMENT, most_bytes=1_100))
    assert provider.deliver(messages, Signal()) == [Accepted(NOW)] * 10
    assert sorted(len(ids(request)) for request in sink.requests) == [1, 1, 2, 2, 2, 2]


def test_a_long_request_is_sent_at_once(make: Make, sink: Sink) -> None:
    messages = [outgoing(number, text="x" * 20_000) for number in range(100)]
    assert make().deliver(messages, Signal()) == [Accepted(NOW)] * 100
    assert len(sink.requests) == 1
    assert "expect" not in sink.requests[0].headers


def test_messages_that_differ_around_their_elements_go_apart(make: Make, sink: Sink) -> None:
    messages = [
        replace(outgoing(number), locale=("de", "en")[number % 2], subject=f"s{number % 3}")
        for number in range(12)
    ]
    body = '{"subject": "{subject}", "messages": "{messages}"}'
    provider = make(url=sink.url + "{locale}/send", headers={"X-L": "{locale}"}, body=body)
    assert provider.deliver(messages, Signal()) == [Accepted(NOW)] * 12
    assert len(sink.requests) == 6
    for request in sink.requests:
        of_request = [message for message in messages if message.id in ids(request)]
        assert {message.subject for message in of_request} == {json.loads(request.body)["subject"]}
        assert {message.locale for message in of_request} == {request.headers["x-l"]}
        assert request.target == f"/{of_request[0].locale}/send"


def test_a_message_that_cannot_be_written_fails_alone(make: Make, sink: Sink) -> None:
    messages = [outgoing(1), outgoing(2, text="\ud800"), outgoing(3, id="no key"), outgoing(4)]
    assert [type(outcome) for outcome in make().deliver(messages, Signal())] == [
        Accepted,
        Failed,
        Failed,
        Accepted,
    ]
    assert len(sink.requests) == 1


def test_a_text_cannot_break_out_of_its_element(make: Make, sink: Sink) -> None:
    nasty = '"}],"x":"\ue000daybreak messages\ue000","y":["{messages}"'
    make().deliver([outgoing(1, text=nasty), outgoing(2)], Signal())
    assert [element["text"] for element in json.loads(sink.requests[0].body)["messages"]] == [
        nasty,
        outgoing(2).text,
    ]


@pytest.mark.parametrize(
    ("query", "kind", "category"),
    [
        ("?status=503", FailureKind.RETRYABLE, "http_503"),
        ("?status=401", FailureKind.PROVIDER, "http_401"),
        ("?ending=reset&accepts=1", FailureKind.UNKNOWN, "connection_lost"),
        ("?ending=hang&accepts=1", FailureKind.UNKNOWN, "timeout"),
    ],
)
def test_the_answer_as_a_whole_holds_for_all_and_is_told_once(
    make: Make, sink: Sink, query: str, kind: FailureKind, category: str
) -> None:
    control = Signal()
    outcomes = make(query, total_timeout_seconds=0.3).deliver(outgoing_many(50), control)
    assert {(outcome.kind, outcome.category) for outcome in outcomes if isinstance(outcome, Failed)} == {
        (kind, category)
    }
    assert len(outcomes) == 50
    assert control.noted == outcomes[:1]
    assert len(sink.requests) == 1


def refuse(*bad: str) -> object:
    """An answer that refuses requests with one of the addresses, and takes the others."""

    def answer(request: Request) -> Answer:
        to = {element["to"] for element in orjson.loads(request.body)["messages"]}
        return Answer(status=400, body=b'{"error":"bad address"}') if to & set(bad) else Answer()

    return answer


def test_a_refusal_is_narrowed_down_to_the_messages_at_fault(make: Make, sink: Sink) -> None:
    messages = outgoing_many(100)
    sink.answer_by = refuse(messages[17].address, messages[80].address)  # type: ignore[assignment]
    control = Signal()
    outcomes = make().deliver(messages, control)
    failed = [position for position, outcome in enumerate(outcomes) if outcome != Accepted(NOW)]
    assert failed == [17, 80]
    assert outcomes[17] == Failed(
        FailureKind.PERMANENT, "http_400", 'HTTP 400: {"error":"bad address"}', None, NOW
    )
    assert sink.ledger.accepted == {m.id: 1 for n, m in enumerate(messages) if n not in failed}
    assert len(sink.requests) <= 1 + 2 * 2 * 7
    # What was only narrowed down is no outcome.
    assert sum(isinstance(outcome, Failed) for outcome in control.noted) == 2


def test_narrowing_ends_where_all_are_at_fault(make: Make, sink: Sink) -> None:
    outcomes = make("?status=422").deliver(outgoing_many(33), Signal())
    assert {type(outcome) for outcome in outcomes} == {Failed}
    assert len(sink.requests) == 2 * 33 - 1


def test_narrowing_stops_when_stop_is_asked(make: Make, sink: Sink) -> None:
    stop = Signal()

    def answer(_: Request) -> Answer:
        if len(sink.requests) == 3:
            stop.starts = 0
        return Answer(status=400)

    sink.answer_by = answer
    outcomes = make(concurrency=1).deliver(outgoing_many(16), stop)
    assert outcomes == [NotAttempted()] * 16
    assert len(sink.requests) == 3


def test_a_provider_that_takes_a_part_is_not_asked_again(make: Make, sink: Sink) -> None:
    outcomes = make("?status=400", batch=replace(FORM, narrows=False)).deliver(outgoing_many(10), Signal())
    assert {type(outcome) for outcome in outcomes} == {Failed}
    assert len(sink.requests) == 1


RESULTS = replace(
    FORM,
    results="/results",
    result_id="/id",
    result_rules=(
        AnswerRule(Verdict.ACCEPTED, pointer="/state", values=frozenset({"queued"})),
        AnswerRule(Verdict.PERMANENT, pointer="/error", values=frozenset({"bad"}), category="bad_address"),
        AnswerRule(Verdict.PROVIDER, pointer="/error", values=frozenset({"closed"}), category="closed"),
        AnswerRule(Verdict.RETRYABLE, pointer="/error", category="busy"),
    ),
)


def with_results(answers: dict[int, dict[str, str]]) -> object:
    """An answer with a result for each message: queued, unless `answers` says otherwise by the user's number."""

    def answer(request: Request) -> Answer:
        results = [
            {"id": one, **answers.get(int(one.split(".")[1]), {"state": "queued"})} for one in ids(request)
        ]
        but = frozenset(result["id"] for result in results if "state" not in result)
        return Answer(body=orjson.dumps({"results": results[::-1]}), but=but)

    return answer


def test_results_decide_for_each_message(make: Make, sink: Sink) -> None:
    sink.answer_by = with_results({2: {"error": "bad"}, 5: {"error": "ann5@example.org is busy"}, 7: {}})  # type: ignore[assignment]
    control = Signal()
    messages = outgoing_many(10)
    outcomes = make(batch=RESULTS).deliver(messages, control)
    assert [getattr(outcome, "category", "") for outcome in outcomes] == [
        "", "", "bad_address", "", "", "busy", "", "no_result", "", ""
    ]  # fmt: skip
    unknown = outcomes[7]
    assert isinstance(unknown, Failed)
    assert unknown.kind is FailureKind.UNKNOWN
    busy = outcomes[5]
    assert isinstance(busy, Failed)
    assert "[…] is busy" in busy.detail
    assert sink.ledger.accepted.keys() == {
        message.id for message, outcome in zip(messages, outcomes, strict=True) if outcome == Accepted(NOW)
    }
    assert control.noted == [Accepted(NOW)]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({0: {"error": "closed"}}, FailureKind.PROVIDER),
        ({0: {"error": "bad"}, 1: {"error": "x"}, 2: {}}, FailureKind.PERMANENT),
        ({0: {}, 1: {"error": "x"}, 2: {}}, FailureKind.RETRYABLE),
    ],
)
def test_the_circuit_hears_what_says_most_of_the_provider(
    make: Make, sink: Sink, answers: dict[int, dict[str, str]], told: FailureKind
) -> None:
    sink.answer_by = with_results(answers)  # type: ignore[assignment]
    control = Signal()
    make(batch=RESULTS).deliver(outgoing_many(3), control)
    assert [outcome.kind for outcome in control.noted if isinstance(outcome, Failed)] == [told]


@pytest.mark.parametrize(
    "answer", [Answer(body=b"ok"), Answer(body=b'{"results":[]}'), Answer(ending=Ending.TRICKLE)]
)
def test_without_results_the_outcome_is_unknown(make: Make, sink: Sink, answer: Answer) -> None:
    sink.answer_by = lambda _: answer
    outcomes = make(batch=RESULTS, total_timeout_seconds=0.3).deliver(outgoing_many(3), Signal())
    assert {outcome.kind for outcome in outcomes if isinstance(outcome, Failed)} == {FailureKind.UNKNOWN}
    assert len(outcomes) == 3


def test_a_long_array_of_results_is_read(make: Make, sink: Sink) -> None:
    sink.answer_by = with_results({n: {"state": "queued", "more": "x" * 500} for n in range(1_000)})  # type: ignore[assignment]
    provider = make(batch=replace(RESULTS, most=1_000))
    assert provider.deliver(outgoing_many(1_000), Signal()) == [Accepted(NOW)] * 1_000


def test_requests_with_many_messages_are_in_flight_at_once(make: Make, sink: Sink) -> None:
    stop = Signal()

    def hang(_: Request) -> Answer:
        if len(sink.requests) == 4:
            stop.waits = 0
        return Answer(ending=Ending.HANG)

    sink.answer_by = hang
    outcomes = make(batch=replace(FORM, most=10)).deliver(outgoing_many(60), stop)
    assert len(sink.requests) == 4
    assert [getattr(outcome, "category", "") for outcome in outcomes] == ["abandoned"] * 40 + [""] * 20


@pytest.mark.parametrize(
    "settings",
    [
        {"body": '{"messages": []}'},
        {"body": '{"a": "{messages}", "b": "{messages}"}'},
        {"batch": BatchForm('["{messages}"]')},
        {"batch": BatchForm("{")},
        {"batch": None},
        {"body_form": "form", "body": '[["a", "b"]]'},
    ],
)
def test_forms_that_cannot_work_are_refused(make: Make, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        make(**settings)
