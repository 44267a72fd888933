"""From what became of a request to the outcomes of its messages, with details that give nobody away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import pycurl

from worker.channels.answer_rules import (
    INCOMPLETE_ANSWER,
    NO_RESULT,
    Answer,
    Judgement,
    judge,
    judge_results,
)
from worker.channels.http_answer import excerpt, in_words, kind_of_error, shorten
from worker.channels.http_settings import HttpSettings
from worker.channels.http_transport import Exchange, Trouble
from worker.channels.port import Accepted, Failed, FailureKind, OutgoingMessage
from worker.channels.tokens import TokenUnavailable

FORBIDDEN_DESTINATION: Final = "forbidden_destination"

_NOT_SENT_TWICE: Final = "the connection died after the request was sent"
_FORBIDDEN: Final = "its URL leads to an address that messages are not sent to"
_IN_WORDS: Final = {
    INCOMPLETE_ANSWER: "the answer never came whole",
    NO_RESULT: "the answer says nothing of it",
}
# Which of the outcomes of one request says most of the provider: that it refuses us, that it works, that it fails.
_TELLING: Final = (
    FailureKind.PROVIDER,
    None,
    FailureKind.PERMANENT,
    FailureKind.RETRYABLE,
    FailureKind.UNKNOWN,
)

Ended = Accepted | Failed


class OutcomeReader:
    """Reads answers as the settings say. With `hides_hosts` no detail names a host: the URLs are those of users."""

    def __init__(self, settings: HttpSettings, *, hides_hosts: bool) -> None:
        self._settings = settings
        self._hides_hosts = hides_hosts
        self.token = ""
        """The latest token that requests carried."""

    def judge(self, answer: Answer, now: datetime) -> Judgement:
        """What an answer as a whole means."""
        return judge(answer, self._settings, now)

    def of_judgement(
        self, judgement: Judgement, answer: Answer, messages: Sequence[OutgoingMessage], now: datetime
    ) -> Ended:
        """The outcome of all messages of a request whose answer was judged as a whole."""
        return self._ended(judgement, answer.status, messages, now)

    def of_results(self, answer: Answer, messages: Sequence[OutgoingMessage], now: datetime) -> list[Ended]:
        """The outcomes of the messages of a request whose accepted answer has a result for each of them."""
        assert self._settings.batch is not None
        ids = [message.id for message in messages]
        judgements = judge_results(answer, self._settings.batch, ids, self._settings)
        return [
            self._ended(judgement, answer.status, (message,), now)
            for judgement, message in zip(judgements, messages, strict=True)
        ]

    def of_trouble(self, exchange: Exchange, trouble: Trouble, now: datetime) -> Failed:
        """The outcome of all messages of a request that ended without a status."""
        if exchange.is_forbidden:
            return Failed(FailureKind.PERMANENT, FORBIDDEN_DESTINATION, _FORBIDDEN, None, now)
        kind, category = kind_of_error(trouble.error, was_sent=exchange.may_have_arrived())
        if trouble.error == pycurl.E_ABORTED_BY_CALLBACK:
            detail = _NOT_SENT_TWICE
        else:
            detail = in_words(category) if self._hides_hosts else shorten(trouble.text)
        return Failed(kind, category, detail, None, now)

    def without_token(self, error: TokenUnavailable, now: datetime) -> Failed:
        """The outcome of messages that could not be sent for want of a token: it costs them no attempt."""
        return Failed(error.kind, error.category, error.detail, error.retry_after, now, burns_attempt=False)

    def _ended(
        self, judgement: Judgement, status: int, messages: Sequence[OutgoingMessage], now: datetime
    ) -> Ended:
        kind, category = judgement.kind, judgement.category
        if kind is None:
            return Accepted(now)
        said = _IN_WORDS.get(category)
        if said is None:
            said = excerpt(judgement.said, self._private(messages)) if judgement.said else ""
        return Failed(kind, category, f"HTTP {status}: {said}".rstrip(": "), judgement.wait, now)

    def _private(self, messages: Sequence[OutgoingMessage]) -> Iterator[str]:
        """What an answer may repeat and no detail may hold."""
        yield from self._settings.headers.values()
        yield from self._settings.basic_auth or ()
        yield self.token
        for message in messages:
            yield from (message.id, message.address, message.subject, message.text)
            yield from (message.html or "", message.unsubscribe_url or "")
            yield from message.fields.values()


def most_telling(outcomes: Sequence[Ended]) -> Ended:
    """Of the outcomes of one request, the one that says most of the provider."""
    return min(outcomes, key=lambda outcome: _TELLING.index(getattr(outcome, "kind", None)))
