"""A provider that hands messages to a mail relay, over a few connections that stay open.

Promises
* A call of `deliver` sends a message once at most. Only where a kept connection turns out to be closed before
  anything of a message was sent (RFC 5321 §3.8: 421, or no answer to MAIL) is it begun anew on a fresh one.
* What is refused is retryable, permanent or the provider's as `smtp_reply.py` says. A connection that is lost before
  the final dot makes a retryable failure; after it the outcome is unknown, and the channel's policy decides. The
  `Message-ID` is the same in every attempt, by which a mailbox can recognise a copy: SMTP knows no other key.
* `deliver` returns within `batch_timeout_seconds + total_timeout_seconds`, and a little for its own work, also where
  the name service hangs: whoever waits for that has sent nothing, and is left behind.
* TLS is required unless `tls = "none"`, and no password goes over a line without it, but to this machine itself.
* Details of failures hold no address and nothing of a message. DKIM is the relay's affair.

Each connection works in a thread of its own, on one message at a time; the caller's thread hands them out, and is
the only one that asks and tells `control`. Limits: SMTP has no batch, and each message takes four round trips; with
a far relay more `connections` are what helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Final

from scheduler.clock import Clock
from worker.channels.mail import Mail, MailSender, UnsendableMail, compose
from worker.channels.port import (
    Accepted,
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
)
from worker.channels.slots import RequestSlots
from worker.channels.smtp_reply import detail_of_reply
from worker.channels.smtp_session import GivenUp, Patience, Relay, SmtpFailure, SmtpSession

LONGEST_IDLE_SECONDS: Final = 60.0
"""A connection that was not used for so long is not used again: a firewall may have forgotten it silently."""

LONGEST_WAIT_SECONDS: Final = 0.05  # for the end of an attempt, before the stop signal is looked at again


@dataclass(frozen=True, slots=True)
class SmtpLimits:
    """How many connections one provider keeps, and how long a message and a batch may take."""

    connections: int = 4
    total_timeout_seconds: float = 60.0
    batch_timeout_seconds: float = 60.0


class _Connection:
    """A place for one session, which is opened when it is needed; used by one attempt at a time."""

    def __init__(self, relay: Relay, clock: Clock) -> None:
        self._relay = relay
        self._clock = clock
        self._session: SmtpSession | None = None
        self._used_at = 0.0

    def kept(self) -> SmtpSession | None:
        """The session of the last attempt, if it can still be used."""
        session = self._session
        if session is None or session.sock is None:
            return None
        if self._clock.monotonic() - self._used_at > LONGEST_IDLE_SECONDS or not session.is_quiet():
            self.close()
            return None
        return session

    def open(self, patience: Patience) -> SmtpSession:
        """A new session. Raises as `SmtpSession`."""
        self._session = SmtpSession(self._relay, patience)
        return self._session

    def rest(self) -> None:
        """It is not used from now on."""
        self._used_at = self._clock.monotonic()

    def close(self) -> None:
        """End the session, if there is one."""
        if self._session is not None:
            self._session.say_goodbye(self._clock)
            self._session = None


class _Attempt:
    """One message on its way over one connection."""

    def __init__(self, batch: _Batch, position: int, connection: _Connection, began_at: float) -> None:
        self.batch = batch
        self.position = position
        self.message = batch.messages[position]
        self.connection = connection
        self.began_at = began_at
        self.outcome: Outcome = NotAttempted()
        self.was_asked = True
        self.error: BaseException | None = None
        self._lock = Lock()
        self._has_begun = False
        self._is_given_up = False

    def begin(self) -> None:
        """The message is sent from now on. Raises GivenUp if it must not be any more."""
        with self._lock:
            if self._is_given_up:
                raise GivenUp
            self._has_begun = True

    def begin_anew(self) -> None:
        """Nothing of it was sent, and it is not being sent now. Raises GivenUp if it must not be any more."""
        with self._lock:
            if self._is_given_up:
                raise GivenUp
            self._has_begun = False

    def give_up(self) -> bool:
        """End it soon; False if it had not begun, and now never will: nobody need wait for it."""
        with self._lock:
            self._is_given_up = True
            return self._has_begun

    def is_given_up(self) -> bool:
        """Whether its end was asked for."""
        return self._is_given_up


@dataclass(slots=True)
class _Batch:
    """One call of `deliver`. What was not started by its end was not attempted."""

    messages: Sequence[OutgoingMessage]
    control: DeliveryControl
    start_until: float  # seconds of the monotonic clock
    outcomes: list[Outcome]
    in_flight: set[_Attempt]
    started: int = 0


class SmtpProvider:
    """Delivers messages to one relay over connections that stay open from one batch to the next."""

    def __init__(
        self,
        name: str,
        relay: Relay,
        sender: MailSender,
        limits: SmtpLimits,
        clock: Clock,
        slots: RequestSlots | None = None,
    ) -> None:
        self._name = name
        self._sender = sender
        self._limits = limits
        self._clock = clock
        self._slots = slots
        self._threads = ThreadPoolExecutor(limits.connections, thread_name_prefix=f"smtp-{name}")
        self._idle = [_Connection(relay, clock) for _ in range(limits.connections)]
        self._ended: SimpleQueue[_Attempt] = SimpleQueue()
        self._is_closed = False

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Send each message by itself; one outcome each, in their order.

        Once stop is asked, or the batch has taken its time, no further message is begun, and what is in flight is
        waited for. Once that is to be abandoned, a message whose final dot was sent is `unknown`; the rest was
        not attempted.
        """
        start_until = self._clock.monotonic() + self._limits.batch_timeout_seconds
        batch = _Batch(messages, control, start_until, [NotAttempted()] * len(messages), set())
        try:
            while self._start(batch) and not control.abandon():
                self._collect(batch)
                self._leave_overdue(batch)
        finally:
            self._abandon(batch)
        return batch.outcomes

    def close(self) -> None:
        """Close all connections. A thread that still waits for the name service ends by itself."""
        self._is_closed = True
        while not self._ended.empty():
            self._idle.append(self._ended.get_nowait().connection)
        for connection in self._idle:
            connection.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, batch: _Batch) -> bool:
        """Give idle connections the next messages while that is allowed. Returns whether to go on."""
        while batch.started < len(batch.messages) and (now := self._clock.monotonic()) < batch.start_until:
            if not self._idle or not self._take_slot():
                return True
            if batch.control.start_no_more():
                self._give_slot_back()
                break
            attempt = _Attempt(batch, batch.started, self._idle.pop(), now)
            batch.started += 1
            batch.in_flight.add(attempt)
            self._threads.submit(self._work, attempt)
        return bool(batch.in_flight)

    def _collect(self, batch: _Batch) -> None:
        """Take the outcomes of what has ended; waits for a moment if nothing has."""
        try:
            self._end(batch, self._ended.get(timeout=LONGEST_WAIT_SECONDS))
            while not self._ended.empty():
                self._end(batch, self._ended.get_nowait())
        except Empty:
            return

    def _end(self, batch: _Batch, attempt: _Attempt) -> None:
        """Free the connection; the outcome is of no interest where the attempt was left behind."""
        self._idle.append(attempt.connection)
        if attempt not in batch.in_flight:
            return
        batch.in_flight.discard(attempt)
        if attempt.error is not None:
            raise attempt.error
        self._record(batch, attempt)

    def _record(self, batch: _Batch, attempt: _Attempt) -> None:
        batch.outcomes[attempt.position] = attempt.outcome
        if attempt.was_asked:
            batch.control.note(attempt.outcome, attempt.began_at)

    def _leave_overdue(self, batch: _Batch) -> None:
        """Leave behind what should have ended and has sent nothing: it hangs where no timeout reaches."""
        overdue_before = (
            self._clock.monotonic() - self._limits.total_timeout_seconds - 2 * LONGEST_WAIT_SECONDS
        )
        for attempt in [each for each in batch.in_flight if each.began_at < overdue_before]:
            if not attempt.give_up():
                batch.in_flight.discard(attempt)
                attempt.outcome = self._failed(
                    FailureKind.RETRYABLE, "connect_timeout", "no connection in time"
                )
                self._record(batch, attempt)

    def _abandon(self, batch: _Batch) -> None:
        """Take back what is still in flight; its connections are closed."""
        batch.in_flight = {attempt for attempt in batch.in_flight if attempt.give_up()}
        while batch.in_flight:
            attempt = self._ended.get()
            self._idle.append(attempt.connection)
            if attempt in batch.in_flight:
                batch.in_flight.discard(attempt)
                batch.outcomes[attempt.position] = attempt.outcome

    def _work(self, attempt: _Attempt) -> None:
        """In a thread of the connection: one attempt from beginning to end."""
        try:
            self._attempt(attempt)
        except Exception as error:
            attempt.error = error
        finally:
            attempt.connection.rest()
            if self._is_closed:
                attempt.connection.close()
            self._give_slot_back()
            self._ended.put(attempt)

    def _attempt(self, attempt: _Attempt) -> None:
        try:
            self._send(attempt, compose(attempt.message, self._sender, self._clock.now()))
            attempt.outcome = Accepted(self._clock.now())
        except UnsendableMail as error:
            attempt.was_asked = False
            attempt.outcome = self._failed(FailureKind.PERMANENT, error.category, error.detail)
        except GivenUp as error:
            attempt.was_asked = False
            if error.may_have_arrived:
                attempt.outcome = self._failed(FailureKind.UNKNOWN, "abandoned", "no answer was waited for")
        except SmtpFailure as failure:
            attempt.was_asked = failure.was_asked
            attempt.outcome = self._refused(failure, attempt.message)

    def _send(self, attempt: _Attempt, mail: Mail) -> None:
        """Over the kept session; over a new one if that has ended. Raises SmtpFailure or GivenUp."""
        until = attempt.began_at + self._limits.total_timeout_seconds
        patience = Patience(self._clock, until, attempt.is_given_up)
        session = attempt.connection.kept()
        if session is not None:
            attempt.begin()
            try:
                return session.send_mail(mail, patience)
            except SmtpFailure as failure:
                if not failure.is_stale:
                    raise
                attempt.begin_anew()
        session = attempt.connection.open(patience)
        attempt.begin()
        return session.send_mail(mail, patience)

    def _refused(self, failure: SmtpFailure, message: OutgoingMessage) -> Failed:
        detail = failure.detail
        if failure.code is not None:
            detail = detail_of_reply(failure.code, failure.said, message)
        return self._failed(failure.kind, failure.category, detail)

    def _failed(self, kind: FailureKind, category: str, detail: str) -> Failed:
        return Failed(kind, category, detail, None, self._clock.now())

    def _take_slot(self) -> bool:
        return self._slots is None or self._slots.take()

    def _give_slot_back(self) -> None:
        if self._slots is not None:
            self._slots.give_back()
