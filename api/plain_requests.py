"""Read the heads that nearly all requests have, in a tenth of the time that gunicorn's parser takes.

A head is plain where one pattern matches it whole and nothing in it needs thought: a usual method, a path, HTTP/1.1,
each field once, and none that tells how the message ends (but a `Content-Length` in digits), what the connection is
for, or which scheme a proxy was asked by. All others are gunicorn's to read, or to refuse. So nothing is accepted here
that gunicorn would not accept with the same meaning; tests/properties/test_plain_requests.py compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

LONGEST: Final = 8190
"""Bytes of a plain head: gunicorn's bound for one of its lines."""
_MOST_FIELDS: Final = 100
_MOST_DIGITS: Final = 15

# The quantifiers are possessive: what they have matched is not tried again in another way, so time is linear.
# The characters of a name are those of RFC 9110 §5.6.2 without "_", which in an environ is the same as "-".
_HEAD: Final = re.compile(
    r"(GET|HEAD|POST|PUT|PATCH|DELETE) (/(?!/)[!\"$->@-~]*+)(?:\?([!\"$-~]*+))? HTTP/1\.1\r\n"
    r"((?:[!#$%&'*+.^`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)*+)\r\n"
)

_NOT_PLAIN: Final = frozenset(
    {
        "EXPECT",
        "TE",
        "TRAILER",
        "TRANSFER-ENCODING",
        "UPGRADE",
        "X-FORWARDED-PROTO",
        "X-FORWARDED-PROTOCOL",
        "X-FORWARDED-SSL",
    }
)


class PlainRequest(NamedTuple):
    """A request of HTTP/1.1 after which the connection may be kept."""

    method: str
    environ: dict[str, Any]
    body_bytes: int
    head_bytes: int


def plain_request(held: bytes, environ: Mapping[str, Any]) -> PlainRequest | None:
    """The request that `held` begins with, its environ added to `environ`; None: it is not plain."""
    found = _HEAD.match(held[:LONGEST].decode("latin-1"))
    if found is None or found[4].count("\r\n") > _MOST_FIELDS:
        return None
    method, path, query, fields = found.groups()
    told = _fields(fields)
    length = "0" if told is None else told.get("CONTENT_LENGTH", "0")
    if told is None or not _is_length(length):
        return None
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    told |= environ
    told["REQUEST_METHOD"] = method
    told["PATH_INFO"] = path
    told["QUERY_STRING"] = query or ""
    return PlainRequest(method, told, int(length), found.end())


def _fields(lines: str) -> dict[str, Any] | None:
    """The fields of a head, as an environ names them; None: there is one that is not plain, or twice."""
    told: dict[str, Any] = {}
    for line in lines.split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        key = _key(name)
        if key is None or key in told:
            return None
        told[key] = value.strip(" \t")
    if told.get("HTTP_CONNECTION", "keep-alive") != "keep-alive":
        return None
    return told


@lru_cache(maxsize=256)
def _key(name: str) -> str | None:
    """How an environ calls a field; None: it is not plain."""
    name = name.upper()
    if name in _NOT_PLAIN:
        return None
    key = name.replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _is_length(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
