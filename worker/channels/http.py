"""A provider reached over HTTP/1.1, many requests in flight.

Promises
* A message alone in its request carries the same `Idempotency-Key: <message id>` at every attempt, and a call of
  `deliver` sends it once at most: libcurl's own repetition on a connection that died is prevented, for it would
  hide an unknown outcome. Of messages that share a request see `http_batch.py`.
* `deliver` returns within `batch_timeout_seconds + total_timeout_seconds`, and a little for its own work, if the
  source of its token does not take longer.
* No redirect is followed, no proxy taken from the environment, no answer read beyond `LONGEST_ANSWER` (and
  `LONGEST_RESULT` for each message in a request).
* Details of failures hold no request, no address and no header value.

Limits: one thread at a time. How requests are carried, and what limits that brings, is said in `http_transport.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from scheduler.clock import Clock
from worker.channels.answer_rules import Answer
from worker.channels.http_batch import JoinedRequests
from worker.channels.http_framing import is_plain_url
from worker.channels.http_kept import KeptConnections
from worker.channels.http_outcomes import OutcomeReader, most_telling
from worker.channels.http_queue import RequestQueue
from worker.channels.http_request import SingleRequests, Writer
from worker.channels.http_settings import HttpSettings
from worker.channels.http_transfers import Transfers
from worker.channels.http_transport import Exchange, Transport
from worker.channels.port import (
    Accepted,
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
)
from worker.channels.request_fields import Unsendable
from worker.channels.slots import RequestSlots
from worker.channels.tokens import TokenUnavailable

ASKED_EVERY_SECONDS: Final = 0.005
"""How long the control's word holds while requests are started; it is asked anew whenever answers have come."""


class _MayStart:
    """Whether more may be started; asks the control now and then.

    It knows nothing of its batch: in a cycle with that, all messages would live until Python looks for cycles.
    """

    def __init__(self, control: DeliveryControl, clock: Clock, start_until: float) -> None:
        self._control = control
        self._clock = clock
        self._start_until = start_until
        self._asked_until = -math.inf

    def ask_again(self) -> None:
        """Take no earlier answer."""
        self._asked_until = -math.inf

    def __call__(self) -> bool:
        now = self._clock.monotonic()
        if now >= self._asked_until:
            if now >= self._start_until or self._control.start_no_more():
                return False
            self._asked_until = now + ASKED_EVERY_SECONDS
        return True


@dataclass(slots=True)
class _Batch:
    """One call of `deliver`. What was not started by its end was not attempted."""

    messages: Sequence[OutgoingMessage]
    control: DeliveryControl
    outcomes: list[Outcome]
    queue: RequestQueue
    may_start: _MayStart
    in_flight: int = 0
    awaits_slot: bool = False


