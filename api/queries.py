"""Read the query of a request into a model: nothing unknown, nothing twice, all errors at once."""

from __future__ import annotations

import base64
import binascii
from functools import cache
from typing import Annotated, Final, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import field_errors
from scheduler.errors import InvalidInput

MOST_IN_PAGE: Final = 200

_MOST_CURSOR_CHARACTERS: Final = 200
_MOST_ID_DIGITS: Final = 18


class InvalidQuery(InvalidInput):
    """A query that breaks rules; the pointer of each error is `/` and the name of a parameter."""


class NoQuery(BaseModel):
    """Of a resource that takes no parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PageQuery(NoQuery):
    """What every list takes. A cursor is what an earlier page gave as `next_cursor`, unchanged."""

    limit: Annotated[int, Field(ge=1, le=MOST_IN_PAGE)] = 50
    cursor: Annotated[str, Field(max_length=_MOST_CURSOR_CHARACTERS, pattern="^[A-Za-z0-9_-]*$")] | None = (
        None
    )


Query = TypeVar("Query", bound=BaseModel)


def read_query(model: type[Query]) -> Query:
    """The query of the present request. Raises InvalidQuery."""
    if not request.query_string:
        shared: Query = _without_parameters(model)
        return shared
    given = dict(request.args.lists())
    repeated = [FieldError(f"/{name}", "is given twice") for name, all_of in given.items() if len(all_of) > 1]
    if repeated:
        raise InvalidQuery(repeated)
    try:
        return model.model_validate_strings({name: all_of[0] for name, all_of in given.items()})
    except ValidationError as error:
        raise InvalidQuery(field_errors(error, model.model_fields, "parameter")) from None


@cache
def _without_parameters(model: type[Query]) -> Query:
    """What a query that says nothing means: nobody can change it, so all requests share it."""
    return model.model_validate_strings({})


def to_cursor(kind: str, position: str) -> str:
    """A position in the list of `kind` as callers see it: letters, digits, `-` and `_`."""
    return base64.urlsafe_b64encode(f"{kind}:{position}".encode()).decode().rstrip("=")


def from_cursor(kind: str, cursor: str) -> str:
    """The position that `to_cursor` was given. Raises InvalidQuery for anything it did not make."""
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        found, _, position = base64.b64decode(padded, b"-_", validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        raise unknown_cursor() from None
    if found != kind:
        raise unknown_cursor()
    return position


def id_from_cursor(kind: str, cursor: str | None) -> int | None:
    """The id in a cursor of a list in order of ids; None where there is no cursor. Raises InvalidQuery."""
    if cursor is None:
        return None
    position = from_cursor(kind, cursor)
    if not (position.isdecimal() and len(position) <= _MOST_ID_DIGITS):
        raise unknown_cursor()
    return int(position)


def unknown_cursor() -> InvalidQuery:
    """What to raise for a cursor that names no position."""
    return InvalidQuery([FieldError("/cursor", "must be the next_cursor of an earlier page of this list")])
