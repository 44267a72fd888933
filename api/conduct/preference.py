"""`Prefer: return=minimal` (RFC 7240 §4.2): a write that is answered without what was written.

It is answered 204; `Location` and `ETag` stay, for they are news.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from flask import Request, Response

_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MINIMAL: Final = re.compile(r'(?:^|[,;])\s*return\s*=\s*"?minimal"?\s*(?:$|[,;])', re.IGNORECASE)


def shorten(request: Request, response: Response) -> None:
    """Drop the body of an answer to a write, where the caller would rather not have it."""
    if "HTTP_PREFER" not in request.environ or request.method not in _WRITES:
        return
    if response.is_streamed:
        return  # the work is done while it is sent
    if response.status_code in (HTTPStatus.OK, HTTPStatus.CREATED) and _MINIMAL.search(
        ",".join(request.headers.getlist("Prefer"))
    ):
        response.set_data(b"")
        response.status_code = HTTPStatus.NO_CONTENT
        for name in ("Content-Type", "Content-Length"):
            response.headers.pop(name, None)
        response.headers["Preference-Applied"] = "return=minimal"
