"""A provider reached by one HTTP/1.1 request per message, many of them in flight, over libcurl's multi.

Promises
* Every request of a message carries the same `Idempotency-Key: <message id>`, and a call of `deliver` sends
  it once at most: libcurl's own repetition on a connection that died is prevented, for it would hide an
  unknown outcome.
* `deliver` returns within `batch_timeout_seconds + total_timeout_seconds`, and a little for its own work.
* No redirect is followed, no proxy taken from the environment, no answer read beyond `LONGEST_ANSWER`.
* Details of failures hold no request, no address and no header value.

Speed comes from setting up once whatever is constant: handles, connections, options. A message changes the
body and the header list of a handle, and what libcurl reports about it is collected by plain lists.

Limits: one thread at a time; at most `MOST_CONCURRENCY` requests in flight, because libcurl is waited for
with select(2), which knows no file descriptor beyond 1,023. With `perform`, select was measured to be faster
here than epoll with `socket_action`, which calls back several times for each request. A connection that was
idle for less than a second is not looked at before it is used again: closed by the provider in that second,
it makes an unknown outcome.
"""

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from threading import Event
from typing import Final

import pycurl

from scheduler.clock import Clock
from scheduler.errors import ConfigurationError
from worker.channels.http_answer import excerpt, kind_of_error, kind_of_status, retry_after, shorten
from worker.channels.json_body import compile_json_body
from worker.channels.port import (
    Accepted,
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
)
from worker.templates import MissingFieldError

DEFAULT_BODY: Final = """{
    "id": "{id}", "channel": "{channel}", "to": "{address}", "subject": "{subject}", "text": "{text}"
}"""
LONGEST_ANSWER: Final = 65_536  # bytes
MOST_CONCURRENCY: Final = 512
LONGEST_WAIT_SECONDS: Final = 0.05  # for an answer, before the stop signal is looked at again
IDLE_PAUSE_SECONDS: Final = 0.001  # when libcurl has no socket to wait for yet
DNS_CACHE_SECONDS: Final = 60

_NOT_SENT_TWICE: Final = "the connection died after the request was sent"
_KEY_HEADER: Final = "Idempotency-Key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
# Field names and values: RFC 9110 §5.1 and §5.5, without what is beyond ASCII.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
# Theirs is the framing of the request, or it is the message's identity.
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade", _KEY_HEADER.lower()}
)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where and how one HTTP provider is reached; checked when it is made (ConfigurationError).

    `body` is a JSON document with fields (see `worker/channels/json_body.py`). `accepted_statuses` are
    those that mean "taken over": add 409 for a provider that answers it to a key it has accepted before.
    `certificate_authorities` is a file of PEM certificates, instead of the system's.
    """

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: str = DEFAULT_BODY
    concurrency: int = 64
    connect_timeout_seconds: float = 5.0
    total_timeout_seconds: float = 30.0
    batch_timeout_seconds: float = 60.0
    accepted_statuses: frozenset[int] = frozenset(range(200, 300))
    certificate_authorities: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could never work, or could break out of its place in the request."""
        if not re.fullmatch(r"https?://[\x21-\x7e]+", self.url):
            raise ConfigurationError(
                f"provider {self.name}: url takes http:// or https:// and printable ASCII"
            )
        if not 1 <= self.concurrency <= MOST_CONCURRENCY:
            raise ConfigurationError(
                f"provider {self.name}: concurrency got {self.concurrency}, takes 1 to {MOST_CONCURRENCY}"
            )
        for name in ("connect_timeout_seconds", "total_timeout_seconds", "batch_timeout_seconds"):
            if not 0.001 <= getattr(self, name) <= 3600:
                raise ConfigurationError(
                    f"provider {self.name}: {name} got {getattr(self, name)}, takes 0.001 to 3600"
                )
        _check_headers(self)


