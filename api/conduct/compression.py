"""Answers in gzip for whoever takes them so: text of more than a kilobyte, whole or streamed.

Limits: gzip alone, which every client knows; nothing for HEAD. A secret next to what a caller can choose would leak
by its compressed length (BREACH): no answer holds both, since the one that shows a key holds nothing of others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from flask import Request, Response

from api.conditions import CODED

_LEAST_BYTES: Final = 1000
_LEVEL: Final = 4
_GZIP_WINDOW: Final = 31  # zlib: 15 bits of window, and 16 for the form of gzip
_TEXTS: Final = ("application/json", "application/problem+json", "application/x-ndjson", "text/")


def compress(request: Request, response: Response) -> None:
    """Compress the answer where that is worth it, and say that it depends on what the caller accepts."""
    body = response.response
    if isinstance(body, list) and sum(map(len, body)) < _LEAST_BYTES:
        return
    if not (response.content_type or "").startswith(_TEXTS) or response.direct_passthrough:
        return
    if response.cache_control.no_transform:
        return  # lines that tell of progress must not wait for a block to be full
    response.vary.add("Accept-Encoding")
    if _is_accepted(request) and "Content-Encoding" not in response.headers:
        _encode(response)


def _is_accepted(request: Request) -> bool:
    accepted = request.headers.get("Accept-Encoding", "")
    return request.method != "HEAD" and "gzip" in accepted and request.accept_encodings["gzip"] > 0


def _encode(response: Response) -> None:
    if response.is_streamed:
        response.response = _stream(response.response)
        response.headers.pop("Content-Length", None)
    else:
        packer = zlib.compressobj(_LEVEL, wbits=_GZIP_WINDOW)
        response.set_data(packer.compress(response.get_data()) + packer.flush())
    response.headers["Content-Encoding"] = "gzip"
    tag, is_weak = response.get_etag()
    if tag is not None:
        response.set_etag(tag + CODED, weak=bool(is_weak))


def _stream(parts: Iterable[bytes | str]) -> Iterator[bytes]:
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP_WINDOW)
    try:
        for part in parts:
            if packed := packer.compress(part.encode() if isinstance(part, str) else part):
                yield packed
        yield packer.flush()
    finally:
        if callable(close := getattr(parts, "close", None)):
            close()
