"""Answers as JSON: instants in RFC 3339 with `Z`, dates as YYYY-MM-DD, times of day as HH:MM."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from typing import Final

import orjson
from flask import Response

_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


def json_answer(
    value: object,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = "application/json",
) -> Response:
    """An answer with `value` as its body."""
    return Response(orjson.dumps(value, option=_OPTIONS), status, headers, content_type=media_type)


def time_of_day(value: time) -> str:
    """A time of day in whole minutes."""
    return value.isoformat("minutes")
