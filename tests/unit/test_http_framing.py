"""HTTP/1.1 answers from bytes, whole and in pieces, and requests as bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.channels.http_framing import (
    LONGEST_HEAD,
    AnswerReader,
    AnswerTooLong,
    GarbledAnswer,
    RequestWriter,
    is_plain_url,
)
from worker.channels.http_request import NO_EXPECTATION, Request
from worker.channels.http_settings import HttpSettings

LONGEST = 1_000

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "nothing": (OK + b"content-length:0\r\n\r\n", 200, b"", True),
    "no reason": (b"HTTP/1.1 429 \r\nContent-Length: 0\r\n\r\n", 429, b"", True),
    "not even a blank": (b"HTTP/1.1 429\r\nContent-Length: 0\r\n\r\n", 429, b"", True),
    "line feeds": (b"HTTP/1.1 202 Fine\nContent-Length: 2\n\nhi", 202, b"hi", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "not modified": (b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
    "closes": (OK + b"Content-Length: 2\r\nConnection: Close\r\n\r\nhi", 200, b"hi", False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
    "old and kept": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        True,
    ),
    "interim": (
        b"HTTP/1.1 103 Hints\r\nX: 1\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        True,
    ),
    "same length twice": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "chunks": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        200,
        b"hello",
        True,
    ),
    "trailers": (
        OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\nX: 1\r\nY: 2\r\n\r\n",
        200,
        b"a",
        True,
    ),
    "chunks and a length": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n",
        200,
        b"a",
        False,
    ),
}
GARBLED = {
    "mail": b"220 smtp.example.org ESMTP\r\n",
    "HTTP/2": b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
    "no number": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "negative": OK + b"Content-Length: -1\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "list of lengths": OK + b"Content-Length: 1, 1\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
    "no chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n",
    "long chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    "endless head": OK + b"X: 1\r\n" * LONGEST_HEAD,
}


def read(*pieces: bytes) -> tuple[AnswerReader, bool]:
    """What has been read after the pieces, and whether the answer is whole."""
    reader = AnswerReader(LONGEST)
    is_whole = False
    for piece in pieces:
        assert not is_whole, "nothing may follow"
        is_whole = reader.feed(piece)
    return reader, is_whole


@given(name=st.sampled_from(sorted(WHOLE)), cuts=st.sets(st.integers(1, 150)))
def test_an_answer_is_the_same_however_it_is_cut(name: str, cuts: set[int]) -> None:
    data, status, body, keeps = WHOLE[name]
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reader, is_whole = read(*(data[start:end] for start, end in pairwise(places)))
    assert (is_whole, reader.status, b"".join(reader.body), reader.keeps) == (True, status, body, keeps)


@pytest.mark.parametrize("name", GARBLED)
@pytest.mark.parametrize("piece", [1_000, 1_000_000])
def test_what_cannot_be_told_apart_is_garbled(name: str, piece: int) -> None:
    data = GARBLED[name]
    with pytest.raises(GarbledAnswer):
        read(*(data[place : place + piece] for place in range(0, len(data), piece)))


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "closes"])
def test_after_bytes_that_nobody_asked_for_the_connection_is_not_used_again(name: str) -> None:
    reader, is_whole = read(WHOLE[name][0] + b"HTTP/1.1 200 OK\r\n")
    assert is_whole
    assert not reader.keeps


def test_one_reader_reads_one_answer_after_the_other() -> None:
    reader = AnswerReader(LONGEST)
    for data, status, body, keeps in WHOLE.values():
        assert reader.feed(data)
        assert (reader.status, b"".join(reader.body), reader.keeps) == (status, body, keeps)
        reader.clear()


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    for head in (OK, OK + b"Transfer-Encoding: gzip\r\n"):
        reader, is_whole = read(head + b"\r\nhel", b"lo")
        assert not is_whole
        assert reader.end()
        assert (b"".join(reader.body), reader.keeps) == (b"hello", False)
    reader, _ = read(OK + b"Content-Length: 9\r\n\r\nhello")
    assert not reader.end()


@pytest.mark.parametrize(
    "beginning",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        OK + b"\r\n" + b"x" * 1001,
        OK + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n1f5\r\n" + b"x" * 501,
    ],
)
def test_more_than_is_read_is_too_long_and_has_its_status(beginning: bytes) -> None:
    reader = AnswerReader(LONGEST)
    with pytest.raises(AnswerTooLong):
        reader.feed(beginning)
    assert reader.status == 200


@pytest.mark.parametrize(
    ("came", "status", "lines"),
    [
        (
            b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nX-",
            503,
            [b"HTTP/1.1 503 Busy\r\n", b"Retry-After: 7\r\n"],
        ),
        (b"HTTP/1.1 503 Bu", 0, []),
        (b"HTTP/1.1 103 Early\r\nX: 1\r\n", 0, []),
        (
            OK + b"X: 1\r\nContent-Length: 5\r\n\r\nhe",
            200,
            [OK, b"X: 1\r\n", b"Content-Length: 5\r\n", b"\r\n"],
        ),
    ],
)
def test_a_status_counts_from_its_line_on(came: bytes, status: int, lines: list[bytes]) -> None:
    reader, is_whole = read(came)
    reader.take_partial_head()
    assert (is_whole, reader.status, reader.header_lines) == (False, status, lines)


@pytest.mark.parametrize(
    ("url", "beginning"),
    [
        ("http://Example.org", b"POST / HTTP/1.1\r\nHost: example.org\r\n"),
        ("https://example.org:443/a/../b?c=%20", b"POST /a/../b?c=%20 HTTP/1.1\r\nHost: example.org\r\n"),
        ("http://127.0.0.1:8080?x", b"POST /?x HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"),
    ],
)
def test_a_request_names_its_target_and_host(url: str, beginning: bytes) -> None:
    assert is_plain_url(url)
    assert (
        RequestWriter(HttpSettings("x", url), url).write(Request((0,), b"", (), None)).startswith(beginning)
    )


@pytest.mark.parametrize(
    "url", ["http://a:b@example.org/", "http://[::1]/", "http://example.org/#a", "http://é.org"]
)
def test_urls_that_are_left_to_libcurl(url: str) -> None:
    assert not is_plain_url(url)


def test_a_request_has_its_own_lines_those_of_all_and_the_defaults_that_are_not_replaced() -> None:
    url = "http://example.org/"
    settings = HttpSettings("x", url, headers={"user-agent?": "{id}"}, basic_auth=("user", "pass"))
    request = Request(
        (0,), b"{}", ["Content-Type: a/b", NO_EXPECTATION], "1.2", [b"User-Agent: me", b"X-Empty;"]
    )
    assert RequestWriter(settings, url).write(request).split(b"\r\n") == [
        b"POST / HTTP/1.1",
        b"Host: example.org",
        b"Accept: */*",
        b"Authorization: Basic dXNlcjpwYXNz",
        b"Content-Type: a/b",
        b"User-Agent: me",
        b"X-Empty:",
        b"Idempotency-Key: 1.2",
        b"Content-Length: 2",
        b"",
        b"{}",
    ]
