"""The part of the server that serves: threads that wait for requests on one epoll, and answer what they find.

Gunicorn's parent, its parser of HTTP and its environ stay; its own threaded worker does not. That hands each request
from a thread that waits to one that works and back, over a queue and a pipe, and sends the head of an answer apart
from its body. Here whoever finds a request answers it and waits again: a connection is armed for one event, so one
thread alone has it. A thread is taken by a whole head alone: a client that sends nothing, or a head byte by byte, holds
a connection for `_HEAD_SECONDS`, but no thread. One that sends its body too slowly loses its connection.

Limits: a thread waits for a body that was announced, so as many clients as there are threads delay all others, until
they are found too slow; a head is `_LONGEST_HEAD` at most.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
from gunicorn.http import get_parser
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
)
from gunicorn.http.wsgi import Response, create
from gunicorn.util import close_graceful
from gunicorn.workers.base import Worker
from loguru import logger

from api.problems import MEDIA_TYPE
from scheduler.clock import SystemClock

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_TICK_SECONDS: Final = 1.0
_LINGER_SECONDS: Final = 2.0
"""How long a stopping process waits for requests that clients may just be sending on connections they kept."""
_DRAIN_SECONDS: Final = 5.0
_HEAD_SECONDS: Final = 30.0
"""How long a client may take for the head of a request, once it has begun, or for its first."""
_BODY_SECONDS: Final = 30.0
_LEAST_BYTES_A_SECOND: Final = 1000
"""A body may keep us waiting for `_BODY_SECONDS`, and longer by a second for each of these that have come."""
_LONGEST_HEAD: Final = 65_536
_READ_BYTES: Final = 16_384
_HEAD_ENDS: Final = b"\r\n\r\n"
_PAUSE_SECONDS: Final = 0.1

_CLOCK: Final = SystemClock()

_REFUSALS: Final[dict[type[Exception], tuple[int, str]]] = {
    LimitRequestLine: (414, "URI Too Long"),
    LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    ExpectationFailed: (417, "Expectation Failed"),
}


@lru_cache(maxsize=4)
def _date(seconds: int) -> str:
    """An instant as HTTP writes it; most answers of a second share one."""
    return formatdate(seconds, usegmt=True)


class _Answer(Response):  # type: ignore[misc]  # gunicorn publishes no types
    """An answer whose head goes out with the first of its body: one packet for most."""

    headers_sent: bool
    _head = b""

    def send_headers(self) -> None:
        """Make the head, to be sent with what follows."""
        if not self.headers_sent:
            version = self.req.version
            kept = "close" if self.should_close() else "keep-alive"
            lines = [
                f"HTTP/{version[0]}.{version[1]} {self.status}",
                f"Date: {_date(int(_CLOCK.now().timestamp()))}",
                f"Connection: {kept}",
                *[f"{name}: {value}" for name, value in self.headers],
            ]
            if self.chunked:
                lines.append("Transfer-Encoding: chunked")
            self._head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data
        head, self._head = self._head, b""
        self.sock.sendall(head + framed)

    def close(self) -> None:
        """Send what is left: the head of an answer without a body, the end of one in chunks."""
        self.send_headers()
        rest = self._head + (b"0\r\n\r\n" if self.chunked else b"")
        self._head = b""
        if rest:
            self.sock.sendall(rest)


class _Connection:
    """A client's connection, with what has been read of it."""

    def __init__(self, worker: ApiWorker, client: socket.socket, address: Any, server: Any) -> None:
        self.socket = client
        self.address = address
        self.server = server
        self.is_idle = True
        self.ends_at = _CLOCK.monotonic() + _HEAD_SECONDS
        """When it is closed, if no request has come until then."""
        self._parser = get_parser(worker.cfg, self, address)
        self._received_bytes = 0
        self._waited_seconds = 0.0

    @property
    def held(self) -> bytes:
        """What has been read and belongs to no request yet: the next one, or its beginning."""
        held: bytes = self._parser.unreader.buf.getvalue()
        return held

    def has_head(self) -> bool:
        """Whether a request can be read without waiting, or is too long to be one."""
        held = self.held
        return _HEAD_ENDS in held or len(held) > _LONGEST_HEAD

    def is_read(self) -> bool:
        """Read what has come, without waiting; False: the client has ended it."""
        try:
            data = self.socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._parser.unreader.unread(self._parser.unreader.take_buffered() + data)
        return bool(data)

    def next_request(self) -> Any:
        """The request whose head has been read. Raises ParseException."""
        if _HEAD_ENDS not in self.held:
            raise LimitRequestHeaders("the head is too long")
        self._received_bytes = 0
        self._waited_seconds = 0.0
        return next(self._parser)

    def finish_body(self) -> bool:
        """Read what the application has left of a body; False: that is too much, or comes too slowly."""
        return bool(self._parser.finish_body(deadline=_CLOCK.monotonic() + _DRAIN_SECONDS))

    def recv(self, size: int) -> bytes:
        """More of a body, for the parser. Raises OSError where none comes, or too slowly."""
        before = _CLOCK.monotonic()
        data = self.socket.recv(size)
        self._received_bytes += len(data)
        self._waited_seconds += _CLOCK.monotonic() - before
        if self._waited_seconds > _BODY_SECONDS + self._received_bytes / _LEAST_BYTES_A_SECOND:
            raise TimeoutError
        return data

    def gettimeout(self) -> float | None:
        """The socket's, for the parser."""
        return self.socket.gettimeout()

    def settimeout(self, seconds: float | None) -> None:
        """The socket's, for the parser."""
        self.socket.settimeout(seconds)


