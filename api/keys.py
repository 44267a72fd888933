"""API keys: create, list, read, rotate, revoke. A key's text is in the answer that made it, and nowhere else.

Nobody gives away what they do not have: a key with rights that its creator lacks is refused, and so is the rotation
of one, whose answer would show such a key.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response

from api.access import current_actor, forbidden, forget_key
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.models.keys import (
    IssuedKeyAnswer,
    KeyInput,
    KeyListAnswer,
    OneKeyAnswer,
    RotationInput,
)
from api.queries import NoQuery, PageQuery, id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput, NotFound
from scheduler.keys import ApiKeys, IssuedKey, NewKey, grants_of
from scheduler.service import keys_for
from scheduler.store import api_keys as stored_keys
from scheduler.store.api_keys import StoredKey

api_keys = Blueprint("api_keys", __name__, url_prefix="/api/v1/api-keys")

_CURSOR_KIND: Final = "api-key"
_NOT_STORED: Final = {"Cache-Control": "no-store"}


@api_keys.post("")
@endpoint(
    Scope.KEYS_MANAGE,
    body=KeyInput,
    answers={201: IssuedKeyAnswer},
    errors=(HTTPStatus.UNPROCESSABLE_ENTITY,),
)
def create_key() -> Response:
    """Make a key. Its text is shown this once."""
    given = read_body(KeyInput)
    now = services().clock.now()
    if given.expires_at is not None and given.expires_at <= now:
        raise InvalidInput([FieldError("/expires_at", "must be in the future")])
    new = NewKey(given.name, given.role, frozenset(given.scopes or ()), given.expires_at)
    _refuse_more_than_own(new.grants)
    return _issued(_keys().create(current_actor(), new))


@api_keys.get("")
@endpoint(Scope.KEYS_MANAGE, query=PageQuery, answers={200: KeyListAnswer})
def list_keys() -> Response:
    """A page of keys in order of id, those that have ended among them."""
    query = read_query(PageQuery)
    after = id_from_cursor(_CURSOR_KIND, query.cursor) or 0
    with services().reading() as connection:
        found = stored_keys.page(connection, tenant_id(), after=after, most=query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    next_cursor = to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None
    return json_answer({"api_keys": [_as_json(key) for key in shown], "next_cursor": next_cursor})


@api_keys.get("/<identity:key_id>")
@endpoint(Scope.KEYS_MANAGE, query=NoQuery, answers={200: OneKeyAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def read_key(key_id: int) -> Response:
    """A key, without what proves it."""
    read_query(NoQuery)
    with services().reading() as connection:
        key = stored_keys.find(connection, tenant_id(), key_id)
    if key is None:
        raise NotFound("API key", key_id)
    return json_answer({"api_key": _as_json(key)})


@api_keys.post("/<identity:key_id>/rotate")
@endpoint(
    Scope.KEYS_MANAGE,
    body=RotationInput,
    answers={201: IssuedKeyAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def rotate_key(key_id: int) -> Response:
    """Make a key's successor, with the same rights; the old one ends after the overlap."""
    overlap = timedelta(seconds=read_body(RotationInput).overlap_seconds)
    issued = _keys().rotate(current_actor(), key_id, overlap=overlap, may=_refuse_more_than_own)
    with services().reading() as connection:
        old = stored_keys.find(connection, tenant_id(), key_id)
    if old is not None:
        forget_key(old.prefix)
    return _issued(issued)


@api_keys.delete("/<identity:key_id>")
@endpoint(Scope.KEYS_MANAGE, query=NoQuery, answers={200: OneKeyAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def revoke_key(key_id: int) -> Response:
    """End a key at once; other processes follow within seconds. Harmless to repeat."""
    read_query(NoQuery)
    key = _keys().revoke(current_actor(), key_id)
    forget_key(key.prefix)
    return json_answer({"api_key": _as_json(key)})


def _keys() -> ApiKeys:
    here = services()
    return keys_for(here.settings, here.engine, here.clock)


def _refuse_more_than_own(wanted: Collection[Scope]) -> None:
    missing = sorted(set(wanted) - current_actor().scopes)
    if missing:
        raise forbidden(missing[0])


def _issued(issued: IssuedKey) -> Response:
    location = f"{api_keys.url_prefix}/{issued.key.id}"
    body = {"api_key": _as_json(issued.key), "key": issued.text}
    return json_answer(body, 201, {"Location": location} | _NOT_STORED)


def _as_json(key: StoredKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "state": _state(key),
        "role": key.role,
        "scopes": sorted(grants_of(key)),
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "replaced_by": key.replaced_by,
    }


def _state(key: StoredKey) -> str:
    if key.is_valid(services().clock.now()):
        return "active"
    return "expired" if key.revoked_at is None else "revoked"