class _Exchange:
    """One reusable request: a libcurl handle, where its message stands, and what came back for it."""

    __slots__ = ("began_at", "body", "handle", "header_lines", "position", "was_sent")

    def __init__(self, settings: HttpSettings) -> None:
        self.position = 0
        self.began_at = 0.0  # seconds of the monotonic clock
        self.was_sent = False
        self.header_lines: list[bytes] = []
        self.body: list[bytes] = []
        self.handle = _handle(settings)
        self.handle.setopt(pycurl.HEADERFUNCTION, self.header_lines.append)
        self.handle.setopt(pycurl.WRITEFUNCTION, self.body.append)
        self.handle.setopt(pycurl.PREREQFUNCTION, self._before_sending)

    def _before_sending(self, *_: object) -> int:
        """Called by libcurl each time it is about to send the request: once is enough."""
        if self.was_sent:
            return pycurl.PREREQFUNC_ABORT
        self.was_sent = True
        return pycurl.PREREQFUNC_OK

    def may_have_arrived(self) -> bool:
        """Whether any byte of the request has left."""
        return self.was_sent and self.handle.getinfo(pycurl.REQUEST_SIZE) > 0

    def final_status(self) -> int:
        """The status of the answer, however much of it came; 0: there was none, or only an interim one."""
        status: int = self.handle.getinfo(pycurl.RESPONSE_CODE) if self.header_lines else 0
        return status if status >= HTTPStatus.OK else 0

    def clear(self) -> None:
        """Forget the last message."""
        self.was_sent = False
        self.header_lines.clear()
        self.body.clear()


@dataclass(slots=True)
class _Batch:
    """One call of `deliver`. What was not started by its end was not attempted."""

    messages: Sequence[OutgoingMessage]
    control: DeliveryControl
    start_until: float  # seconds of the monotonic clock
    outcomes: list[Outcome]
    started: int = 0


