"""The part of the server that serves: threads that wait for requests on one epoll, and answer what they find.

Gunicorn's parent, its parser of HTTP and its environ stay; its own threaded worker does not. That hands each request
from a thread that waits to one that works and back, over a queue and a pipe, and sends the head of an answer apart
from its body. Here whoever finds a request answers it and waits again: a connection is armed for one event, so one
thread alone has it. A client that sends nothing holds a connection, but no thread.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

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
        self.parser = get_parser(worker.cfg, client, address)
        self.is_idle = True
        self.ends_at = 0.0
        """When it is closed, if no request has come until then."""

    def holds_more(self) -> bool:
        """Whether the next request has been read already, or its beginning."""
        return bool(self.parser.unreader.buf.getvalue())


class ApiWorker(Worker):  # type: ignore[misc]  # gunicorn publishes no types
    """One process that serves.

    Answers what is no HTTP with a problem, logs neither addresses nor paths, and refuses connections once it stops.
    """

    def init_process(self) -> None:
        """Prepare, serve, return when told to stop."""
        self._epoll = select.epoll()
        self._waiting: dict[int, _Connection] = {}
        self._open: set[_Connection] = set()
        self._listening: dict[int, socket.socket] = {}
        self._is_full = False
        self._ending = threading.Event()
        self._ended_read, self._ended_write = os.pipe()
        super().init_process()

    def run(self) -> None:
        """Have the threads serve, and tell the parent each second that this process is well."""
        self._epoll.register(self._ended_read, select.EPOLLIN)
        for listener in self.sockets:
            listener.setblocking(False)
            self._listening[listener.fileno()] = listener
            self._epoll.register(listener.fileno(), _ONCE)
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

        A listening socket that stayed open would cut off whoever connects; a refused one tries elsewhere.
        """
        self.alive = False
        listening, self._listening = self._listening, {}
        for number, listener in listening.items():
            self._epoll.unregister(number)
            listener.close()
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

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError):  # which means that another process took it
                logger.bind(cause=type(error).__name__).warning("connection_not_accepted")
                self._ending.wait(_PAUSE_SECONDS)
            self._arm_listener(listener)
            return
        client.setblocking(True)
        connection = _Connection(self, client, address, listener.getsockname())
        self._open.add(connection)
        self._wait(connection, self._epoll.register)
        self._is_full = len(self._open) >= self.cfg.worker_connections
        if not self._is_full:
            self._arm_listener(listener)

    def _arm_listener(self, listener: socket.socket) -> None:
        try:
            self._epoll.modify(listener.fileno(), _ONCE)
        except (OSError, ValueError):
            logger.debug("listening_has_ended")

    def _wait(self, connection: _Connection, arm: Callable[[int, int], None]) -> None:
        """Leave a connection to whoever finds its next request."""
        connection.is_idle = True
        connection.ends_at = _CLOCK.monotonic() + self.cfg.keepalive
        number = connection.socket.fileno()
        self._waiting[number] = connection
        arm(number, _ONCE)

    def _answer(self, connection: _Connection) -> None:
        """Answer the request that has come, and those that came with it."""
        connection.is_idle = False
        while self._is_answered(connection):
            if not connection.holds_more():
                self._wait(connection, self._epoll.modify)
                return
        self._close(connection)

    def _is_answered(self, connection: _Connection) -> bool:
        """Answer one request; False: the connection is to be closed."""
        try:
            request = next(connection.parser)
            if not self._carry_out(connection, request):
                return False
            deadline = _CLOCK.monotonic() + _DRAIN_SECONDS
            return bool(connection.parser.finish_body(deadline=deadline))
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
            self._is_full = False
            for listener in list(self._listening.values()):
                self._arm_listener(listener)


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
