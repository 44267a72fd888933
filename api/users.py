"""Users: create, read, list, replace, change, delete. Each write says what it replanned."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from flask import Blueprint, Response

from api.answers import json_answer, time_of_day
from api.bodies import JSON, MERGE_PATCH, read_body
from api.queries import PageQuery, from_cursor, read_query, to_cursor, unknown_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.user import ExternalId, UserInput, UserPatch, ZoneName
from scheduler.errors import NotFound
from scheduler.registry import WrittenUser
from scheduler.store import users as stored_users
from scheduler.store.planning import Replanned
from scheduler.store.users import StoredUser

users = Blueprint("users", __name__, url_prefix="/api/v1/users")

_CURSOR_KIND: Final = "user"


class UserListQuery(PageQuery):
    """Which users to list."""

    timezone: ZoneName | None = None
    external_id: ExternalId | None = None


@users.post("")
def create_user() -> Response:
    """Add a user."""
    written = services().registry.create(tenant_id(), read_body(UserInput))
    location = f"{users.url_prefix}/{written.user.id}"
    return json_answer(_written_as_json(written), 201, {"Location": location})


@users.get("")
def list_users() -> Response:
    """A page of users in order of id; one who is created meanwhile comes later and moves nobody."""
    query = read_query(UserListQuery)
    found = _external(query) if query.external_id is not None else _page(query)
    shown, more = found[: query.limit], len(found) > query.limit
    next_cursor = to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None
    return json_answer({"users": [_as_json(user) for user in shown], "next_cursor": next_cursor})


@users.get("/<identity:user_id>")
def read_user(user_id: int) -> Response:
    """A user by id."""
    with services().reading() as connection:
        user = stored_users.find(connection, tenant_id(), user_id)
    if user is None:
        raise NotFound("user", user_id)
    return json_answer({"user": _as_json(user)})


@users.get("/external/<path:external_id>")
def read_external_user(external_id: str) -> Response:
    """A user by the id that the caller's own system gave them."""
    user = None
    if "\0" not in external_id:
        with services().reading() as connection:
            user = stored_users.find_external(connection, tenant_id(), external_id)
    if user is None:
        raise NotFound("user", external_id)
    return json_answer({"user": _as_json(user)})


@users.put("/<identity:user_id>")
def replace_user(user_id: int) -> Response:
    """Replace all of a user: what is not named is gone."""
    written = services().registry.replace(tenant_id(), user_id, read_body(UserInput))
    return json_answer(_written_as_json(written))


@users.patch("/<identity:user_id>")
def change_user(user_id: int) -> Response:
    """Change what is named; null removes (RFC 7396)."""
    patch = read_body(UserPatch, (MERGE_PATCH, JSON))
    return json_answer(_written_as_json(services().registry.patch(tenant_id(), user_id, patch)))


@users.delete("/<identity:user_id>")
def delete_user(user_id: int) -> Response:
    """Delete a user and what is scheduled for them."""
    return json_answer({"replanned": replanned_as_json(services().registry.delete(tenant_id(), user_id))})


def _page(query: UserListQuery) -> list[StoredUser]:
    """One user more than the page shows, so that it is known whether there is a next one."""
    with services().reading() as connection:
        return stored_users.page(
            connection,
            tenant_id(),
            after=_position(query.cursor),
            most=query.limit + 1,
            timezone=query.timezone,
        )


def _external(query: UserListQuery) -> list[StoredUser]:
    """The user of that external id, unless another filter or the cursor leaves them out."""
    with services().reading() as connection:
        user = stored_users.find_external(connection, tenant_id(), query.external_id or "")
    if user is None or user.id <= _position(query.cursor):
        return []
    return [user] if query.timezone in (None, user.values.timezone) else []


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    position = from_cursor(_CURSOR_KIND, cursor)
    if not (position.isdecimal() and len(position) <= 18):
        raise unknown_cursor()
    return int(position)


def _written_as_json(written: WrittenUser) -> dict[str, Any]:
    return {"user": _as_json(written.user), "replanned": replanned_as_json(written.replanned)}


def replanned_as_json(replanned: Replanned) -> dict[str, int]:
    """What a write changed in the message log, in messages."""
    return asdict(replanned)


def _as_json(user: StoredUser) -> dict[str, Any]:
    values = user.values
    preferred_time = values.preferred_time
    return {
        "id": user.id,
        "external_id": values.external_id,
        "first_name": values.first_name,
        "last_name": values.last_name,
        "email": values.email,
        "phone": values.phone,
        "push_token": values.push_token,
        "webhook_url": values.webhook_url,
        "timezone": values.timezone,
        "locale": values.locale,
        "preferred_time": None if preferred_time is None else time_of_day(preferred_time),
        "dates": values.dates,
        "attributes": values.attributes,
        "version": user.version,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }
