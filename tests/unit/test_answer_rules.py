"""Rules for answers: what fits, which one decides, and what the results in an answer mean."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.errors import ConfigurationError
from worker.channels.answer_rules import Answer, Judgement, judge, judge_results
from worker.channels.http_settings import AnswerRule, BatchForm, HttpSettings, Verdict, WaitForm
from worker.channels.port import FailureKind

NOW = datetime(2027, 2, 28, 9, 0, tzinfo=UTC)


def settings(*rules: AnswerRule, **more: object) -> HttpSettings:
    return HttpSettings("x", "https://a.example/", rules=rules, **more)  # type: ignore[arg-type]


def answer(status: int, body: object = None, *headers: str, is_whole: bool = True) -> Answer:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, [f"{line}\r\n".encode() for line in headers], text, is_whole)


def judged(given: Answer, *rules: AnswerRule) -> Judgement:
    return judge(given, settings(*rules), NOW)


PERMANENT = Verdict.PERMANENT
NESTED = {"error": {"status": "NOT_FOUND", "code": 404, "details": [{"x": 1}, {"errorCode": "UNREGISTERED"}]}}


@pytest.mark.parametrize(
    ("pointer", "values"),
    [
        ("/error/status", {"NOT_FOUND"}),
        ("/error/status", {"OTHER", "NOT_*"}),
        ("/error/code", {"404"}),
        ("/error/details/1/errorCode", {"UNREGISTERED"}),
        ("/error/details/*/errorCode", {"UNREGISTERED"}),
        ("/error/details/0/x", set()),
        ("/error", set()),
        ("", {"*NOT_FOUND*"}),
    ],
)
def test_a_pointer_that_fits(pointer: str, values: set[str]) -> None:
    rule = AnswerRule(PERMANENT, frozenset({404}), pointer, values=frozenset(values), category="gone")
    assert judged(answer(404, NESTED), rule).category == "gone"


@pytest.mark.parametrize(
    ("pointer", "values"),
    [
        ("/error/status", {"not_found"}),
        ("/error/status", {"NOT"}),
        ("/error/status", {"NOT?FOUND", "[N]OT_FOUND", "NOT.FOUND"}),
        ("/error/details/2/errorCode", set()),
        ("/error/details/-1", set()),
        ("/error/details/x", set()),
        ("/error/*", set()),
        ("/error/status/x", set()),
        ("/nothing", set()),
        ("/none", set()),
    ],
)
def test_a_pointer_that_does_not_fit(pointer: str, values: set[str]) -> None:
    rule = AnswerRule(PERMANENT, pointer=pointer, values=frozenset(values), category="gone")
    assert judged(answer(404, {**NESTED, "none": None}), rule).category == "http_404"


def test_names_in_pointers_are_escaped() -> None:
    rule = AnswerRule(PERMANENT, pointer="/a~1b/c~0d", values=frozenset({"true"}), category="found")
    assert judged(answer(400, {"a/b": {"c~d": True}}), rule).category == "found"


def test_an_answer_that_is_no_json_is_its_text() -> None:
    rule = AnswerRule(PERMANENT, pointer="", values=frozenset({"no_service"}), category="gone")
    assert judged(answer(404, b"no_service\n"), rule).category == "gone"
    assert judged(answer(404, b"\xff"), rule).category == "http_404"


def test_a_header_and_a_status_must_both_fit() -> None:
    rule = AnswerRule(
        Verdict.PROVIDER,
        frozenset({400}),
        header="X-Amzn-ErrorType",
        values=frozenset({"Paused*"}),
        category="paused",
    )
    fits = answer(400, None, "x-amzn-errortype: PausedException:http://internal")
    assert judged(fits, rule) == Judgement(FailureKind.PROVIDER, "paused", None, b"null")
    assert judged(answer(400, None, "x-amzn-errortype: Other"), rule).category == "http_400"
    assert judged(answer(404, None, "x-amzn-errortype: PausedException"), rule).category == "http_404"
    assert judged(answer(400), rule).category == "http_400"


def test_the_first_rule_that_fits_decides_before_the_status() -> None:
    rules = (
        AnswerRule(Verdict.RETRYABLE, frozenset({200}), "/ok", values=frozenset({"false"})),
        AnswerRule(Verdict.ACCEPTED, frozenset({409, 200})),
        AnswerRule(PERMANENT, frozenset({409})),
    )
    assert judged(answer(409), *rules).kind is None
    assert judged(answer(200, {"ok": False}), *rules).kind is FailureKind.RETRYABLE
    assert judged(answer(200, {"ok": False}), *rules).category == "http_200"
    assert judged(answer(200, {"ok": True}), *rules).kind is None
    assert judged(answer(500), *rules).kind is FailureKind.RETRYABLE


def test_the_wait_of_a_retryable_failure() -> None:
    epoch = AnswerRule(
        Verdict.RETRYABLE, frozenset({429}), wait_header="X-RateLimit-Reset", wait_form=WaitForm.EPOCH_SECONDS
    )
    at = int(NOW.timestamp()) + 90
    assert judged(answer(429, None, f"x-ratelimit-reset: {at}"), epoch).wait == timedelta(seconds=90)
    for nonsense in (at - 90, at - 500, at + 10**7, "soon", "-5", "1.5", "9" * 30):
        assert judged(answer(429, None, f"X-RateLimit-Reset: {nonsense}"), epoch).wait is None
    plain = AnswerRule(Verdict.RETRYABLE, frozenset({400}))
    assert judged(answer(400, None, "Retry-After: 7"), plain).wait == timedelta(seconds=7)
    assert judged(answer(503, None, "Retry-After: 7")).wait == timedelta(seconds=7)
    assert judged(answer(400, None, "Retry-After: 7")).wait is None


def test_an_answer_that_never_came_whole() -> None:
    reads_all = AnswerRule(Verdict.RETRYABLE, pointer="/ok", values=frozenset({"false"}))
    reads_errors = AnswerRule(PERMANENT, frozenset({400}), "/code", values=frozenset({"1"}), category="one")
    cut = answer(200, b'{"ok": fal', is_whole=False)
    assert judged(cut).kind is None
    assert judged(cut, reads_errors).kind is None
    assert judged(cut, reads_all).kind is FailureKind.UNKNOWN
    assert judged(answer(400, b'{"code":1}', is_whole=False), reads_errors).category == "http_400"


BATCH = {
    "results": "/results",
    "result_rules": (
        AnswerRule(Verdict.ACCEPTED, pointer="/status", values=frozenset({"ok"})),
        AnswerRule(PERMANENT, pointer="/error", values=frozenset({"bad_*"}), category="bad"),
        AnswerRule(Verdict.RETRYABLE, pointer="/error"),
    ),
}
OK = Judgement(None)


def results(given: object, ids: str, **form: object) -> list[tuple[FailureKind | None, str]]:
    batch = BatchForm('"{id}"', **{**BATCH, **form})  # type: ignore[arg-type]
    found = judge_results(answer(200, given), batch, ids.split(), settings(batch=batch))
    return [(one.kind, one.category) for one in found]


def test_results_by_position() -> None:
    given = {"results": [{"status": "ok"}, {"error": "bad_address"}, {"error": "busy"}, {"x": 1}]}
    assert results(given, "a b c d e") == [
        (None, ""),
        (FailureKind.PERMANENT, "bad"),
        (FailureKind.RETRYABLE, "refused"),
        (FailureKind.UNKNOWN, "no_result"),
        (FailureKind.UNKNOWN, "no_result"),
    ]


def test_results_by_id_in_any_order() -> None:
    given = {
        "results": [{"id": "c", "error": "busy"}, {"id": "a", "status": "ok"}, {"id": "z", "status": "ok"}, 7]
    }
    assert results(given, "a b c", result_id="/id") == [
        (None, ""),
        (FailureKind.UNKNOWN, "no_result"),
        (FailureKind.RETRYABLE, "refused"),
    ]


def test_results_with_statuses() -> None:
    given = {
        "results": [
            {"code": 202},
            {"code": 400},
            {"code": 429},
            {"code": "202"},
            {"code": True},
            {"code": 401},
        ]
    }
    assert results(given, "a b c d e f", result_status="/code", result_rules=()) == [
        (None, ""),
        (FailureKind.PERMANENT, "http_400"),
        (FailureKind.RETRYABLE, "http_429"),
        (FailureKind.UNKNOWN, "no_result"),
        (FailureKind.UNKNOWN, "no_result"),
        (FailureKind.PROVIDER, "http_401"),
    ]


@pytest.mark.parametrize("given", [None, {}, {"results": {}}, {"results": None}, [], "ok"])
def test_results_that_are_not_there_leave_all_unknown(given: object) -> None:
    assert results(given, "a b") == [(FailureKind.UNKNOWN, "no_result")] * 2


def test_more_results_than_messages_are_passed_over() -> None:
    assert results({"results": [{"status": "ok"}] * 5}, "a b") == [(None, "")] * 2


@pytest.mark.parametrize(
    "rule",
    [
        {"pointer": "/a", "header": "b"},
        {"values": frozenset({"a"})},
        {"pointer": "a"},
        {"category": "Not A Word"},
    ],
)
def test_rules_that_could_never_fit_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        AnswerRule(PERMANENT, **rule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "form",
    [
        {"most": 0},
        {"most": 1_001},
        {"most_bytes": 10},
        {"results": "results"},
        {"results": None},
        {"result_id": "id"},
    ],
)
def test_forms_that_could_never_work_are_refused(form: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        BatchForm('"{id}"', **{**BATCH, **form})  # type: ignore[arg-type]
