"""An HTTP client for measuring: kept connections, one loop, nothing parsed that is not checked.

It costs some thirty microseconds a request, so that it takes little of the machine that it measures. For answers with a
Content-Length alone, which is all that the API sends to these requests.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector
from time import perf_counter
from typing import Final

_HEAD_ENDS: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length: "
_READ_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it is sent, and what its answer must be: the status, and bytes that the body holds."""

    content: bytes
    status: int
    holds: bytes


def request(
    method: str, path: str, body: object = None, *, status: int, holds: bytes, headers: Iterable[str] = ()
) -> Request:
    """A request with `body` as JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return Request("\r\n".join((*lines, "", "")).encode() + content, status, holds)


class _Connection:
    """One connection and the request that is under way on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request: Request | None = None
        self._received = b""
        self._started = 0.0

    def send(self, wanted: Request) -> None:
        self._request, self._received = wanted, b""
        self._started = perf_counter()
        self.socket.sendall(wanted.content)

    def receive(self) -> tuple[bytes, float] | None:
        """The body and the seconds it took; None: there is more to come. Raises RuntimeError for a wrong answer."""
        received = self.socket.recv(_READ_BYTES)
        self._received += received
        head, separator, body = self._received.partition(_HEAD_ENDS)
        if not received or (separator and _LENGTH not in head.lower()):
            raise RuntimeError(f"an answer without its length: {self._received[:200]!r}")
        if not separator or len(body) < int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]):
            return None
        seconds = perf_counter() - self._started
        self._check(head, body)
        return body, seconds

    def _check(self, head: bytes, body: bytes) -> None:
        wanted = self._request
        assert wanted is not None
        if int(head[9:12]) != wanted.status or wanted.holds not in body:
            raise RuntimeError(f"{wanted.content[:80]!r} was answered {head[:12]!r}: {body[:300]!r}")


def answers(port: int, requests: Iterable[Request], connections: int) -> Iterator[tuple[bytes, float]]:
    """Each answer's body and how many seconds it took, as they come, with one request under way a connection."""
    following = iter(requests)
    with ExitStack() as stack:
        selector = stack.enter_context(DefaultSelector())
        for _ in range(connections):
            connection = _Connection(port)
            stack.enter_context(closing(connection.socket))
            if (wanted := next(following, None)) is not None:
                selector.register(connection.socket, EVENT_READ, connection)
                connection.send(wanted)
        while selector.get_map():
            for key, _ in selector.select():
                connection = key.data
                if (answer := connection.receive()) is None:
                    continue
                if (wanted := next(following, None)) is None:
                    selector.unregister(connection.socket)
                else:
                    connection.send(wanted)
                yield answer
