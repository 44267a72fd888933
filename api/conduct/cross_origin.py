"""Cross-origin requests (CORS): pages of the origins on the list may call the API, all others may not.

No credentials are allowed: callers prove who they are by a header that their page adds, never by a cookie.
"""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Final

from flask import Request, Response
from flask.globals import request_ctx

REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Prefer",
    "Traceparent",
    "X-Request-Id",
)
ANSWER_HEADERS: Final = (
    "Daybreak-Now",
    "ETag",
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Traceparent",
    "X-Request-Id",
)

_REMEMBERED_SECONDS: Final = 600


class Origins:
    """The origins whose pages may call."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    @property
    def any_allowed(self) -> bool:
        """Whether there is any."""
        return bool(self._allowed)

    def answer_preflight(self, request: Request) -> Response | None:
        """The answer to a browser that asks beforehand: it has no credentials yet."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        response = Response(status=HTTPStatus.NO_CONTENT)
        del response.headers["Content-Type"]
        if request.headers.get("Origin") in self._allowed and (methods := _methods()):
            response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
            response.headers["Access-Control-Allow-Headers"] = ", ".join(REQUEST_HEADERS)
            response.headers["Access-Control-Max-Age"] = str(_REMEMBERED_SECONDS)
        return response

    def allow(self, request: Request, response: Response) -> None:
        """Let the page that called read the answer, if its origin is on the list."""
        if not self._allowed:
            return
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in self._allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = ", ".join(ANSWER_HEADERS)


def _methods() -> list[str]:
    """What the path takes, by all its routes; none for a path that is none."""
    adapter = request_ctx.url_adapter
    return sorted(adapter.allowed_methods()) if adapter is not None else []
