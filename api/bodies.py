"""Read the body of a request as JSON, strictly: what two readers could take differently is refused.

RFC 8259 leaves duplicate names, NaN and numbers beyond a double to the reader, and RFC 7493 (I-JSON)
forbids them. Nesting is bounded before anything is parsed. Text that cannot be stored (NUL, halves of
surrogate pairs) is refused by the models, which know its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any, Final, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestEntityTooLarge, UnsupportedMediaType

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import field_errors
from scheduler.errors import InvalidInput

MOST_BODY_BYTES: Final = 1_048_576
"""Largest body of a request that is read as a whole."""

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"  # RFC 7396 §4

_DEEPEST_NESTING: Final = 32
_LARGEST_WHOLE: Final = 2**53

# A string, ended or not, is one token: so the scan is linear for any text.
_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

Model = TypeVar("Model", bound=BaseModel)


def _nothing_more(_given: Any) -> Collection[FieldError]:
    return ()


def read_body(
    model: type[Model],
    media_types: Collection[str] = (JSON,),
    more_errors: Callable[[Any], Collection[FieldError]] = _nothing_more,
) -> Model:
    """The body of the present request as a model.

    No body at all is an empty object where all may be left out. Raises UnsupportedMediaType, BadRequest for what is no
    JSON, or InvalidInput with all that is wrong: by the model, then by `more_errors`, which is asked only where the
    model refuses, about what is else looked at later.
    """
    if not _is_usual(media_types):
        if not request.mimetype and may_be_left_out(model, media_types) and not _text():
            return model()
        check_media_type(media_types)
    given = _parse(_text())
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InvalidInput([*field_errors(error, model.model_fields), *more_errors(given)]) from None


def may_be_left_out(model: type[BaseModel], media_types: Collection[str]) -> bool:
    """Whether a request without a body says what one with `{}` does; a patch that changes nothing is a mistake."""
    return MERGE_PATCH not in media_types and not any(
        each.is_required() for each in model.model_fields.values()
    )


def check_media_type(media_types: Collection[str]) -> str:
    """The media type of the body. Raises UnsupportedMediaType unless it is one of these, uncompressed UTF-8."""
    if request.mimetype not in media_types:
        raise UnsupportedMediaType(f"the Content-Type must be {' or '.join(media_types)}")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("the body must be UTF-8")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must not be compressed")
    return request.mimetype


def _is_usual(media_types: Collection[str]) -> bool:
    """Whether the body says of itself that it is one of these and nothing else, as nearly all do."""
    environ = request.environ
    return environ.get("CONTENT_TYPE") in media_types and "HTTP_CONTENT_ENCODING" not in environ


def check_complete(received_bytes: int) -> None:
    """Raise ClientDisconnected where the caller announced more than came: the rest is missing."""
    if request.content_length is not None and received_bytes < request.content_length:
        raise ClientDisconnected("the body ended before its Content-Length")


def _text() -> str:
    length = request.content_length
    body = _unannounced() if length is None else _announced(length)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} is out of place") from None


def _announced(length: int) -> bytes:
    if length > MOST_BODY_BYTES:
        raise RequestEntityTooLarge
    try:
        body: bytes = request.environ["wsgi.input"].read(length)
    except OSError as error:
        raise ClientDisconnected(str(error)) from None
    check_complete(len(body))
    return body


def _unannounced() -> bytes:
    # It is cut at the limit without a word: the limit is one more.
    request.max_content_length = MOST_BODY_BYTES + 1
    body = request.get_data(cache=False)
    if len(body) > MOST_BODY_BYTES:
        raise RequestEntityTooLarge
    return body


def _parse(text: str) -> Any:
    _bound_nesting(text)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None


def _bound_nesting(text: str) -> None:
    if text.count("[") + text.count("{") <= _DEEPEST_NESTING:
        return
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth > _DEEPEST_NESTING:
            raise BadRequest(f"the body is nested more than {_DEEPEST_NESTING} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            # As JSON writes it: in ASCII, whatever the name holds.
            raise BadRequest(f"the body has the name {json.dumps(name[:100])} twice in one object")
        result[name] = value
    return result


def _integer(digits: str) -> int:
    # Python refuses thousands of digits with a ValueError; no number of ours has more than a double's.
    return int(digits) if len(digits) < 300 else _refuse_number(digits)


def _finite(digits: str) -> float:
    """A number; a whole one is the same however it is written (1.0, 1e3), as JSON Schema has it."""
    value = float(digits)
    if not math.isfinite(value):
        return _refuse_number(digits)
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_WHOLE else value


def _refuse_number(_digits: str) -> NoReturn:
    raise BadRequest("the body has a number that is beyond a double or no number at all")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=_refuse_number
)
