"""Answers on their way to the client: head and first part in one packet, the body framed as HTTP/1.1 has it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from scheduler.clock import SystemClock

_CLOCK: Final = SystemClock()

_CONTROLS: Final = bytes({*range(32), 127} - set(b"\t"))
"""What no field of a head holds (RFC 9110 §5.5)."""
_LENGTH: Final = "content-length"
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date"}
)
"""Fields that are not the application's to send."""
_LOOKED_AT: Final = _HOP_BY_HOP | {_LENGTH}
_LAST_CHUNK: Final = b"0\r\n\r\n"


@lru_cache(maxsize=4)
def _date(seconds: int) -> str:
    """An instant as HTTP writes it; most answers of a second share one."""
    return formatdate(seconds, usegmt=True)


class Answer:
    """The answer to one request."""

    def __init__(
        self, client: socket.socket, method: str, version: tuple[int, int], *, is_last: bool
    ) -> None:
        self.is_last = is_last
        """Whether the connection ends with it."""
        self._client = client
        self._method = method
        self._version = version
        self._head = b""
        self._has_begun = False
        self._has_body = False
        self._is_chunked = False
        self._left_bytes: int | None = None
        """What is still to come of a body whose length was announced."""

    def start(
        self, status: str, headers: Sequence[tuple[str, str]], error: object = None
    ) -> Callable[[bytes], None]:
        """Make the head, to be sent with what follows (PEP 3333, `start_response`).

        Raises RuntimeError where there is one already, ValueError where it cannot be sent.
        """
        if self._has_begun or (self._head and error is None):
            raise RuntimeError("the answer has begun")
        lines, length = ["", "", ""], None
        for name, value in headers:
            if (known := name.lower()) in _LOOKED_AT:
                if known != _LENGTH:
                    continue
                length = int(value)
            lines.append(f"{name}: {value}")
        self._has_body = not (self._method == "HEAD" or status[:3] in ("204", "304") or status[0] == "1")
        self._left_bytes = length if self._has_body else None
        self._is_chunked = self._has_body and length is None and self._version >= (1, 1)
        if self._is_chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self._has_body and length is None:
            self.is_last = True
        lines[0] = f"HTTP/{self._version[0]}.{self._version[1]} {status}"
        lines[1] = f"Date: {_date(int(_CLOCK.now().timestamp()))}"
        lines[2] = "Connection: close" if self.is_last else "Connection: keep-alive"
        self._head = _head(lines)
        return self.write

    def write(self, part: bytes) -> None:
        """Send a part of the body. Raises ValueError where it is more than was announced."""
        if not part or not self._has_body:
            return
        if self._left_bytes is not None:
            self._left_bytes -= len(part)
            if self._left_bytes < 0:
                raise ValueError("the body is longer than was announced")
        self._send(b"%x\r\n%b\r\n" % (len(part), part) if self._is_chunked else part)

    def close(self) -> None:
        """Send what is left: the head of an answer without a body, the end of one in chunks."""
        if self._is_chunked:
            self._send(_LAST_CHUNK)
        elif not self._has_begun:
            self._send(b"")
        if self._left_bytes:
            self.is_last = True  # the client waits for more, and would take the next answer for it

    def _send(self, data: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            data = self._head + data
        self._client.sendall(data)


def _head(lines: list[str]) -> bytes:
    """The lines as they are sent. Raises ValueError where one of them holds what would end it."""
    head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
    between = 2 * (len(lines) + 1)
    if len(head.translate(None, _CONTROLS)) != len(head) - between:
        raise ValueError("a field of the answer's head holds a control character")
    return head
