"""What an HTTP answer, or the lack of one, says about a message: plain functions of what was seen.

| seen | outcome |
|---|---|
| an accepted status, 2xx unless said otherwise | accepted |
| 408, 425, 429, any 5xx | failed, retryable, with the wait that `Retry-After` asks for |
| 401, 403 | failed, the provider's |
| any other status; 3xx too, as redirects are not followed | failed, permanent |
| no status, and nothing of the request was sent | failed, retryable |
| no status after the request, or a part of it, was sent | failed, unknown |

A status counts from its status line on: the rest of the answer may be late, too long or missing.
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import pycurl

from worker.channels.http_settings import WaitForm
from worker.channels.port import FailureKind

LONGEST_RETRY_AFTER: Final = timedelta(days=7)
LONGEST_DETAIL: Final = 200  # characters
LONGEST_EXCERPT_SOURCE: Final = 2_000  # bytes

_RETRYABLE: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
_PROVIDER: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

_BEFORE_SENDING: Final = {
    pycurl.E_COULDNT_RESOLVE_HOST: "resolve",
    pycurl.E_COULDNT_CONNECT: "connect",
    pycurl.E_OPERATION_TIMEDOUT: "connect_timeout",
    pycurl.E_SSL_CONNECT_ERROR: "tls",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls_certificate",
}
_AFTER_SENDING: Final = {
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_FTP_WEIRD_SERVER_REPLY: "garbled_answer",
    pycurl.E_UNSUPPORTED_PROTOCOL: "garbled_answer",
}


def kind_of_status(status: int) -> FailureKind:
    """Whom a status that is no acceptance concerns."""
    if status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return FailureKind.RETRYABLE
    return FailureKind.PROVIDER if status in _PROVIDER else FailureKind.PERMANENT


_IN_WORDS: Final = {
    "resolve": "the name of the host did not resolve",
    "connect": "the connection was refused or not possible",
    "connect_timeout": "no connection in time",
    "tls": "the TLS handshake failed",
    "tls_certificate": "the certificate was not accepted",
    "transport": "nothing could be sent",
    "timeout": "no answer in time",
    "garbled_answer": "the answer was no HTTP",
    "connection_lost": "the connection was lost before an answer",
}


def in_words(category: str) -> str:
    """What a category of `kind_of_error` means: instead of libcurl's words, which name hosts and addresses."""
    return _IN_WORDS[category]


def kind_of_error(error: int, *, was_sent: bool) -> tuple[FailureKind, str]:
    """Kind and category of a libcurl error that ended a request before any status came.

    Only a request of which not a byte was sent is known not to have been accepted.
    """
    if was_sent:
        return FailureKind.UNKNOWN, _AFTER_SENDING.get(error, "connection_lost")
    return FailureKind.RETRYABLE, _BEFORE_SENDING.get(error, "transport")


def header_value(header_lines: Sequence[bytes], name: str) -> str | None:
    """The value of a header field, the last one where it comes more than once; None: there is none."""
    wanted = name.lower().encode()
    for line in reversed(header_lines):
        written, _, value = line.partition(b":")
        if written.strip().lower() == wanted:
            return value.strip().decode("latin-1")
    return None


def retry_after(header_lines: Sequence[bytes], now: datetime) -> timedelta | None:
    """The wait from `now` that the `Retry-After` field asks for (RFC 9110 §10.2.3), to the second.

    Takes a number of seconds or a date in any of the three forms of HTTP. None where there is no such
    field, or where it is garbled, not in the future, or beyond `LONGEST_RETRY_AFTER`: no statement of a
    provider is then better than ours.
    """
    return wait_in(header_lines, "Retry-After", WaitForm.RETRY_AFTER, now)


def wait_in(header_lines: Sequence[bytes], name: str, form: WaitForm, now: datetime) -> timedelta | None:
    """The wait from `now` that the header `name` asks for in this form; None as for `retry_after`."""
    value = header_value(header_lines, name)
    if value is None:
        return None
    wait = _until_epoch(value, now) if form is WaitForm.EPOCH_SECONDS else _parse_wait(value, now)
    return wait if wait and timedelta(0) < wait <= LONGEST_RETRY_AFTER else None


def _until_epoch(value: str, now: datetime) -> timedelta | None:
    if not re.fullmatch(r"[0-9]{1,11}", value):
        return None
    return timedelta(seconds=int(value) - int(now.timestamp()))


def _parse_wait(value: str, now: datetime) -> timedelta | None:
    if re.fullmatch(r"[0-9]{1,9}", value):
        return timedelta(seconds=int(value))
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)) - now.replace(microsecond=0)
    except (ValueError, OverflowError):
        return None


def excerpt(body: bytes, private: Iterable[str]) -> str:
    """The beginning of an answer on one line, without the `private` values that it may repeat.

    Values are found in whatever case, also escaped as JSON does. One that the provider has encoded
    otherwise is not recognised, so the excerpt is for the log of attempts, not for logs that travel.
    """
    text = body[:LONGEST_EXCERPT_SOURCE].decode("utf-8", "replace")
    folded = _folded(text)
    # A single letter gives nobody away, and would leave nothing to read. Most values are not there at all, and
    # of a request with hundreds of messages there are too many for one expression.
    written = {
        form for value in private if len(value) > 1 for form in _forms(value) if _folded(form) in folded
    }
    if written:
        # The longest first, so that no value leaves a piece of a longer one that contains it.
        alternatives = "|".join(re.escape(form) for form in sorted(written, key=len, reverse=True))
        text = re.sub(alternatives, "[…]", text, flags=re.IGNORECASE)
    return shorten("".join(character if character.isprintable() else " " for character in text))


def _forms(value: str) -> tuple[str, str, str]:
    return value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]


def _folded(text: str) -> str:
    """The text in a case that is equal wherever an expression that ignores case finds it equal."""
    # U+0130 folds to i and a combining dot, and is found by an i alone.
    return text.casefold().replace("\u0307", "")


def shorten(text: str) -> str:
    """`text` with its blanks collapsed, cut to `LONGEST_DETAIL`."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"