class HttpProvider:
    """Delivers messages over connections that stay open from one batch to the next.

    `slots` are those that the threads of a process share; None: there is no limit but the settings'.
    """

    def __init__(self, settings: HttpSettings, clock: Clock, slots: RequestSlots | None = None) -> None:
        """Compile the templates (ConfigurationError where one does not) and make the handles; nothing is connected."""
        self._settings = settings
        self._clock = clock
        self._slots = slots
        self._notes_outcomes = settings.notes_outcomes
        self._writer = _writer(settings, clock)
        url = self._writer.constant_url
        self._reader = OutcomeReader(settings, hides_hosts=url is None)
        self._has_results = settings.batch is not None and settings.batch.results is not None
        # Statuses that are understood without a look at the answer.
        decisive = not settings.rules and not self._has_results
        self._decisive_statuses = settings.accepted_statuses if decisive else frozenset()
        self._transport = _transport(settings, url)

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._settings.name

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Send the messages; one outcome each, in their order.

        Once stop is asked, or the batch has taken its time, no further request is started, and what is in
        flight is waited for. Once that is to be abandoned, what was sent is `unknown`; the rest was not
        attempted.
        """
        if not messages:
            return []
        try:
            headers = self._authorization()
        except TokenUnavailable as error:
            return self._without_token(len(messages), control, error)
        batch = self._batch(messages, control, headers)
        self._transport.refresh()
        try:
            while self._start(batch) and not control.abandon():
                self._collect(batch)
        finally:
            self._abandon(batch)
        return batch.outcomes

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _authorization(self) -> list[str]:
        """The header that holds the token, if there is a source of tokens. Raises TokenUnavailable."""
        if self._settings.token is None:
            return []
        self._reader.token = self._settings.token()
        return [f"Authorization: Bearer {self._reader.token}"]

    def _batch(
        self, messages: Sequence[OutgoingMessage], control: DeliveryControl, headers: Sequence[str]
    ) -> _Batch:
        start_until = self._clock.monotonic() + self._settings.batch_timeout_seconds
        may_start = _MayStart(control, self._clock, start_until)
        outcomes: list[Outcome] = [NotAttempted()] * len(messages)

        def refuse(position: int, refused: Unsendable) -> None:
            at = self._clock.now()
            outcomes[position] = Failed(FailureKind.PERMANENT, refused.category, refused.detail, None, at)

        requests = self._writer.requests(messages, headers, may_start, refuse)
        queue = RequestQueue(requests, self._settings.host_connections, may_start)
        return _Batch(messages, control, outcomes, queue, may_start)

    def _without_token(self, count: int, control: DeliveryControl, error: TokenUnavailable) -> list[Outcome]:
        """All messages fail, as far as any might have been started; the circuit hears of each."""
        began_at = self._clock.monotonic()
        failed = self._reader.without_token(error, self._clock.now())
        outcomes: list[Outcome] = [NotAttempted()] * count
        for position in range(count):
            if control.start_no_more():
                break
            outcomes[position] = failed
            if self._notes_outcomes:
                control.note(failed, began_at)
        return outcomes

    def _start(self, batch: _Batch) -> bool:
        """Start requests while that is possible. Returns whether any are in flight, or one waits for a slot."""
        batch.awaits_slot = False
        batch.may_start.ask_again()
        transport = self._transport
        while transport.has_room and (request := batch.queue.next()) is not None:
            if self._slots is not None and not self._slots.take():
                batch.queue.put_back(request)
                batch.awaits_slot = True
                break
            batch.in_flight += 1
            transport.start(request, self._clock.monotonic())
        return batch.in_flight > 0 or batch.awaits_slot

    def _collect(self, batch: _Batch) -> None:
        """Turn whatever has ended into outcomes."""
        ended = self._transport.ended()
        if not ended:
            return
        now = self._clock.now()
        accepted = Accepted(now)
        decisive = self._decisive_statuses
        for exchange, status, trouble in ended:
            if trouble is None and status in decisive:
                self._end(batch, exchange, accepted)
            elif trouble is None or status:
                answer = exchange.answer(status, is_whole=trouble is None)
                self._read_answer(batch, exchange, answer, now)
            else:
                self._end(batch, exchange, self._reader.of_trouble(exchange, trouble, now))

    def _read_answer(self, batch: _Batch, exchange: Exchange, answer: Answer, now: datetime) -> None:
        request = exchange.request
        judgement = self._reader.judge(answer, now)
        if judgement.kind is FailureKind.PERMANENT and (halves := self._writer.halves(request)):
            batch.queue.put_first(halves)
            self._release(batch, exchange)
            return
        messages = [batch.messages[position] for position in request.positions]
        if judgement.kind is None and self._has_results:
            outcomes = self._reader.of_results(answer, messages, now)
            for position, outcome in zip(request.positions, outcomes, strict=True):
                batch.outcomes[position] = outcome
            if self._notes_outcomes:
                batch.control.note(most_telling(outcomes), exchange.began_at)
            self._release(batch, exchange)
        else:
            self._end(batch, exchange, self._reader.of_judgement(judgement, answer, messages, now))

    def _end(self, batch: _Batch, exchange: Exchange, outcome: Accepted | Failed) -> None:
        """The same outcome for all messages of a request; it says as much of the provider as that of one."""
        for position in exchange.request.positions:
            batch.outcomes[position] = outcome
        if self._notes_outcomes and not exchange.is_forbidden:
            batch.control.note(outcome, exchange.began_at)
        self._release(batch, exchange)

    def _release(self, batch: _Batch, exchange: Exchange) -> None:
        batch.in_flight -= 1
        if self._slots is not None:
            self._slots.give_back()
        if exchange.request.host is not None:
            batch.queue.ended(exchange.request)
        self._transport.release(exchange)

    def _abandon(self, batch: _Batch) -> None:
        """Take back what is still in flight; its connections are closed."""
        for exchange in self._transport.in_flight:
            if exchange.may_have_arrived():
                abandoned = Failed(
                    FailureKind.UNKNOWN, "abandoned", "no answer was waited for", None, self._clock.now()
                )
                for position in exchange.request.positions:
                    batch.outcomes[position] = abandoned
            self._release(batch, exchange)


def _writer(settings: HttpSettings, clock: Clock) -> Writer:
    if settings.batch is None:
        return SingleRequests(settings, clock)
    return JoinedRequests(settings, settings.batch, clock)


def _transport(settings: HttpSettings, url: str | None) -> Transport:
    is_own_work = settings.guard or settings.aws_sigv4 is not None
    if url is None or is_own_work or not is_plain_url(url):
        return Transfers(settings, url)
    return KeptConnections(settings, url)
