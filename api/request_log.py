"""An id for each request, and one log line: `request_served`.

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

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def register_request_log(app: Flask, clock: Clock) -> None:
    """Give each request of `app` its id and log it when it is answered."""

    def begin() -> None:
        g.started = clock.monotonic()
        given = request.headers.get(HEADER, "")
        g.request_id = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex

    def finish(response: Response) -> Response:
        response.headers[HEADER] = request_id()
        # A page that polls and finds nothing new is no news for the log either.
        level = "DEBUG" if response.status_code == HTTPStatus.NOT_MODIFIED else "INFO"
        logger.bind(
            method=request.method,
            route=route(),
            status=response.status_code,
            duration_ms=round((clock.monotonic() - g.started) * 1000, 1),
            request_id=request_id(),
        ).log(level, "request_served")
        return response

    app.before_request(begin)
    app.after_request(finish)


def request_id() -> str:
    """The id of the present request: the caller's where it is one that can be logged."""
    return cast("str", g.request_id)


def route() -> str:
    """The rule that the present request matched, or `unmatched`."""
    return request.url_rule.rule if request.url_rule is not None else "unmatched"
