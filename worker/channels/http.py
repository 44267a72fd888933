"""A provider reached over HTTP/1.1, many requests in flight, over libcurl's multi.

Promises
* A message alone in its request carries the same `Idempotency-Key: <message id>` at every attempt, and a call of
  `deliver` sends it once at most: libcurl's own repetition on a connection that died is prevented, for it would
  hide an unknown outcome. Of messages that share a request see `http_batch.py`.
* `deliver` returns within `batch_timeout_seconds + total_timeout_seconds`, and a little for its own work, if the
  source of its token does not take longer.
* No redirect is followed, no proxy taken from the environment, no answer read beyond `LONGEST_ANSWER` (and
  `LONGEST_RESULT` for each message in a request).
* Details of failures hold no request, no address and no header value.

Speed comes from setting up once whatever is constant: handles, connections, options. A message changes the
body and the header list of a handle, and what libcurl reports about it is collected by plain lists.

Limits: one thread at a time; at most `MOST_CONCURRENCY` requests in flight, because libcurl is waited for
with select(2), which knows no file descriptor beyond 1,023. With `perform`, select was measured to be faster
here than epoll with `socket_action`, which calls back several times for each request. A connection that was
idle for less than a second is not looked at before it is used again: closed by the provider in that second,
it makes an unknown outcome. Signatures for AWS carry the time of the machine, not of the clock given.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Final

import pycurl

from scheduler.clock import Clock
from worker.channels.answer_rules import Answer
from worker.channels.destination import DestinationPolicy
from worker.channels.http_batch import JoinedRequests
from worker.channels.http_exchange import Exchange
from worker.channels.http_outcomes import Ended, OutcomeReader, most_telling
from worker.channels.http_queue import RequestQueue
from worker.channels.http_request import SingleRequests, Writer
from worker.channels.http_settings import HttpSettings
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

LONGEST_WAIT_SECONDS: Final = 0.05  # for an answer, before the stop signal is looked at again
IDLE_PAUSE_SECONDS: Final = 0.001  # when libcurl has no socket to wait for yet


@dataclass(slots=True)
class _Batch:
    """One call of `deliver`. What was not started by its end was not attempted."""

    messages: Sequence[OutgoingMessage]
    control: DeliveryControl
    outcomes: list[Outcome]
    queue: RequestQueue
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
        policy = _policy(settings)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, settings.concurrency)
        self._idle = [Exchange(settings, url, policy) for _ in range(settings.concurrency)]
        self._busy: dict[pycurl.Curl, Exchange] = {}

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
        try:
            while self._start(batch) and not control.abandon():
                self._multi.perform()
                if not self._collect(batch):
                    self._wait()
        finally:
            self._abandon(batch)
        return batch.outcomes

    def close(self) -> None:
        """Close all connections."""
        for exchange in self._idle:
            exchange.close()
        self._idle.clear()
        self._multi.close()

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
        outcomes: list[Outcome] = [NotAttempted()] * len(messages)

        def may_start() -> bool:
            return not control.start_no_more() and self._clock.monotonic() < start_until

        def refuse(position: int, refused: Unsendable) -> None:
            at = self._clock.now()
            outcomes[position] = Failed(FailureKind.PERMANENT, refused.category, refused.detail, None, at)

        requests = self._writer.requests(messages, headers, may_start, refuse)
        queue = RequestQueue(requests, self._settings.host_connections, may_start)
        return _Batch(messages, control, outcomes, queue)

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
        while self._idle and (request := batch.queue.next()) is not None:
            if self._slots is not None and not self._slots.take():
                batch.queue.put_back(request)
                batch.awaits_slot = True
                break
            exchange = self._idle.pop()
            self._busy[exchange.handle] = exchange
            exchange.take(request, self._clock.monotonic())
            self._multi.add_handle(exchange.handle)
        return bool(self._busy) or batch.awaits_slot

    def _collect(self, batch: _Batch) -> bool:
        """Turn whatever has ended into outcomes. Returns whether anything had."""
        _, answered, broken = self._multi.info_read(self._settings.concurrency)
        if not answered and not broken:
            return False
        now = self._clock.now()
        accepted = Accepted(now)
        decisive = self._decisive_statuses
        for handle in answered:
            exchange = self._busy[handle]
            status = handle.getinfo(pycurl.RESPONSE_CODE)
            if status in decisive:
                self._end(batch, exchange, accepted)
            else:
                self._read_answer(batch, exchange, exchange.answer(status, is_whole=True), now)
        for handle, error, text in broken:
            exchange = self._busy[handle]
            if status := exchange.final_status():
                self._read_answer(batch, exchange, exchange.answer(status, is_whole=False), now)
            else:
                self._end(batch, exchange, self._reader.of_error(exchange, error, text, now))
        return True

    def _wait(self) -> None:
        """Wait until libcurl has something to do, for a moment at most."""
        try:
            if not self._multi.select(LONGEST_WAIT_SECONDS):
                # It returns at once while there is no socket: never turn on the spot.
                Event().wait(IDLE_PAUSE_SECONDS)
        except pycurl.error as error:
            if error.args[0] != errno.EINTR:
                raise

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

    def _end(self, batch: _Batch, exchange: Exchange, outcome: Ended) -> None:
        """The same outcome for all messages of a request; it says as much of the provider as that of one."""
        for position in exchange.request.positions:
            batch.outcomes[position] = outcome
        if self._notes_outcomes and not (exchange.refused_destination and exchange.was_forbidden()):
            batch.control.note(outcome, exchange.began_at)
        self._release(batch, exchange)

    def _release(self, batch: _Batch, exchange: Exchange) -> None:
        self._multi.remove_handle(exchange.handle)
        del self._busy[exchange.handle]
        if self._slots is not None:
            self._slots.give_back()
        if exchange.request.host is not None:
            batch.queue.ended(exchange.request)
        exchange.clear()
        self._idle.append(exchange)

    def _abandon(self, batch: _Batch) -> None:
        """Take back what is still in flight; its connections are closed."""
        for exchange in list(self._busy.values()):
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


def _policy(settings: HttpSettings) -> DestinationPolicy | None:
    return DestinationPolicy(settings.allowed_networks, settings.allowed_ports) if settings.guard else None
