"""What is read quickly is what gunicorn's parser reads, and it accepts whatever is."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import create
from hypothesis import given
from hypothesis import strategies as st

from api.plain_requests import LONGEST, plain_request

CLIENT = ("127.0.0.1", 40_000)
SERVER = ("127.0.0.1", 8080)
SETTINGS = Config()
REQUESTS = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH")


def told(environ: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in environ.items() if key in REQUESTS or key.startswith("HTTP_")}


def read_by_gunicorn(sent: bytes) -> tuple[dict[str, Any], Request, bytes]:
    """The environ, the request, and what follows its head."""
    unreader = IterUnreader([sent])
    request = Request(SETTINGS, unreader, CLIENT)
    _, environ = create(request, None, CLIENT, SERVER, SETTINGS, lambda *_: None)
    assert environ["wsgi.url_scheme"] == "http"
    return told(environ), request, unreader.take_buffered()


TEXTS = st.text(st.characters(max_codepoint=255), max_size=8)
NAMES = TEXTS | st.sampled_from(
    (
        *("Host", "host", "Content-Type", "content-type", "Content-Length", "Transfer-Encoding"),
        *("Connection", "Expect", "X-Forwarded-Proto", "X-Forwarded-For", "X_Under", "X-a!", "X(y"),
    )
)
VALUES = TEXTS | st.sampled_from(
    ("", "5", "0", "-1", "5, 5", " 7\t", "keep-alive", "close", "chunked", "https")
)
USUAL_END = ("\r\n",) * 9
ENDS = st.sampled_from((*USUAL_END, "\n", "\r", "\r\n ", " \r\n"))
FIELD = st.builds("{}{}{}{}".format, NAMES, st.sampled_from((*(":",) * 9, ": ", " :", "")), VALUES, ENDS)
TARGETS = TEXTS.map("/{}".format) | st.sampled_from(
    ("/", "/a/b?c=d", "/%C3%A9?x", "//a", "/a#b", "*", "http://h/a", "/?", "/a;b=c??d", "/[:]", "/a:b//c")
)
HEADS = st.builds(
    "{} {} {}{}{}{}".format,
    st.sampled_from(("GET", "HEAD", "POST", "PATCH", "DELETE", "get", "OPTIONS", "CONNECT", " GET")),
    TARGETS,
    st.sampled_from((*("HTTP/1.1",) * 9, "HTTP/1.0", "HTTP/2.0", "http/1.1")),
    ENDS,
    st.lists(FIELD, max_size=4).map("".join),
    ENDS,
).map(lambda head: head.encode("latin-1"))


@given(head=HEADS, rest=st.binary(max_size=12))
def test_a_plain_request_is_what_gunicorn_reads(head: bytes, rest: bytes) -> None:
    plain = plain_request(head + rest, {})
    if plain is None:
        return
    environ, request, following = read_by_gunicorn(head + rest)
    assert told(plain.environ) == environ
    assert not request.should_close()
    assert isinstance(request.body.reader, LengthReader)
    assert request.body.reader.length == plain.body_bytes
    assert (head + rest)[plain.head_bytes :] == following


HEAD = b"GET /users?a=%20 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nconnection: keep-alive\r\n\r\n"


def test_usual_requests_are_plain() -> None:
    for sent in (HEAD, HEAD.replace(b"GET", b"POST"), HEAD.replace(b"Length: 0", b"Length: 12") + HEAD):
        plain = plain_request(sent, {"REMOTE_ADDR": "127.0.0.1"})
        assert plain is not None
        assert plain.environ["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked",
        b"Content-Length: 0",
        b"Content-Length: +5",
        b"Host: y",
        b"X_Forwarded_For: y",
        b"X: \x00",
        b"X: a\nb",
        b"X : y",
        b" folded",
        b"Expect: 100-continue",
        b"X-Forwarded-Proto: https",
        b"Connection: close",
        b"X: " + b"x" * LONGEST,
        b"\r\n".join(b"X-%d: y" % number for number in range(100)),
    ],
)
def test_what_needs_thought_is_left_to_gunicorn(field: bytes) -> None:
    assert plain_request(HEAD[:-2] + field + b"\r\n\r\n", {}) is None


def test_gunicorn_refuses_what_is_no_http() -> None:
    for field in (b"Host: y", b"X: \x00", b"X : y", b" folded"):
        with pytest.raises(ParseException):
            read_by_gunicorn(HEAD[:-2] + field + b"\r\n\r\n")
