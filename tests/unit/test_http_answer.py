"""What answers of HTTP providers mean."""

from datetime import UTC, datetime, timedelta

import pycurl
import pytest

from worker.channels.http_answer import LONGEST_DETAIL, excerpt, kind_of_error, kind_of_status, retry_after
from worker.channels.port import FailureKind

NOW = datetime(2027, 2, 28, 9, 0, 0, 400_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ((408, 425, 429, 500, 502, 503, 504, 599), FailureKind.RETRYABLE),
        ((401, 403), FailureKind.PROVIDER),
        ((300, 301, 302, 307, 308, 400, 404, 409, 410, 413, 422), FailureKind.PERMANENT),
    ],
)
def test_kind_of_a_status(statuses: tuple[int, ...], kind: FailureKind) -> None:
    assert {kind_of_status(status) for status in statuses} == {kind}


@pytest.mark.parametrize(
    ("error", "was_sent", "expected"),
    [
        (pycurl.E_COULDNT_RESOLVE_HOST, False, (FailureKind.RETRYABLE, "resolve")),
        (pycurl.E_COULDNT_CONNECT, False, (FailureKind.RETRYABLE, "connect")),
        (pycurl.E_OPERATION_TIMEDOUT, False, (FailureKind.RETRYABLE, "connect_timeout")),
        (pycurl.E_SSL_CONNECT_ERROR, False, (FailureKind.RETRYABLE, "tls")),
        (pycurl.E_SEND_ERROR, False, (FailureKind.RETRYABLE, "transport")),
        (pycurl.E_OPERATION_TIMEDOUT, True, (FailureKind.UNKNOWN, "timeout")),
        (pycurl.E_RECV_ERROR, True, (FailureKind.UNKNOWN, "connection_lost")),
        (pycurl.E_GOT_NOTHING, True, (FailureKind.UNKNOWN, "connection_lost")),
    ],
)
def test_only_what_was_never_sent_is_known_not_to_have_been_accepted(
    error: int, was_sent: bool, expected: tuple[FailureKind, str]
) -> None:
    assert kind_of_error(error, was_sent=was_sent) == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1", 1),
        (b" 120 ", 120),
        (b"604800", 604_800),
        (b"Sun, 28 Feb 2027 09:02:00 GMT", 120),
        (b"Sunday, 28-Feb-27 09:02:00 GMT", 120),
        (b"Sun Feb 28 09:02:00 2027", 120),
    ],
)
def test_a_wait_in_each_form_of_rfc_9110(value: bytes, seconds: int) -> None:
    assert retry_after([b"Date: x\r\n", b"RETRY-After: " + value + b"\r\n"], NOW) == timedelta(
        seconds=seconds
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"-5",
        b"1.5",
        b"1e3",
        b"soon",
        b"604801",
        b"9" * 400,
        "٣".encode(),
        b"\xff",
        b"Sun, 28 Feb 2027 08:59:00 GMT",
        b"Fri, 31 Dec 9999 23:59:59 GMT",
        b"Sun, 30 Feb 2027 09:02:00 GMT",
        b"Sun, 28 Feb 2027 09:02:00 +9999",
    ],
)
def test_a_wait_that_is_garbled_past_or_absurd_is_ignored(value: bytes) -> None:
    assert retry_after([b"Retry-After: " + value + b"\r\n"], NOW) is None


def test_without_the_field_there_is_no_wait() -> None:
    assert retry_after([b"HTTP/1.1 503 x\r\n", b"\r\n"], NOW) is None


def test_an_excerpt_is_one_short_printable_line() -> None:
    text = excerpt(b"a\x00b\r\n\x1b[31mc \xff" + b"x" * 100_000, ())
    assert text.startswith("a b [31mc \ufffdxxx")
    assert len(text) == LONGEST_DETAIL


@pytest.mark.parametrize(
    "said", ["no such user: ANN@example.org", 'bad {"name":"Zo\\u00eb"}', 'bad "Zoë"', 'Say \\"hi\\" failed']
)
def test_an_excerpt_repeats_nothing_private(said: str) -> None:
    text = excerpt(said.encode(), ["ann@example.org", "Zoë", 'Say "hi"', "", "x"])
    assert "[…]" in text
    assert not any(part in text.lower() for part in ("ann", "example", "zo", "hi"))
