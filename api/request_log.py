"""An id for each request, its place in a trace, and one log line: `request_served`.

A caller's `traceparent` (W3C Trace Context) is continued: the answer and the log have its trace id, with a span of
our own. Without one, or with one that breaks the standard's rules, the request begins a trace.

The line has the rule of the route, never the path, which may name a person. Limit: a request that the
server refuses before the application sees it (see `server`) has a line of its own there.
"""

from __future__ import annotations

import re
import uuid
from http import HTTPStatus
from typing import Final, cast

from flask import Flask, Response, g, request
from loguru import logger

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

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def register_request_log(app: Flask, clock: Clock) -> None:
    """Give each request of `app` its id and log it when it is answered."""

    def begin() -> None:
        g.started = clock.monotonic()
        given = request.headers.get(HEADER, "")
        own = uuid.uuid4().hex
        g.request_id = given if _ACCEPTED.fullmatch(given) else own
        g.trace_id, sampled = _trace() or (own, _NOT_SAMPLED)
        g.trace_parent = f"{_FIRST_VERSION}-{g.trace_id}-{own[16:]}-{sampled}"

    def finish(response: Response) -> Response:
        response.headers[HEADER] = request_id()
        response.headers[TRACE_HEADER] = g.trace_parent
        # A page that polls and finds nothing new is no news for the log either.
        level = "DEBUG" if response.status_code == HTTPStatus.NOT_MODIFIED else "INFO"
        logger.bind(
            method=request.method,
            route=route(),
            status=response.status_code,
            duration_ms=round((clock.monotonic() - g.started) * 1000, 1),
            request_id=request_id(),
            trace_id=g.trace_id,
        ).log(level, "request_served")
        return response

    app.before_request(begin)
    app.after_request(finish)


def request_id() -> str:
    """The id of the present request: the caller's where it is one that can be logged."""
    return cast("str", g.request_id)


def _trace() -> tuple[str, str] | None:
    """The id and the flags of the trace that the caller is in; None: of none that can be continued."""
    given = request.headers.get(TRACE_HEADER, "")
    found = _TRACE_PARENT.fullmatch(given) if given else None
    if found is None or (given.startswith(_FIRST_VERSION) and len(given) != _FIRST_VERSION_CHARACTERS):
        return None
    return found.group(1), found.group(2)


def route() -> str:
    """The rule that the present request matched, or `unmatched`."""
    return request.url_rule.rule if request.url_rule is not None else "unmatched"
