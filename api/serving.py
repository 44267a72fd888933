"""The part of the server that serves: threads that wait for requests on one epoll, and answer what they find.

Gunicorn's parent and its parser of HTTP stay; its own threaded worker does not. That hands each request from a thread
that waits to one that works and back, over a queue and a pipe, and sends the head of an answer apart from its body.
Here whoever finds a request answers it and waits again: a connection is armed for one event, so one thread alone has
it. Few threads wait at a time (`turns`). A thread is taken by a whole head alone: a client that sends nothing, or a
head byte by byte, holds a connection for `Limits.head_seconds`, but no thread. One that sends its body too slowly
loses its connection.

Limit: a thread waits for a body that was announced, so as many clients as there are threads delay all others, until
they are found too slow.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple
from uuid import uuid4

import orjson
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
)
from gunicorn.util import close_graceful
from gunicorn.workers.base import Worker
from gunicorn.workers.workertmp import WorkerTmp
from loguru import logger

from api.connections import USUAL, Connection, Limits, Request
from api.problems import MEDIA_TYPE
from api.turns import Turns
from scheduler.clock import SystemClock

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_TURNS: Final = 3
_TURN_SECONDS: Final = 0.01
"""What a short answer takes at most, on a machine that is busy."""
_TICK_SECONDS: Final = 1.0
_LINGER_SECONDS: Final = 2.0
"""How long a stopping process waits for requests that clients may just be sending on connections they kept."""
_PAUSE_SECONDS: Final = 0.1
_STANDSTILL_SECONDS: Final = 10.0
"""The parent looks at each process every second: where it did not for that long, it has stood still itself."""

_CLOCK: Final = SystemClock()

_REFUSALS: Final[dict[type[Exception], tuple[int, str]]] = {
    LimitRequestLine: (414, "URI Too Long"),
    LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    ExpectationFailed: (417, "Expectation Failed"),
}


class _Listener(NamedTuple):
    """A socket that clients connect to."""

    socket: socket.socket
    number: int
    name: Any


class Heartbeat(WorkerTmp):  # type: ignore[misc]  # gunicorn publishes no types
    """When a process was last well, as the parent sees it; not its fault is the time in which the parent stood still.

    In a container that was paused the parent may wake first, and would end processes for having been paused with it.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._asked_at = self._excused_at = _CLOCK.monotonic()

    def last_update(self) -> float:
        """When the process last said so, or when the parent went on after it had stood still."""
        now = _CLOCK.monotonic()
        if now - self._asked_at > _STANDSTILL_SECONDS:
            self._excused_at = now
        self._asked_at = now
        return max(float(super().last_update()), self._excused_at)


class ApiWorker(Worker):  # type: ignore[misc]  # gunicorn publishes no types
    """One process that serves.

    Answers what is no HTTP with a problem, logs neither addresses nor paths, and refuses connections once it stops.
    """

    limits: ClassVar[Limits] = USUAL
    tmp: WorkerTmp

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.tmp.close()
        self.tmp = Heartbeat(self.cfg)

    def init_process(self) -> None:
        """Prepare, serve, return when told to stop."""
        self._epoll = select.epoll()
        self._waiting: dict[int, Connection] = {}
        self._open: set[Connection] = set()
        self._listening: dict[int, _Listener] = {}
        self._turns = Turns(_TURNS, _TURN_SECONDS)
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
        threading.Thread(target=self._turns.watch, name="watching-turns", daemon=True).start()
        for thread in threads:
            thread.start()
        while self.alive and self.ppid == os.getppid():
            self._tick(_TICK_SECONDS)
            self._close_silent(_CLOCK.monotonic())
        self._stop()
        self._ending.set()
        self._turns.end()
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
        """One thread: wait for its turn, then for something, see to it, and so on."""
        self._turns.take()
        try:
            while self._is_seen_to(self._next()):
                if not self._turns.is_kept():
                    self._turns.take()
        finally:
            self._turns.pass_on()

    def _next(self) -> int:
        """The number of what something has come on."""
        ((number, _),) = self._epoll.poll(maxevents=1)
        self._turns.begin()
        return number

    def _is_seen_to(self, number: int) -> bool:
        """See to what has come; False: it is the end."""
        if (connection := self._waiting.pop(number, None)) is not None:
            self._answer(connection)
        elif (listener := self._listening.get(number)) is not None:
            self._accept(listener)
        return number != self._ended_read

    def _accept(self, listener: _Listener) -> None:
        """Take one connection, and have the next one taken."""
        with self._accepting:
            if listener.number not in self._listening:
                return
            self._is_taken(listener)
            # Said first, so that whoever ends a connection from here on has the next one taken.
            self._is_full = True
            if len(self._open) < self.limits.connections:
                self._is_full = False
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
        connection = Connection(client, (address, listener.name), self.cfg, self.limits)
        self._open.add(connection)
        self._wait(connection, self._epoll.register)
        return True

    def _wait(self, connection: Connection, arm: Callable[[int, int], None]) -> None:
        """Leave a connection to whoever finds that more has come."""
        connection.is_idle = True
        number = connection.socket.fileno()
        self._waiting[number] = connection
        arm(number, _ONCE)

    def _answer(self, connection: Connection) -> None:
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
            seconds = self.limits.head_seconds if connection.held else self.cfg.keepalive
            connection.ends_at = _CLOCK.monotonic() + seconds
        self._wait(connection, self._epoll.modify)

    def _is_answered(self, connection: Connection) -> bool:
        """Answer one request; False: the connection is to be closed."""
        try:
            request = connection.next_request()
            if not request.is_short:
                self._turns.pass_on()
            return self._carry_out(request) and connection.finish_body()
        except (NoMoreData, StopIteration, OSError) as error:
            # The client has left, or fell silent: anybody could fill the log by it.
            logger.bind(cause=type(error).__name__).debug("client_is_gone")
        except ParseException as error:
            _refuse(connection.socket, error)
        except Exception as error:
            logger.opt(exception=error).error("request_lost")
        return False

    def _carry_out(self, request: Request) -> bool:
        """Have the application answer; whether the connection may be kept."""
        answer = request.answer
        if not self.alive:
            answer.is_last = True
        parts = self.wsgi(request.environ, answer.start)
        try:
            for part in parts:
                answer.write(part)
            answer.close()
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return not answer.is_last

    def _close(self, connection: Connection) -> None:
        """Close a connection, so that the client has all of the answer (RFC 9112 §9.6)."""
        self._open.discard(connection)
        if connection.is_idle:
            connection.socket.close()
        else:
            self._turns.pass_on()
            close_graceful(connection.socket, timeout=_TICK_SECONDS)
        if self._is_full:
            with self._accepting:
                self._is_full = False
                for number in self._listening:
                    self._epoll.modify(number, _ONCE)


def _refuse(client: socket.socket, error: ParseException) -> None:
    """Answer a request that could not be read with a problem."""
    status, title = _REFUSALS.get(type(error), (400, "Bad Request"))
    request_id = uuid4().hex
    logger.bind(status=status, cause=type(error).__name__, request_id=request_id).warning("request_refused")
    body = orjson.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": "the request is not valid HTTP",
            "instance": "",  # what was asked for is not known
            "request_id": request_id,
        }
    )
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    try:
        client.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    except OSError:
        logger.debug("refused_client_is_gone")
