"""What a message in RabbitMQ says: which batch, and the trace it belongs to. Nothing personal."""

from __future__ import annotations

import json
import re
import secrets
from typing import Final, NamedTuple

CONTENT_TYPE: Final = "application/json"

# W3C Trace Context §3.2: version 00, trace id, parent id, flags.
_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Body(NamedTuple):
    """A decoded message."""

    batch_id: int
    traceparent: str


def new_traceparent() -> str:
    """A trace that begins here, sampled."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def encode(body: Body) -> bytes:
    """The body as it is published."""
    return json.dumps(body._asdict(), separators=(",", ":")).encode()


def decode(content: bytes) -> Body:
    """Read a body; raises ValueError for anything we did not write."""
    try:
        fields = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict) or fields.keys() != {"batch_id", "traceparent"}:
        raise ValueError("not a batch reference")
    body = Body(**fields)
    if type(body.batch_id) is not int or not _TRACEPARENT.fullmatch(str(body.traceparent)):
        raise ValueError("not a batch reference")
    return body