class HttpProvider:
    """Delivers messages to one URL over connections that stay open from one batch to the next."""

    def __init__(self, settings: HttpSettings, clock: Clock) -> None:
        """Compile the body (ConfigurationError where it does not) and make the handles; nothing is connected."""
        self._settings = settings
        self._clock = clock
        self._body = compile_json_body(settings.body)
        self._header_list = _header_list(settings.headers)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, settings.concurrency)
        self._idle = [_Exchange(settings) for _ in range(settings.concurrency)]
        self._busy: dict[pycurl.Curl, _Exchange] = {}

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._settings.name

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Send one request per message; one outcome each, in their order.

        Once stop is asked, or the batch has taken its time, no further request is started, and what is in
        flight is waited for. Once that is to be abandoned, what was sent is `unknown`; the rest was not
        attempted.
        """
        start_until = self._clock.monotonic() + self._settings.batch_timeout_seconds
        batch = _Batch(messages, control, start_until, [NotAttempted()] * len(messages))
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
            exchange.handle.close()
        self._idle.clear()
        self._multi.close()

    def _start(self, batch: _Batch) -> bool:
        """Give idle handles the next messages while that is allowed. Returns whether any are in flight."""
        while (
            self._idle
            and batch.started < len(batch.messages)
            and not batch.control.start_no_more()
            and (now := self._clock.monotonic()) < batch.start_until
        ):
            self._send(batch, batch.started, now)
            batch.started += 1
        return bool(self._busy)

    def _send(self, batch: _Batch, position: int, began_at: float) -> None:
        message = batch.messages[position]
        if not _KEY.fullmatch(message.id):
            batch.outcomes[position] = self._unsendable("invalid_id", "its id cannot stand in a header field")
            return
        try:
            body = self._body.encode(message)
        except MissingFieldError as error:
            batch.outcomes[position] = self._unsendable("missing_field", str(error))
            return
        except TypeError:
            batch.outcomes[position] = self._unsendable("not_unicode", "it cannot be written as UTF-8")
            return
        exchange = self._idle.pop()
        exchange.position = position
        exchange.began_at = began_at
        handle = exchange.handle
        handle.setopt(pycurl.POSTFIELDS, body)
        handle.setopt(pycurl.HTTPHEADER, [*self._header_list, f"{_KEY_HEADER}: {message.id}"])
        self._busy[handle] = exchange
        self._multi.add_handle(handle)

    def _collect(self, batch: _Batch) -> bool:
        """Turn whatever has ended into outcomes. Returns whether anything had."""
        _, answered, broken = self._multi.info_read(self._settings.concurrency)
        if not answered and not broken:
            return False
        now = self._clock.now()
        accepted = Accepted(now)
        accepted_statuses = self._settings.accepted_statuses
        for handle in answered:
            exchange = self._busy[handle]
            status = handle.getinfo(pycurl.RESPONSE_CODE)
            outcome = accepted if status in accepted_statuses else self._refused(batch, exchange, status, now)
            self._end(batch, exchange, outcome)
        for handle, error, text in broken:
            exchange = self._busy[handle]
            self._end(batch, exchange, self._broken(batch, exchange, error, text, now))
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

    def _end(self, batch: _Batch, exchange: _Exchange, outcome: Accepted | Failed) -> None:
        batch.outcomes[exchange.position] = outcome
        batch.control.note(outcome, exchange.began_at)
        self._release(exchange)

    def _release(self, exchange: _Exchange) -> None:
        self._multi.remove_handle(exchange.handle)
        del self._busy[exchange.handle]
        exchange.clear()
        self._idle.append(exchange)

    def _abandon(self, batch: _Batch) -> None:
        """Take back what is still in flight; its connections are closed."""
        for exchange in list(self._busy.values()):
            if exchange.may_have_arrived():
                batch.outcomes[exchange.position] = Failed(
                    FailureKind.UNKNOWN, "abandoned", "no answer was waited for", None, self._clock.now()
                )
            self._release(exchange)

    def _unsendable(self, category: str, detail: str) -> Failed:
        return Failed(FailureKind.PERMANENT, category, detail, None, self._clock.now())

    def _refused(self, batch: _Batch, exchange: _Exchange, status: int, now: datetime) -> Failed:
        kind = kind_of_status(status)
        wait = retry_after(exchange.header_lines, now) if kind is FailureKind.RETRYABLE else None
        message = batch.messages[exchange.position]
        private = (
            message.id,
            message.address,
            message.subject,
            message.text,
            *message.fields.values(),
            *self._settings.headers.values(),
        )
        said = excerpt(b"".join(exchange.body), private)
        return Failed(kind, f"http_{status}", f"HTTP {status}: {said}".rstrip(": "), wait, now)

    def _broken(
        self, batch: _Batch, exchange: _Exchange, error: int, text: str, now: datetime
    ) -> Accepted | Failed:
        status = exchange.final_status()
        if status in self._settings.accepted_statuses:
            return Accepted(now)
        if status:
            return self._refused(batch, exchange, status, now)
        kind, category = kind_of_error(error, was_sent=exchange.may_have_arrived())
        detail = _NOT_SENT_TWICE if error == pycurl.E_ABORTED_BY_CALLBACK else shorten(text)
        return Failed(kind, category, detail, None, now)


def _handle(settings: HttpSettings) -> pycurl.Curl:
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.URL, settings.url),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.PROXY, ""),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.POST, 1),
        (pycurl.USERAGENT, "Daybreak"),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.MAXFILESIZE, LONGEST_ANSWER),
        (pycurl.CONNECTTIMEOUT_MS, round(settings.connect_timeout_seconds * 1000)),
        (pycurl.TIMEOUT_MS, round(settings.total_timeout_seconds * 1000)),
        (pycurl.DNS_CACHE_TIMEOUT, DNS_CACHE_SECONDS),
        (pycurl.TCP_NODELAY, 1),
        (pycurl.NOSIGNAL, 1),
    ):
        handle.setopt(option, value)
    if settings.certificate_authorities is not None:
        handle.setopt(pycurl.CAINFO, settings.certificate_authorities)
    return handle


def _header_list(headers: Mapping[str, str]) -> list[str]:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if not any(name.lower() == "content-type" for name in headers):
        lines.append("Content-Type: application/json")
    return lines


def _check_headers(settings: HttpSettings) -> None:
    for name, value in settings.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"provider {settings.name}: header {name!r} is not a valid field")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"provider {settings.name}: header {name!r} is set by Daybreak itself")
