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


def kind_of_error(error: int, *, was_sent: bool) -> tuple[FailureKind, str]:
    """Kind and category of a libcurl error that ended a request before any status came.

    Only a request of which not a byte was sent is known not to have been accepted.
    """
    if was_sent:
        return FailureKind.UNKNOWN, _AFTER_SENDING.get(error, "connection_lost")
    return FailureKind.RETRYABLE, _BEFORE_SENDING.get(error, "transport")


def retry_after(header_lines: Sequence[bytes], now: datetime) -> timedelta | None:
    """The wait from `now` that the `Retry-After` field asks for (RFC 9110 §10.2.3), to the second.

    Takes a number of seconds or a date in any of the three forms of HTTP. None where there is no such
    field, or where it is garbled, not in the future, or beyond `LONGEST_RETRY_AFTER`: no statement of a
    provider is then better than ours.
    """
    for line in reversed(header_lines):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"retry-after":
            wait = _parse_wait(value.strip().decode("latin-1"), now)
            return wait if wait and timedelta(0) < wait <= LONGEST_RETRY_AFTER else None
    return None


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
    # A single letter gives nobody away, and would leave nothing to read.
    written = {form for value in private if len(value) > 1 for form in _forms(value)}
    if written:
        # The longest first, so that no value leaves a piece of a longer one that contains it.
        alternatives = "|".join(re.escape(form) for form in sorted(written, key=len, reverse=True))
        text = re.sub(alternatives, "[…]", text, flags=re.IGNORECASE)
    return shorten("".join(character if character.isprintable() else " " for character in text))


def _forms(value: str) -> tuple[str, str, str]:
    return value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]


def shorten(text: str) -> str:
    """`text` with its blanks collapsed, cut to `LONGEST_DETAIL`."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 1] + "…"
