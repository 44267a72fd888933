"""HTTP/1.1 on a connection: a request as bytes, and an answer from bytes (RFC 9112).

What is sent is checked where it comes from: header templates, URLs and keys hold no line breaks. What is received is
taken as far as it is unambiguous. After anything else, and after bytes that nobody asked for, the connection is
used no more: the next answer on it could be taken for that of another request.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from worker.channels.http_request import NO_EXPECTATION, Line, Request
from worker.channels.http_settings import HttpSettings
from worker.channels.request_head import KEY_HEADER

LONGEST_HEAD: Final = 65_536  # bytes

# Without user, fragment, literal IPv6 addresses and names beyond ASCII.
_PLAIN_URL: Final = re.compile(r"https?://[a-z0-9._-]+(:[0-9]{1,5})?([/?][!-~]*)?", re.IGNORECASE)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_BEGINNING: Final = b"HTTP/1."
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_FRAMING: Final = re.compile(
    rb"\n(content-length|transfer-encoding|connection)[ \t]*:([^\n]*)", re.IGNORECASE
)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\n]*)?\r?\n")
_TRAILERS_END: Final = re.compile(rb"(?:^|\n)\r?\n")
_LINE_END: Final = b"\r\n"
_LONGEST_CHUNK_LINE: Final = 1_024  # bytes
_WITH_KEY: Final = f"%b%b{KEY_HEADER}: %b\r\nContent-Length: %d\r\n\r\n%b".encode()
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def is_plain_url(url: str) -> bool:
    """Whether requests to the URL can be written here."""
    return _PLAIN_URL.fullmatch(url) is not None and "#" not in url


class RequestWriter:
    """Writes the requests for one URL, which must be plain."""

    def __init__(self, settings: HttpSettings, url: str) -> None:
        parts = urlsplit(url)
        is_standard_port = parts.port in (None, 443 if parts.scheme == "https" else 80)
        host = parts.hostname if is_standard_port else f"{parts.hostname}:{parts.port}"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        own = {name.removesuffix("?").lower() for name in settings.headers}
        lines = [f"POST {target} HTTP/1.1", f"Host: {host}"]
        if "user-agent" not in own:
            lines.append("User-Agent: Daybreak")
        if "accept" not in own:
            lines.append("Accept: */*")
        if settings.basic_auth is not None and "authorization" not in own:
            lines.append(f"Authorization: Basic {b64encode(':'.join(settings.basic_auth).encode()).decode()}")
        self._first = b"".join(_written(lines))
        self._constant: Sequence[Line] | None = None
        self._beginning = b""

    def write(self, request: Request) -> bytes:
        """A request; its URL is not looked at."""
        if request.constant is not self._constant:
            self._constant = request.constant
            self._beginning = self._first + b"".join(_written(request.constant))
        own = b"".join(_written(request.lines)) if request.lines else b""
        body = request.body
        if request.key is None:
            return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._beginning, own, len(body), body)
        key = request.key.encode()
        return _WITH_KEY % (self._beginning, own, key, len(body), body)


def _written(lines: Iterable[Line]) -> list[bytes]:
    """Header lines as they are sent: one that ends in a semicolon has no value."""
    return [_line(line) for line in lines if line != NO_EXPECTATION]


def _line(line: Line) -> bytes:
    written = line.encode() if isinstance(line, str) else line
    return (written[:-1] + b":\r\n") if written.endswith(b";") and b":" not in written else written + b"\r\n"


class GarbledAnswer(Exception):
    """What came is no HTTP, or it cannot be told where it ends."""


class AnswerTooLong(Exception):
    """More came, or was announced, than is read."""


class _Framing(NamedTuple):
    """What a head says of the answer."""

    status: int
    is_chunked: bool
    length: int | None
    """Of the body; None: it ends with the connection, or its chunks say so."""
    keeps: bool
    """Whether the connection may be used again."""


@lru_cache(maxsize=64)
def _framing(head: bytes) -> _Framing:
    """Read a head. A provider's are often the same, all but the second of their date. Raises GarbledAnswer."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise GarbledAnswer
    status, is_current = int(line[2]), line[1] == b"1"
    said: dict[bytes, set[bytes]] = {
        b"content-length": set(),
        b"transfer-encoding": set(),
        b"connection": set(),
    }
    for name, value in _FRAMING.findall(head):
        said[name.lower()].add(value.strip().lower())
    lengths, codings, options = said.values()
    option = b",".join(options)
    keeps = b"close" not in option and (is_current or b"keep-alive" in option)
    if status < HTTPStatus.OK or status in _WITHOUT_BODY:
        return _Framing(status, False, 0, keeps)
    if codings:
        is_chunked = codings == {b"chunked"}
        return _Framing(status, is_chunked, None, keeps and is_chunked and not lengths)
    if not lengths:
        return _Framing(status, False, None, False)
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise GarbledAnswer
    return _Framing(status, False, int(length), keeps)


