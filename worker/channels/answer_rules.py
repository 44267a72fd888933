"""Rules for answers, applied: what an answer, or one result in it, means for its messages. Plain functions of values.

The order of things: the first rule that fits; else an accepted status; else what the status means by
`http_answer.kind_of_status`. An accepted status decides alone as soon as it is there, unless rules or results
have to be looked for in an answer that never came whole: then the outcome is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import translate
from functools import lru_cache
from typing import Final

import orjson

from worker.channels.http_answer import header_value, kind_of_status, retry_after, wait_in
from worker.channels.http_settings import AnswerRule, BatchForm, HttpSettings, Verdict
from worker.channels.port import FailureKind

NO_RESULT: Final = "no_result"
INCOMPLETE_ANSWER: Final = "incomplete_answer"

_NOWHERE: Final = object()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status from 200 on, the header lines, and the body, `is_whole` or as far as it came."""

    status: int
    header_lines: Sequence[bytes]
    body: bytes
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer means. `kind` None: accepted. `category` and `wait` are those of a failure."""

    kind: FailureKind | None
    category: str = ""
    wait: timedelta | None = None
    said: bytes = b""
    """The part of the answer that says so; it may hold personal data."""


_ACCEPTED: Final = Judgement(None)
_INCOMPLETE: Final = Judgement(FailureKind.UNKNOWN, INCOMPLETE_ANSWER)
_NO_RESULT: Final = Judgement(FailureKind.UNKNOWN, NO_RESULT)


def judge(answer: Answer, settings: HttpSettings, now: datetime) -> Judgement:
    """What the answer as a whole means."""
    document = _document(answer.body) if answer.is_whole else _NOWHERE
    for rule in settings.rules:
        if _fits(rule, answer, document):
            return _by_rule(rule, answer, now)
    if answer.status in settings.accepted_statuses:
        return _ACCEPTED if answer.is_whole or not _reads_body(settings, answer.status) else _INCOMPLETE
    kind = kind_of_status(answer.status)
    wait = retry_after(answer.header_lines, now) if kind is FailureKind.RETRYABLE else None
    return Judgement(kind, f"http_{answer.status}", wait, answer.body)


def judge_results(
    answer: Answer, batch: BatchForm, ids: Sequence[str], settings: HttpSettings
) -> list[Judgement]:
    """What the results in an accepted answer mean, one for each of the messages `ids`."""
    found = next(_find(_document(answer.body), batch.results or ""), None)
    results = found if isinstance(found, list) else []
    if batch.result_id is None:
        by_position: list[object] = [*results, *[_NOWHERE] * len(ids)]
        return [_judge_result(result, batch, settings) for result in by_position[: len(ids)]]
    by_id = {_text(next(_find(result, batch.result_id), None)): result for result in results}
    return [_judge_result(by_id.get(one, _NOWHERE), batch, settings) for one in ids]


def _judge_result(result: object, batch: BatchForm, settings: HttpSettings) -> Judgement:
    if result is _NOWHERE:
        return _NO_RESULT
    said = orjson.dumps(result)
    found = None if batch.result_status is None else next(_find(result, batch.result_status), None)
    status = found if type(found) is int else 0
    answer = Answer(status, (), said, is_whole=True)
    for rule in batch.result_rules:
        if _fits(rule, answer, result):
            return _by_rule(rule, answer, None)
    if status in settings.accepted_statuses:
        return _ACCEPTED
    return Judgement(kind_of_status(status), f"http_{status}", None, said) if status else _NO_RESULT


_KINDS: Final[Mapping[Verdict, FailureKind | None]] = {
    Verdict.ACCEPTED: None,
    Verdict.RETRYABLE: FailureKind.RETRYABLE,
    Verdict.PERMANENT: FailureKind.PERMANENT,
    Verdict.PROVIDER: FailureKind.PROVIDER,
}


def _by_rule(rule: AnswerRule, answer: Answer, now: datetime | None) -> Judgement:
    """What the rule says; `now` None: there is no wait to be found."""
    kind = _KINDS[rule.verdict]
    if kind is None:
        return _ACCEPTED
    wait = None
    if kind is FailureKind.RETRYABLE and now is not None:
        wait = wait_in(answer.header_lines, rule.wait_header or "Retry-After", rule.wait_form, now)
    by_status = f"http_{answer.status}" if answer.status else "refused"
    return Judgement(kind, rule.category or by_status, wait, answer.body)


def _reads_body(settings: HttpSettings, status: int) -> bool:
    """Whether an answer of this status must be there as a whole to be understood."""
    if settings.batch is not None and settings.batch.results is not None:
        return True
    return any(
        rule.pointer is not None and (not rule.statuses or status in rule.statuses) for rule in settings.rules
    )


def _fits(rule: AnswerRule, answer: Answer, document: object) -> bool:
    if rule.statuses and answer.status not in rule.statuses:
        return False
    if rule.header is not None:
        found = header_value(answer.header_lines, rule.header)
        return found is not None and _is_one_of(found, rule.values)
    if rule.pointer is not None:
        texts = (_text(value) for value in _find(document, rule.pointer) if value is not None)
        return any(_is_one_of(text, rule.values) for text in texts)
    return True


def _is_one_of(text: str, values: frozenset[str]) -> bool:
    return not values or any(_pattern(value).fullmatch(text) for value in values)


@lru_cache(maxsize=1_000)
def _pattern(value: str) -> re.Pattern[str]:
    """A value of a rule, where `*` stands for any characters and nothing else is special."""
    return re.compile(translate(re.sub(r"[?\[]", r"[\g<0>]", value)))


def _document(body: bytes) -> object:
    """The answer as JSON; one that is no JSON is its own text."""
    try:
        document: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace").strip()
    return document


def _find(document: object, pointer: str) -> Iterator[object]:
    """What a JSON pointer leads to (RFC 6901 §4), every one of them where it holds `*`; nothing: there is none."""
    found = [] if document is _NOWHERE else [document]
    for token in pointer.split("/")[1:]:
        found = [step for value in found for step in _step(value, token)]
    return iter(found)


def _step(value: object, token: str) -> Iterator[object]:
    if isinstance(value, list):
        if token == "*":  # noqa: S105 - a part of a pointer
            yield from value
        elif token.isdecimal() and int(token) < len(value):
            yield value[int(token)]
    elif isinstance(value, dict):
        name = token.replace("~1", "/").replace("~0", "~")
        if name in value:
            yield value[name]


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
