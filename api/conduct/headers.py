"""Headers of every answer: what browsers may do with it, and whether it is news to the caller."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from flask import Request

from api.answers import Answer, HeaderList
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
_KEPT: Final = ("Cache-Control", "private, no-cache")
_NOT_KEPT: Final = ("Cache-Control", "no-store")
_PLAIN_PATH: Final = re.compile("[A-Za-z0-9/_-]*")
"""A `Location` that the framework, which makes ASCII of it, leaves as it is."""


def security_headers(settings: Settings) -> HeaderList:
    """What every answer has unless its handler says otherwise; HSTS where the API is reached by HTTPS."""
    if settings.public_url is None or not settings.public_url.startswith("https://"):
        return _ALWAYS
    return (*_ALWAYS, ("Strict-Transport-Security", f"max-age={_YEAR_SECONDS}"))


class Completion:
    """Adds what every answer has unless its handler says otherwise."""

    def __init__(self, wanted: HeaderList) -> None:
        self._wanted = wanted
        self._names = frozenset(name.lower() for name, _ in wanted)

    def complete(self, answer: Answer) -> None:
        """Add what the answer has not; what says nothing of caches is kept by none."""
        present = {name.lower(): value for name, value in answer.headers}
        missing = self._wanted
        if not self._names.isdisjoint(present):
            missing = tuple(each for each in missing if each[0].lower() not in present)
        if "cache-control" not in present:
            missing = (*missing, _KEPT if "etag" in present else _NOT_KEPT)
        answer.further += missing
        answer.is_plain = (
            "content-length" in present
            and "content-location" not in present
            and _PLAIN_PATH.fullmatch(present.get("location", "")) is not None
        )


def answer_conditionally(request: Request, answer: Answer) -> None:
    """304 where `If-None-Match` names the tag of what was read (RFC 9110 §13.1.2)."""
    if (
        "HTTP_IF_NONE_MATCH" in request.environ
        and answer.status_code == HTTPStatus.OK
        and request.method in ("GET", "HEAD")
        and "ETag" in answer.headers
    ):
        answer.make_conditional(request)
