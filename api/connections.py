"""Connections of clients: what has come on them, and the requests that are read from it.

A head is read when all of it is there, so no thread waits for one; a body is read while it is asked for, and one that
comes too slowly ends the connection. What is plain is read quickly (`plain_requests`), all else by gunicorn's parser.
"""

from __future__ import annotations

import io
import socket
from typing import Any, Final, NamedTuple

from gunicorn.http import get_parser
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.wsgi import base_environ, create

from api.plain_requests import PlainRequest, plain_request
from api.sent_answers import Answer
from scheduler.clock import SystemClock

_SHORT: Final = ("GET", "HEAD")
_DRAIN_SECONDS: Final = 5.0
_LEAST_BYTES_A_SECOND: Final = 1000
_LONGEST_HEAD: Final = 65_536
_READ_BYTES: Final = 16_384
_HEAD_ENDS: Final = b"\r\n\r\n"

_CLOCK: Final = SystemClock()


class Limits(NamedTuple):
    """What clients may take of one process."""

    connections: int = 1000
    """More wait until one of these ends."""
    head_seconds: float = 30.0
    """For the head of a request, once it has begun, or for the first one."""
    body_seconds: float = 30.0
    """For a body to keep a thread waiting, and longer by a second for each `_LEAST_BYTES_A_SECOND` that have come."""


USUAL: Final = Limits()


class Request(NamedTuple):
    """A request whose head has been read."""

    environ: dict[str, Any]
    answer: Answer
    is_short: bool
    """Whether nothing but its answer is to be waited for, which as a rule takes no time."""


class _PlainMessage(NamedTuple):
    """What gunicorn's parser has to know of the request before, in order to read on after its body."""

    body: Any

    def should_close(self) -> bool:
        """Whether the connection ends after it."""
        return False


class Connection:
    """A client's connection, with what has been read of it."""

    def __init__(
        self, client: socket.socket, addresses: tuple[Any, Any], settings: Any, limits: Limits
    ) -> None:
        """`addresses` are the client's and the server's; `settings` are gunicorn's."""
        self.socket = client
        self.is_idle = True
        self.ends_at = _CLOCK.monotonic() + limits.head_seconds
        """When it is closed, if no request has come until then."""
        self._addresses = addresses
        self._settings = settings
        self._limits = limits
        self._parser = get_parser(settings, self, addresses[0])
        self._environ = _environ(settings, *addresses)
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

    def next_request(self) -> Request:
        """The request whose head has been read. Raises ParseException."""
        held = self.held
        if _HEAD_ENDS not in held:
            raise LimitRequestHeaders("the head is too long")
        self._received_bytes = 0
        self._waited_seconds = 0.0
        if (plain := plain_request(held, self._environ)) is not None:
            return self._plain(plain, held[plain.head_bytes :])
        request = next(self._parser)
        _, environ = create(request, self.socket, *self._addresses, self._settings, _no_response)
        environ["wsgi.multithread"] = True
        has_body = getattr(request.body.reader, "length", None) != 0
        answer = Answer(self.socket, request.method, request.version, is_last=request.should_close())
        return Request(environ, answer, is_short=request.method in _SHORT and not has_body)

    def _plain(self, plain: PlainRequest, rest: bytes) -> Request:
        """A request that needs no parser; `rest` comes after its head."""
        unreader = self._parser.unreader
        unreader.take_buffered()
        body: Any
        if len(rest) >= plain.body_bytes:
            body, rest = io.BytesIO(rest[: plain.body_bytes]), rest[plain.body_bytes :]
            self._parser.mesg = None
        else:
            body = Body(LengthReader(unreader, plain.body_bytes))
            self._parser.mesg = _PlainMessage(body)
        if rest:
            unreader.unread(rest)
        plain.environ["wsgi.input"] = body
        is_short = plain.method in _SHORT and not plain.body_bytes
        return Request(plain.environ, Answer(self.socket, plain.method, (1, 1), is_last=False), is_short)

    def finish_body(self) -> bool:
        """Read what the application has left of a body; False: that is too much, or comes too slowly."""
        return bool(self._parser.finish_body(deadline=_CLOCK.monotonic() + _DRAIN_SECONDS))

    def recv(self, size: int) -> bytes:
        """More of a body, for the parser. Raises OSError where none comes, or too slowly."""
        before = _CLOCK.monotonic()
        data = self.socket.recv(size)
        self._received_bytes += len(data)
        self._waited_seconds += _CLOCK.monotonic() - before
        if self._waited_seconds > self._limits.body_seconds + self._received_bytes / _LEAST_BYTES_A_SECOND:
            raise TimeoutError
        return data

    def gettimeout(self) -> float | None:
        """The socket's, for the parser."""
        return self.socket.gettimeout()

    def settimeout(self, seconds: float | None) -> None:
        """The socket's, for the parser."""
        self.socket.settimeout(seconds)


def _environ(settings: Any, client: Any, server: Any) -> dict[str, Any]:
    """What an environ says of all requests on a connection (PEP 3333)."""
    environ: dict[str, Any] = base_environ(settings) | {
        "wsgi.multithread": True,
        "wsgi.url_scheme": "http",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SCRIPT_NAME": "",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
    }
    return environ


def _no_response(*_: object) -> None:
    """Gunicorn's answer, which `Answer` is in place of."""
