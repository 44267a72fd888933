"""Requests to one URL over connections that are kept: libcurl opens them, what goes over them is ours.

Promises
* A connection is made as libcurl makes it: names, certificates, no proxy of the environment, both limits of time.
* A request is sent once at most. Bytes of an answer that nobody waits for end their connection.
* The whole of an exchange, its connection included, ends within `total_timeout_seconds`.

A transfer of libcurl's costs some 12 µs of processor time, which only sends and receives; here it is half of that.
An exchange has one system call to send and one to receive, and connections are waited for with epoll.

Limits: one thread at a time; HTTP/1.1 alone. While connections are being made, they are looked at every
`CONNECTING_TICK_SECONDS`: libcurl and epoll cannot be waited for together.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Sequence
from threading import Event
from typing import Final

import pycurl

from scheduler.clock import SystemClock
from worker.channels.answer_rules import Answer
from worker.channels.http_framing import AnswerReader, AnswerTooLong, GarbledAnswer, RequestWriter
from worker.channels.http_request import Request
from worker.channels.http_settings import HttpSettings
from worker.channels.http_transport import (
    DNS_CACHE_SECONDS,
    IDLE_PAUSE_SECONDS,
    LONGEST_WAIT_SECONDS,
    Ended,
    Exchange,
    Trouble,
    longest_answer,
)

CONNECTING_TICK_SECONDS: Final = 0.002
LONGEST_IDLE_SECONDS: Final = 118.0
"""As libcurl has it: a connection without a request for longer may be forgotten on the way, and say nothing."""

_PIECE: Final = 8_192  # bytes received at once
_NOTHING: Final = Request((), b"", (), None)
_NO_STATUS: Final = Trouble(pycurl.E_GOT_NOTHING, "the connection was closed before an answer")
_TOO_LATE: Final = Trouble(pycurl.E_OPERATION_TIMEDOUT, "no answer in time")
_GARBLED: Final = Trouble(pycurl.E_UNSUPPORTED_PROTOCOL, "the answer was no HTTP/1.1")
_TOO_LONG: Final = Trouble(pycurl.E_FILESIZE_EXCEEDED, "the answer was too long")


class KeptConnection:
    """A place for one connection and the exchange that is on it."""

    __slots__ = (
        "_answer",
        "_curl",
        "_multi",
        "_unsent",
        "_was_sent",
        "awaits_room",
        "began_at",
        "deadline",
        "descriptor",
        "idle_since",
        "is_over",
        "request",
    )

    is_forbidden = False

    def __init__(self, settings: HttpSettings, url: str, share: pycurl.CurlShare) -> None:
        self.request = _NOTHING
        self.began_at = 0.0
        self.deadline = 0.0
        self.idle_since = 0.0
        """Both in real seconds, as libcurl counts."""
        self.descriptor = -1
        """Of the socket; -1: there is no connection."""
        self.awaits_room = False
        """Whether epoll is to tell when more can be sent."""
        self.is_over = False
        """Whether it has been told how the exchange ended."""
        self._answer = AnswerReader(longest_answer(settings))
        self._unsent: bytes | memoryview = b""
        self._was_sent = False
        self._multi: pycurl.CurlMulti | None = None
        self._curl = _connector(settings, url, share)

    def take(self, request: Request, written: bytes, began_at: float) -> None:
        """Become this request; nothing is sent yet."""
        self.request = request
        self.began_at = began_at
        self._unsent = written
        self._was_sent = False
        self.is_over = False

    def connect(self) -> None:
        """Begin to connect."""
        # Each has a multi of its own: one that is shared looks after its connections, and closes those that have
        # something to be read.
        self._multi = pycurl.CurlMulti()
        self._multi.add_handle(self._curl)

    def is_connected(self) -> bool:
        """Go on connecting. Returns whether that is done; raises pycurl.error where it failed."""
        assert self._multi is not None
        self._multi.perform()
        _, connected, failed = self._multi.info_read()
        if failed:
            _, error, text = failed[0]
            raise pycurl.error(error, text)
        if connected:
            self.descriptor = self._curl.getinfo(pycurl.ACTIVESOCKET)
        return bool(connected)

    def disconnect(self) -> None:
        """Close the connection, or give up making it."""
        if self._multi is not None:
            self.descriptor = -1
            self.awaits_room = False
            self._multi.remove_handle(self._curl)
            self._multi.close()
            self._multi = None

    def send(self) -> bool:
        """Send as much as can be sent at once. Returns whether that is all; raises pycurl.error."""
        unsent = self._unsent
        try:
            sent = self._curl.send(unsent)
            self._was_sent = True
            while sent < len(unsent):
                # What could not be sent is offered again from the same place in memory, as TLS demands.
                unsent = self._unsent = memoryview(unsent)[sent:]
                sent = self._curl.send(unsent)
        except BlockingIOError:
            return False
        self._unsent = b""
        return True

    def receive(self) -> Ended | None:
        """Take what has come. Returns how the exchange ended, if it has."""
        trouble: Trouble | None = None
        try:
            while data := self._curl.recv(_PIECE):
                if self._answer.feed(data):
                    return self._whole()
            if self._answer.end():
                return self._whole()
            trouble = _NO_STATUS
        except BlockingIOError:
            return None
        except GarbledAnswer:
            trouble = _GARBLED
        except AnswerTooLong:
            trouble = _TOO_LONG
        except pycurl.error as error:
            trouble = _trouble(error)
        return self.broken(trouble)

    def _whole(self) -> Ended:
        self.is_over = True
        return Ended(self, self._answer.status, None)

    def broken(self, trouble: Trouble) -> Ended:
        """How the exchange ended, as it broke off now."""
        self.is_over = True
        self._answer.keeps = False
        self._answer.take_partial_head()
        return Ended(self, self._answer.status, trouble)

    def is_quiet(self) -> bool:
        """Whether a connection without a request is open and has nothing to say."""
        try:
            self._curl.recv(1)
        except BlockingIOError:
            return True
        except pycurl.error:
            return False
        return False

    def is_reusable(self) -> bool:
        """Whether the connection may carry another request after this one."""
        return self._answer.keeps and not self._unsent

    def may_have_arrived(self) -> bool:
        """See `Exchange`."""
        return self._was_sent

    def answer(self, status: int, *, is_whole: bool) -> Answer:
        """See `Exchange`."""
        return Answer(status, self._answer.header_lines, b"".join(self._answer.body), is_whole)

    def forget(self) -> None:
        """Let go of the request and its answer."""
        self.request = _NOTHING
        self._unsent = b""
        self._answer.clear()

    def close(self) -> None:
        """Let go of everything."""
        self.disconnect()
        self._curl.close()


class KeptConnections:
    """The connections to one URL, which must be plain (`http_framing.is_plain_url`)."""

    def __init__(self, settings: HttpSettings, url: str) -> None:
        self._clock = SystemClock()  # libcurl's limits of time are real, too
        self._now = self._clock.monotonic()
        self._total_seconds = settings.total_timeout_seconds
        self._most = settings.concurrency
        self._writer = RequestWriter(settings, url)
        self._share = _share()
        # Open ones are taken from the right, so that some rest while there is little to do.
        self._free = deque(KeptConnection(settings, url, self._share) for _ in range(settings.concurrency))
        self._busy: dict[KeptConnection, None] = {}
        self._connecting: list[KeptConnection] = []
        self._by_descriptor: dict[int, KeptConnection] = {}
        self._broken: list[Ended] = []
        self._epoll = select.epoll()

    @property
    def has_room(self) -> bool:
        """See `Transport`."""
        return bool(self._free)

    @property
    def in_flight(self) -> Sequence[Exchange]:
        """See `Transport`."""
        return list(self._busy)

    def refresh(self) -> None:
        """See `Transport`."""
        self._now = self._clock.monotonic()
        for connection in [each for each in self._free if each.descriptor >= 0]:
            if self._now - connection.idle_since > LONGEST_IDLE_SECONDS:
                self._disconnect(connection)
        while events := self._poll(0.0):
            self._see_to(events)

    def start(self, request: Request, began_at: float) -> None:
        """See `Transport`."""
        connection = self._free.pop()
        self._busy[connection] = None
        connection.take(request, self._writer.write(request), began_at)
        connection.deadline = self._now + self._total_seconds
        if connection.descriptor >= 0:
            self._send(connection)
        else:
            connection.connect()
            self._connecting.append(connection)

    def ended(self) -> Sequence[Ended]:
        """See `Transport`."""
        if not self._busy:
            Event().wait(IDLE_PAUSE_SECONDS)
            return ()
        if self._connecting:
            self._go_on_connecting()
        ended = self._see_to(self._poll(0.0 if self._broken else self._patience()))
        self._now = self._clock.monotonic()
        ended += self._broken
        self._broken.clear()
        # In the order in which they were started; the first is the first to be late.
        if next(iter(self._busy)).deadline <= self._now:
            ended += self._late()
        return ended

    def release(self, exchange: Exchange) -> None:
        """See `Transport`."""
        assert isinstance(exchange, KeptConnection)
        del self._busy[exchange]
        if exchange.is_reusable():
            exchange.idle_since = self._now
            self._free.append(exchange)
        else:
            self._disconnect(exchange)
            self._free.appendleft(exchange)
        exchange.forget()

    def close(self) -> None:
        """See `Transport`."""
        for connection in [*self._busy, *self._free]:
            connection.close()
        self._busy.clear()
        self._free.clear()
        self._epoll.close()
        self._share.close()

    def _patience(self) -> float:
        longest = CONNECTING_TICK_SECONDS if self._connecting else LONGEST_WAIT_SECONDS
        return min(longest, max(0.0, next(iter(self._busy)).deadline - self._now))

    def _poll(self, seconds: float) -> list[tuple[int, int]]:
        return self._epoll.poll(seconds, self._most)

    def _see_to(self, events: list[tuple[int, int]]) -> list[Ended]:
        """Send and receive where that is possible now. Returns what has ended."""
        found: list[Ended] = []
        for descriptor, event in events:
            connection = self._by_descriptor[descriptor]
            if connection not in self._busy:
                if not connection.is_quiet():
                    self._free.remove(connection)
                    self._disconnect(connection)
                    self._free.appendleft(connection)
            elif connection.is_over:
                continue
            elif event & ~select.EPOLLOUT and (ended := connection.receive()) is not None:
                found.append(ended)
            elif event & select.EPOLLOUT:
                self._send(connection)
        return found

    def _send(self, connection: KeptConnection) -> None:
        try:
            is_sent = connection.send()
        except pycurl.error as error:
            # There may be an answer none the less: to a request that is too large, for instance.
            self._broken.append(connection.receive() or connection.broken(_trouble(error)))
            return
        if connection.awaits_room is is_sent:
            connection.awaits_room = not is_sent
            events = select.EPOLLIN if is_sent else select.EPOLLIN | select.EPOLLOUT
            self._epoll.modify(connection.descriptor, events)

    def _go_on_connecting(self) -> None:
        waiting, self._connecting = self._connecting, []
        for connection in waiting:
            try:
                if not connection.is_connected():
                    self._connecting.append(connection)
                    continue
            except pycurl.error as error:
                self._broken.append(connection.broken(_trouble(error)))
                continue
            self._by_descriptor[connection.descriptor] = connection
            self._epoll.register(connection.descriptor, select.EPOLLIN)
            self._send(connection)

    def _late(self) -> list[Ended]:
        late: list[Ended] = []
        for connection in self._busy:
            if connection.deadline > self._now:
                break
            if not connection.is_over:
                late.append(connection.broken(_TOO_LATE))
        return late

    def _disconnect(self, connection: KeptConnection) -> None:
        if connection.descriptor >= 0:
            self._epoll.unregister(connection.descriptor)
            del self._by_descriptor[connection.descriptor]
        elif connection in self._connecting:
            self._connecting.remove(connection)
        connection.disconnect()


def _trouble(error: pycurl.error) -> Trouble:
    number, *words = error.args
    return Trouble(int(number), str(words[0]) if words else "")


def _share() -> pycurl.CurlShare:
    share = pycurl.CurlShare()
    share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_DNS)
    share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_SSL_SESSION)
    return share


def _connector(settings: HttpSettings, url: str, share: pycurl.CurlShare) -> pycurl.Curl:
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.URL, url),
        (pycurl.CONNECT_ONLY, 1),
        (pycurl.SHARE, share),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.PROXY, ""),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.CONNECTTIMEOUT_MS, round(settings.connect_timeout_seconds * 1000)),
        (pycurl.TIMEOUT_MS, round(settings.total_timeout_seconds * 1000)),
        (pycurl.DNS_CACHE_TIMEOUT, DNS_CACHE_SECONDS),
        (pycurl.TCP_NODELAY, 1),
        (pycurl.NOSIGNAL, 1),
    ):
        handle.setopt(option, value)
    if settings.certificate_authorities is not None:
        handle.setopt(pycurl.CAINFO, os.fsencode(settings.certificate_authorities))
    return handle