class _Listener(NamedTuple):
    """A socket that clients connect to."""

    socket: socket.socket
    number: int
    name: Any


class ApiWorker(Worker):  # type: ignore[misc]  # gunicorn publishes no types
    """One process that serves.

    Answers what is no HTTP with a problem, logs neither addresses nor paths, and refuses connections once it stops.
    """

    def init_process(self) -> None:
        """Prepare, serve, return when told to stop."""
        self._epoll = select.epoll()
        self._waiting: dict[int, _Connection] = {}
        self._open: set[_Connection] = set()
        self._listening: dict[int, _Listener] = {}
        self._accepting = threading.Lock()
        self._is_full = False
        self._ending = threading.Event()
        self._ended_read, self._ended_write = os.pipe()
        super().init_process()

    def run(self) -> None:
        """Have the threads serve, and tell the parent each second that this process is well."""
        self._epoll.register(self._ended_read, select.EPOLLIN)
        for each in self.sockets:
            listener = _Listener(each.sock, each.fileno(), each.getsockname())
            listener.socket.setblocking(False)
            self._listening[listener.number] = listener
            self._epoll.register(listener.number, _ONCE)
        threads = [
            threading.Thread(target=self._serve, name=f"serving-{number}", daemon=True)
            for number in range(self.cfg.threads)
        ]
        for thread in threads:
            thread.start()
        while self.alive and self.ppid == os.getppid():
            self._tick(_TICK_SECONDS)
            self._close_silent(_CLOCK.monotonic())
        self._stop()
        self._ending.set()
        os.write(self._ended_write, b"x")
        for thread in threads:
            thread.join(_PAUSE_SECONDS)

    def _tick(self, seconds: float) -> None:
        """Wait, until a signal comes at most."""
        self.notify()
        if select.select([self.PIPE[0]], [], [], seconds)[0]:
            os.read(self.PIPE[0], 1)

    def _stop(self) -> None:
        """Take no more connections, and end those there are once what is under way is answered.

        A listening socket that stayed open would cut off whoever connects; a refused one tries elsewhere. Those who
        have connected already are taken, so that they are not cut off either.
        """
        self.alive = False
        with self._accepting:
            listening, self._listening = self._listening, {}
            for listener in listening.values():
                while self._is_taken(listener):
                    pass
                self._epoll.unregister(listener.number)
                listener.socket.close()
        now = _CLOCK.monotonic()
        lingers_until, ends_at = now + _LINGER_SECONDS, now + self.cfg.graceful_timeout
        while self._open and now < ends_at:
            self._tick(0.05)
            now = _CLOCK.monotonic()
            self._close_silent(now if now < lingers_until else float("inf"))

    def _close_silent(self, now: float) -> None:
        """Close connections that no request has come on for too long."""
        for number, connection in list(self._waiting.items()):
            if connection.ends_at <= now and self._waiting.pop(number, None) is connection:
                self._close(connection)

    def _serve(self) -> None:
        """One thread: wait for something, see to it, wait again."""
        while True:
            ((number, _),) = self._epoll.poll(maxevents=1)
            if number == self._ended_read:
                return
            if (listener := self._listening.get(number)) is not None:
                self._accept(listener)
            elif (connection := self._waiting.pop(number, None)) is not None:
                self._answer(connection)

    def _accept(self, listener: _Listener) -> None:
        """Take one connection, and have the next one taken."""
        with self._accepting:
            if listener.number not in self._listening:
                return
            self._is_taken(listener)
            self._is_full = len(self._open) >= self.cfg.worker_connections
            if not self._is_full:
                self._epoll.modify(listener.number, _ONCE)

    def _is_taken(self, listener: _Listener) -> bool:
        """Take a connection that waits; False: there is none."""
        try:
            client, address = listener.socket.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError):  # which means that another process took it
                logger.bind(cause=type(error).__name__).warning("connection_not_accepted")
                self._ending.wait(_PAUSE_SECONDS)
            return False
        client.setblocking(True)
        connection = _Connection(self, client, address, listener.name)
        self._open.add(connection)
        self._wait(connection, self._epoll.register)
        return True

    def _wait(self, connection: _Connection, arm: Callable[[int, int], None]) -> None:
        """Leave a connection to whoever finds that more has come."""
        connection.is_idle = True
        number = connection.socket.fileno()
        self._waiting[number] = connection
        arm(number, _ONCE)

    def _answer(self, connection: _Connection) -> None:
        """Answer the requests that have come whole; wait for the rest."""
        has_begun = bool(connection.held)
        if not connection.is_read():
            self._close(connection)
            return
        while connection.has_head():
            connection.is_idle = has_begun = False
            if not self._is_answered(connection):
                self._close(connection)
                return
        if not has_begun:
            seconds = _HEAD_SECONDS if connection.held else self.cfg.keepalive
            connection.ends_at = _CLOCK.monotonic() + seconds
        self._wait(connection, self._epoll.modify)

    def _is_answered(self, connection: _Connection) -> bool:
        """Answer one request; False: the connection is to be closed."""
        try:
            request = connection.next_request()
            return self._carry_out(connection, request) and connection.finish_body()
        except (NoMoreData, StopIteration, OSError) as error:
            # The client has left, or fell silent: anybody could fill the log by it.
            logger.bind(cause=type(error).__name__).debug("client_is_gone")
        except ParseException as error:
            _refuse(connection.socket, error)
        except Exception as error:
            logger.opt(exception=error).error("request_lost")
        return False

    def _carry_out(self, connection: _Connection, request: Any) -> bool:
        """Have the application answer; whether the connection may be kept."""
        answer, environ = create(
            request, connection.socket, connection.address, connection.server, self.cfg, _Answer
        )
        environ["wsgi.multithread"] = True
        if not self.alive:
            answer.force_close()
        parts = self.wsgi(environ, answer.start_response)
        try:
            for part in parts:
                answer.write(part)
            answer.close()
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return not answer.should_close()

    def _close(self, connection: _Connection) -> None:
        """Close a connection, so that the client has all of the answer (RFC 9112 §9.6)."""
        self._open.discard(connection)
        if connection.is_idle:
            connection.socket.close()
        else:
            close_graceful(connection.socket, timeout=_TICK_SECONDS)
        if self._is_full:
            with self._accepting:
                self._is_full = False
                for number in self._listening:
                    self._epoll.modify(number, _ONCE)


def _refuse(client: socket.socket, error: ParseException) -> None:
    """Answer a request that could not be read with a problem."""
    status, title = _REFUSALS.get(type(error), (400, "Bad Request"))
    logger.bind(status=status, cause=type(error).__name__).warning("request_refused")
    body = orjson.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": "the request is not valid HTTP",
        }
    )
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    try:
        client.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    except OSError:
        logger.debug("refused_client_is_gone")
