"""Headers of every answer: what browsers may do with it, and whether it is news to the caller."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flask import Response, request

from scheduler.settings import Settings

_YEAR_SECONDS: Final = 31_536_000

# Answers of an API are data: a browser that is led to one loads nothing, runs nothing and shows it in no frame.
_ALWAYS: Final = (
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

HeaderList = tuple[tuple[str, str], ...]


def security_headers(settings: Settings) -> HeaderList:
    """What every answer has unless its handler says otherwise; HSTS where the API is reached by HTTPS."""
    if settings.public_url is None or not settings.public_url.startswith("https://"):
        return _ALWAYS
    return (*_ALWAYS, ("Strict-Transport-Security", f"max-age={_YEAR_SECONDS}"))


def add_missing(response: Response, wanted: HeaderList) -> None:
    """Add those of `wanted` that the answer has not; what says nothing of caches is kept by none."""
    headers = response.headers
    present = {name.lower() for name, _ in headers}
    for name, value in wanted:
        if name.lower() not in present:
            headers.add(name, value)
    if "cache-control" not in present:
        headers.add("Cache-Control", "private, no-cache" if "etag" in present else "no-store")


def answer_conditionally(response: Response) -> None:
    """304 where `If-None-Match` names the tag of what was read (RFC 9110 §13.1.2)."""
    if (
        response.status_code == HTTPStatus.OK
        and request.method in ("GET", "HEAD")
        and "If-None-Match" in request.headers
        and "ETag" in response.headers
    ):
        response.make_conditional(request)
