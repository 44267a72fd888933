"""One reusable HTTP request: a libcurl handle, set up once with all that is constant, and what came back last."""

from __future__ import annotations

import os
import socket
from http import HTTPStatus
from typing import Final, NamedTuple

import pycurl

from worker.channels.answer_rules import Answer
from worker.channels.destination import DestinationPolicy
from worker.channels.http_request import Request
from worker.channels.http_settings import HttpSettings
from worker.channels.http_transport import DNS_CACHE_SECONDS, longest_answer

_NOTHING: Final = Request((), b"", (), None)


class _Address(NamedTuple):
    """What libcurl is about to connect to, as pycurl tells it."""

    family: int
    socktype: int
    protocol: int
    addr: tuple[str, int]


class Transfer:
    """A transfer of libcurl's under way, or one that can be. `url` is None where each request brings its own.

    With a `policy` it opens no connection to other addresses than that allows.
    """

    __slots__ = (
        "_opened",
        "_policy",
        "_refused_destination",
        "began_at",
        "body",
        "handle",
        "header_lines",
        "request",
        "was_sent",
    )

    def __init__(self, settings: HttpSettings, url: str | None, policy: DestinationPolicy | None) -> None:
        self.request = _NOTHING
        self.began_at = 0.0  # seconds of the monotonic clock
        self.was_sent = False
        self._refused_destination = False
        self.header_lines: list[bytes] = []
        self.body: list[bytes] = []
        self._policy = policy
        self._opened: list[socket.socket] = []
        self.handle = _handle(settings, url)
        self.handle.setopt(pycurl.HEADERFUNCTION, self.header_lines.append)
        self.handle.setopt(pycurl.WRITEFUNCTION, self.body.append)
        self.handle.setopt(pycurl.PREREQFUNCTION, self._before_sending)
        if policy is not None:
            self.handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)

    def take(self, request: Request, began_at: float) -> None:
        """Become this request."""
        self.request = request
        self.began_at = began_at
        handle = self.handle
        if request.url is not None:
            handle.setopt(pycurl.URL, request.url)
        handle.setopt(pycurl.POSTFIELDS, request.body)
        handle.setopt(pycurl.HTTPHEADER, request.header_lines())

    def may_have_arrived(self) -> bool:
        """Whether any byte of the request has left."""
        return self.was_sent and self.handle.getinfo(pycurl.REQUEST_SIZE) > 0

    @property
    def is_forbidden(self) -> bool:
        """Whether there was no address to connect to but refused ones."""
        return self._refused_destination and not self._opened

    def final_status(self) -> int:
        """The status of the answer, however much of it came; 0: there was none, or only an interim one."""
        status: int = self.handle.getinfo(pycurl.RESPONSE_CODE) if self.header_lines else 0
        return status if status >= HTTPStatus.OK else 0

    def answer(self, status: int, *, is_whole: bool) -> Answer:
        """What came back."""
        return Answer(status, self.header_lines, b"".join(self.body), is_whole)

    def clear(self) -> None:
        """Forget the last request."""
        self.was_sent = False
        self.header_lines.clear()
        self.body.clear()
        if self._policy is not None:
            self._refused_destination = False
            self._close_sockets()

    def close(self) -> None:
        """Let go of the handle."""
        self.handle.close()
        self._close_sockets()

    def _before_sending(self, *_: object) -> int:
        """Called by libcurl each time it is about to send the request: once is enough."""
        if self.was_sent:
            return pycurl.PREREQFUNC_ABORT
        self.was_sent = True
        return pycurl.PREREQFUNC_OK

    def _open_socket(self, _purpose: int, address: _Address) -> socket.socket | int:
        """Called by libcurl with the very address it is about to connect to."""
        assert self._policy is not None
        host, port = address.addr[:2]
        if address.family not in (socket.AF_INET, socket.AF_INET6) or not self._policy.allows(host, port):
            self._refused_destination = True
            return pycurl.SOCKET_BAD
        opened = socket.socket(address.family, address.socktype, address.protocol)
        # libcurl works on a duplicate, and does not tell when it has made it.
        self._opened.append(opened)
        return opened

    def _close_sockets(self) -> None:
        for opened in self._opened:
            opened.close()
        self._opened.clear()


def _handle(settings: HttpSettings, url: str | None) -> pycurl.Curl:
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.PROXY, ""),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.POST, 1),
        (pycurl.USERAGENT, "Daybreak"),
        (pycurl.FOLLOWLOCATION, 0),
        # Not with a signature, which libcurl makes for the path as it writes it.
        (pycurl.PATH_AS_IS, settings.aws_sigv4 is None),
        (pycurl.MAXFILESIZE, longest_answer(settings)),
        (pycurl.CONNECTTIMEOUT_MS, round(settings.connect_timeout_seconds * 1000)),
        (pycurl.TIMEOUT_MS, round(settings.total_timeout_seconds * 1000)),
        (pycurl.DNS_CACHE_TIMEOUT, DNS_CACHE_SECONDS),
        (pycurl.TCP_NODELAY, 1),
        (pycurl.NOSIGNAL, 1),
    ):
        handle.setopt(option, value)
    if url is not None:
        handle.setopt(pycurl.URL, url)
    if settings.certificate_authorities is not None:
        handle.setopt(pycurl.CAINFO, os.fsencode(settings.certificate_authorities))
    if settings.basic_auth is not None:
        user, password = settings.basic_auth
        handle.setopt(pycurl.USERNAME, user.encode())
        handle.setopt(pycurl.PASSWORD, password.encode())
        handle.setopt(pycurl.HTTPAUTH, pycurl.HTTPAUTH_BASIC)
    if settings.aws_sigv4 is not None:
        handle.setopt(pycurl.AWS_SIGV4, settings.aws_sigv4)
    return handle
