"""Answers as JSON: instants in RFC 3339 with `Z`, dates as YYYY-MM-DD, times of day as HH:MM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import time
from typing import TYPE_CHECKING, Any, Final

import orjson
from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
_WITHOUT_BODY: Final = frozenset({204, 304})

HeaderList = tuple[tuple[str, str], ...]


class _OwnHeaders(Headers):
    """Headers with values that are ours, which need no look at each."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._list = pairs


class Answer(Response):
    """What every answer of the application is made to be: one whose head costs little.

    `further` are headers that nobody has looked for and whose values are known to be fit for a header; they are sent
    after the others. An answer `is_plain` in whose head nothing is to be rewritten.
    """

    further: HeaderList = ()
    is_plain = False
    _is_followed = False

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """Have something done once the answer is sent."""
        self._is_followed = True
        return super().call_on_close(func)

    def get_wsgi_response(
        self, environ: WSGIEnvironment
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """Body, status and headers: of a plain answer as they are, without the framework's look at each of them."""
        if self._is_as_it_is(environ):
            return self.response, self.status, [*self.headers, *self.further]  # type: ignore[return-value]
        body, status, headers = super().get_wsgi_response(environ)
        return body, status, [*headers, *self.further]

    def _is_as_it_is(self, environ: WSGIEnvironment) -> bool:
        body = self.response
        return (
            self.is_plain
            and not self._is_followed
            and type(body) is list
            and len(body) == 1
            and type(body[0]) is bytes
            and self.status_code not in _WITHOUT_BODY
            and environ["REQUEST_METHOD"] != "HEAD"
        )


def json_answer(
    value: object,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = "application/json",
) -> Answer:
    """An answer with `value` as its body."""
    body = orjson.dumps(value, option=_OPTIONS)
    head = [("Content-Type", media_type), ("Content-Length", str(len(body)))]
    if headers:
        head.extend(headers.items())
    return Answer([body], status, _OwnHeaders(head))


def time_of_day(value: time) -> str:
    """A time of day in whole minutes."""
    return value.isoformat("minutes")
