"""An id for each request, its place in a trace, and one log line: `request_served`.

A caller's `traceparent` (W3C Trace Context) is continued: the answer and the log have its trace id, with a span of
our own. Without one, or with one that breaks the standard's rules, the request begins a trace.

The line has the rule of the route, never the path, which may name a person. Limit: a request that the
server refuses before the application sees it (see `server`) has a line of its own there.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from secrets import token_hex
from typing import Any, Final, cast

from flask import Request, g, request
from loguru import logger

from api.answers import Answer
from scheduler.clock import Clock

HEADER: Final = "X-Request-Id"

TRACE_HEADER: Final = "Traceparent"

# Trace Context §3.2: later versions may append to these four fields.
_TRACE_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)
_FIRST_VERSION: Final = "00"
_FIRST_VERSION_CHARACTERS: Final = 55
_NOT_SAMPLED: Final = "00"

_ID_BYTES: Final = 16
_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestLog:
    """Gives each request its id, and logs it when it is answered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def begin(self, request: Request, g: Any) -> None:
        """Note in `g` when a request came, its id and its place in a trace."""
        environ = request.environ
        g.started = self._clock.monotonic()
        given = environ.get("HTTP_X_REQUEST_ID")
        own = token_hex(_ID_BYTES)
        g.request_id = given if given is not None and _ACCEPTED.fullmatch(given) else own
        g.trace_id, sampled = _trace(environ.get("HTTP_TRACEPARENT")) or (own, _NOT_SAMPLED)
        g.trace_parent = f"{_FIRST_VERSION}-{g.trace_id}-{own[16:]}-{sampled}"

    def finish(self, request: Request, g: Any, answer: Answer) -> None:
        """Say in the answer which request it is of, and write the line."""
        answer.further += ((HEADER, g.request_id), (TRACE_HEADER, g.trace_parent))
        status = answer.status_code
        # A page that polls and finds nothing new is no news for the log either.
        level = "DEBUG" if status == HTTPStatus.NOT_MODIFIED else "INFO"
        logger.bind(
            method=request.method,
            route=_rule(request),
            status=status,
            duration_ms=round((self._clock.monotonic() - g.started) * 1000, 1),
            request_id=g.request_id,
            trace_id=g.trace_id,
        ).log(level, "request_served")


def request_id() -> str:
    """The id of the present request: the caller's where it is one that can be logged."""
    return cast("str", g.request_id)


def _trace(given: str | None) -> tuple[str, str] | None:
    """The id and the flags of the trace that the caller is in; None: of none that can be continued."""
    found = _TRACE_PARENT.fullmatch(given) if given else None
    if (
        given is None
        or found is None
        or (given.startswith(_FIRST_VERSION) and len(given) != _FIRST_VERSION_CHARACTERS)
    ):
        return None
    return found.group(1), found.group(2)


def route() -> str:
    """The rule that the present request matched, or `unmatched`."""
    return _rule(request)


def _rule(request: Request) -> str:
    return request.url_rule.rule if request.url_rule is not None else "unmatched"