class AnswerReader:
    """Reads one answer after the other, each as its bytes come; `longest` is how many bytes of a body are taken."""

    __slots__ = ("_left", "_longest", "_next", "_pending", "_taken", "body", "head", "keeps", "status")

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self.status = 0
        """The final status; 0: it has not come yet."""
        self.head = b""
        self.body: list[bytes] = []
        self.keeps = False
        """Whether the connection may be used again; known once the answer is whole."""
        self._pending = b""
        self._taken = 0
        self._left = 0
        self._next: Callable[[bytes], bool] | None = None

    def clear(self) -> None:
        """Begin with the next answer."""
        self.status = 0
        self.head = self._pending = b""
        self.keeps = False
        self._taken = self._left = 0
        if self.body:
            self.body = []
        self._next = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes. Returns whether the answer is whole; raises GarbledAnswer and AnswerTooLong."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        return self._read_head(data) if self._next is None else self._next(data)

    def end(self) -> bool:
        """The connection has ended. Returns whether the answer is whole."""
        return self._next == self._read_to_the_end

    @property
    def header_lines(self) -> list[bytes]:
        """The lines of the head, as far as it came."""
        return self.head.splitlines(keepends=True)

    def take_partial_head(self) -> None:
        """Make do with what came of the head: a status counts from its line on."""
        line = _STATUS_LINE.match(self._pending) if not self.status else None
        if line is not None and int(line[2]) >= HTTPStatus.OK:
            self.status = int(line[2])
            self.head = self._pending[: self._pending.rfind(b"\n") + 1]

    def _read_head(self, data: bytes) -> bool:
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            found = _HEAD_END.search(data)
            if found is None:
                return self._await_head(data)
            end = found.end()
        head, rest = data[:end], data[end:]
        self._pending = head
        status, is_chunked, length, keeps = _framing(head)
        self._pending = b""
        if status < HTTPStatus.OK:
            return self._skip_interim(status, rest)
        self.status = status
        self.head = head
        self.keeps = keeps
        if length is not None:
            return self._begin_length(length, rest)
        self._next = self._read_chunks if is_chunked else self._read_to_the_end
        return self._next(rest)

    def _await_head(self, data: bytes) -> bool:
        if not data.startswith(_BEGINNING[: len(data)]):
            raise GarbledAnswer
        self._pending = data
        if len(data) > LONGEST_HEAD:
            raise GarbledAnswer
        return False

    def _skip_interim(self, status: int, rest: bytes) -> bool:
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise GarbledAnswer
        return self._read_head(rest) if rest else False

    def _begin_length(self, length: int, data: bytes) -> bool:
        if length > self._longest:
            self.body.append(data[: self._longest])
            raise AnswerTooLong
        self._left = length
        self._next = self._read_length
        return self._read_length(data)

    def _read_length(self, data: bytes) -> bool:
        left = self._left
        if len(data) < left:
            self._left -= len(data)
            self.body.append(data)
            return False
        if left:
            self.body.append(data[:left])
        return self._finish(len(data) > left)

    def _read_to_the_end(self, data: bytes) -> bool:
        self._take(data)
        return False

    def _read_chunks(self, data: bytes) -> bool:
        """Between chunks, or in one of which `_left` bytes are to come, the line break after it included."""
        while data:
            if self._left:
                data = self._read_chunk(data)
                continue
            line = _CHUNK.match(data)
            if line is None:
                if b"\n" in data or len(data) > _LONGEST_CHUNK_LINE:
                    raise GarbledAnswer
                self._pending = data
                return False
            size = int(line[1], 16)
            data = data[line.end() :]
            if size == 0:
                self._next = self._read_trailers
                return self._read_trailers(data)
            if size > self._longest:
                self._take(data)
                raise AnswerTooLong
            self._left = size + len(_LINE_END)
        return False

    def _read_chunk(self, data: bytes) -> bytes:
        """Take what there is of a chunk; returns what follows it."""
        left = self._left
        taken, rest = data[:left], data[left:]
        content = left - len(_LINE_END)
        if content > 0:
            self._take(taken[:content])
        ending = taken[max(content, 0) :]
        if ending and not _LINE_END[max(-content, 0) :].startswith(ending):
            raise GarbledAnswer
        self._left = left - len(taken)
        return rest

    def _read_trailers(self, data: bytes) -> bool:
        found = _TRAILERS_END.search(data)
        if found is not None:
            return self._finish(found.end() < len(data))
        if len(data) > LONGEST_HEAD:
            raise GarbledAnswer
        self._pending = data
        return False

    def _take(self, data: bytes) -> None:
        self._taken += len(data)
        self.body.append(data)
        if self._taken > self._longest:
            raise AnswerTooLong

    def _finish(self, has_more: bool) -> bool:
        if has_more:
            self.keeps = False
        return True
