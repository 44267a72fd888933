"""Users: create, read, list, replace, change, delete, by id or by external id. Each write says what it replanned."""

from __future__ import annotations

from datetime import time
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from pydantic import ValidationError

from api.access import current_actor
from api.answers import json_answer, time_of_day
from api.bodies import JSON, MERGE_PATCH, read_body
from api.conditions import etag_of, expected_version
from api.endpoint import endpoint
from api.models.users import (
    DeletedUserAnswer,
    ExternalUserInput,
    OneUserAnswer,
    UserExportQuery,
    UserListAnswer,
    UserListQuery,
    WrittenUserAnswer,
)
from api.queries import InvalidQuery, NoQuery, id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.domain.user import BIRTHDAY, UserInput, UserPatch
from scheduler.errors import InvalidInput, NotFound
from scheduler.store import user_queries
from scheduler.store import users as stored_users
from scheduler.store.planning import Replanned
from scheduler.store.users import StoredUser
from scheduler.user_group import UserKey, WrittenUser

users = Blueprint("users", __name__, url_prefix="/api/v1/users")

_FIRST_TO_SEE_A_DAY: Final = "Pacific/Kiritimati"

_CURSOR_KIND: Final = "user"
_WRITE_ERRORS: Final = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


@users.post("")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    body=UserInput,
    answers={201: WrittenUserAnswer},
    errors=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def create_user() -> Response:
    """Add a user. The external id of somebody who was erased is a conflict, until it is allowed."""
    read_query(NoQuery)
    user = read_body(UserInput, more_errors=_birthday_errors)
    return _written(services().registry.create(tenant_id(), user, actor=current_actor()))


@users.get("")
@endpoint(
    Scope.USERS_READ,
    query=UserListQuery,
    answers={200: UserListAnswer},
    errors=(HTTPStatus.BAD_REQUEST,),
)
def list_users() -> Response:
    """A page of users in order of id; one who is created meanwhile comes later and moves nobody."""
    query = read_query(UserListQuery)
    check_day(query)
    after = id_from_cursor(_CURSOR_KIND, query.cursor) or 0
    with services().reading() as connection:
        found = user_queries.page(connection, tenant_id(), query.wanted, after=after, most=query.limit)
    next_cursor = None if found.next is None else to_cursor(_CURSOR_KIND, str(found.next))
    return json_answer({"users": [user_as_json(user) for user in found.users], "next_cursor": next_cursor})


@users.get("/<identity:user_id>")
@endpoint(Scope.USERS_READ, query=NoQuery, answers={200: OneUserAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def read_user(user_id: int) -> Response:
    """A user by id."""
    read_query(NoQuery)
    return _one(user_id)


@users.get("/external/<path:external_id>")
@endpoint(Scope.USERS_READ, query=NoQuery, answers={200: OneUserAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def read_external_user(external_id: str) -> Response:
    """A user by the id that the caller's own system gave them."""
    read_query(NoQuery)
    return _one(external_id)


@users.put("/<identity:user_id>")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    body=UserInput,
    answers={200: WrittenUserAnswer},
    errors=_WRITE_ERRORS,
)
def replace_user(user_id: int) -> Response:
    """Replace all of a user: what is not named is gone."""
    read_query(NoQuery)
    written = services().registry.replace(
        tenant_id(),
        user_id,
        read_body(UserInput, more_errors=_birthday_errors),
        expected_version=expected_version(),
        actor=current_actor(),
    )
    return _written(written)


@users.put("/external/<path:external_id>")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    body=ExternalUserInput,
    answers={200: WrittenUserAnswer, 201: WrittenUserAnswer},
    errors=(HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def put_external_user(external_id: str) -> Response:
    """Replace all of the user of this external id, or add them: 200 or 201.

    With `If-Match` nobody is added. To give a user another external id, change it by PATCH.
    """
    read_query(NoQuery)
    user = _named(read_body(ExternalUserInput, more_errors=_birthday_errors), external_id)
    written = services().registry.put(
        tenant_id(), user, expected_version=expected_version(), actor=current_actor()
    )
    return _written(written)


@users.patch("/<identity:user_id>")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    body=UserPatch,
    body_types=(MERGE_PATCH, JSON),
    answers={200: WrittenUserAnswer},
    errors=_WRITE_ERRORS,
)
def change_user(user_id: int) -> Response:
    """Change what is named; null removes (RFC 7396)."""
    return _change(user_id)


@users.patch("/external/<path:external_id>")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    body=UserPatch,
    body_types=(MERGE_PATCH, JSON),
    answers={200: WrittenUserAnswer},
    errors=_WRITE_ERRORS,
)
def change_external_user(external_id: str) -> Response:
    """Change what is named of the user of this external id; null removes (RFC 7396)."""
    return _change(external_id)


@users.delete("/<identity:user_id>")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    answers={200: DeletedUserAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED),
)
def delete_user(user_id: int) -> Response:
    """Delete a user and what is scheduled for them; added again, they have their id and their history back."""
    return _delete(user_id)


@users.delete("/external/<path:external_id>")
@endpoint(
    Scope.USERS_WRITE,
    query=NoQuery,
    answers={200: DeletedUserAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED),
)
def delete_external_user(external_id: str) -> Response:
    """Delete the user of this external id and what is scheduled for them."""
    return _delete(external_id)


def check_day(query: UserExportQuery) -> None:
    """Raise InvalidQuery for a day of no date."""
    if query.on is not None and query.date is None:
        raise InvalidQuery([FieldError("/date", "is required beside on")])


def replanned_as_json(replanned: Replanned) -> dict[str, int]:
    """What a write changed in the message log, in messages."""
    return {
        "planned": replanned.planned,
        "moved": replanned.moved,
        "kept": replanned.kept,
        "removed": replanned.removed,
    }


def _shown_time(value: time | None) -> str | None:
    return None if value is None else time_of_day(value)


def values_as_json(values: UserInput) -> dict[str, Any]:
    """A user as they were given to us."""
    return {
        "external_id": values.external_id,
        "first_name": values.first_name,
        "last_name": values.last_name,
        "email": values.email,
        "phone": values.phone,
        "push_token": values.push_token,
        "webhook_url": values.webhook_url,
        "timezone": values.timezone,
        "locale": values.locale,
        "preferred_time": _shown_time(values.preferred_time),
        "dates": values.dates,
        "attributes": values.attributes,
    }


def user_as_json(user: StoredUser) -> dict[str, Any]:
    """A user as stored."""
    return {
        "id": user.id,
        **values_as_json(user.values),
        "version": user.version,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }


def _named(given: ExternalUserInput, external_id: str) -> UserInput:
    """The user that is given, of the external id in the path. Raises InvalidInput."""
    if given.external_id not in ("", external_id):
        raise InvalidInput([FieldError("/external_id", "must be the one in the path, or left out")])
    user = UserInput.model_validate(given.model_dump() | {"external_id": external_id})
    if user.external_id != external_id:
        raise InvalidInput([FieldError("/external_id", "must have no blanks around it")])
    return user


def _change(key: UserKey) -> Response:
    read_query(NoQuery)
    patch = read_body(UserPatch, (MERGE_PATCH, JSON), _birthday_errors)
    version = expected_version()
    return _written(
        services().registry.patch(tenant_id(), key, patch, expected_version=version, actor=current_actor())
    )


def _birthday_errors(given: Any) -> list[FieldError]:
    """What today says of the birthday in a body that is refused anyway, so that all is said at once."""
    if not isinstance(given, dict) or not isinstance(given.get("dates"), dict):
        return []
    someone = {"external_id": "-", "first_name": "-", "dates": {BIRTHDAY: given["dates"].get(BIRTHDAY)}}
    for timezone in (given.get("timezone"), _FIRST_TO_SEE_A_DAY):
        try:
            return services().registry.problems(UserInput.model_validate(someone | {"timezone": timezone}))
        except ValidationError:
            continue
    return []


def _delete(key: UserKey) -> Response:
    read_query(NoQuery)
    version = expected_version()
    replanned = services().registry.delete(tenant_id(), key, expected_version=version, actor=current_actor())
    return json_answer({"replanned": replanned_as_json(replanned)})


def _one(key: UserKey) -> Response:
    row = stored_users.read(services().readers, tenant_id(), key)
    if row is None:
        raise NotFound("user", key)
    user = row._asdict()
    user["preferred_time"] = _shown_time(row.preferred_time)
    user["dates"] = dict(sorted(row.dates.items()))
    return json_answer({"user": user}, headers={"ETag": etag_of(row.version)})


def _written(written: WrittenUser) -> Response:
    user = written.user
    headers = {"ETag": etag_of(user.version)}
    status = HTTPStatus.OK
    if written.is_new:
        headers["Location"] = f"{users.url_prefix}/{user.id}"
        status = HTTPStatus.CREATED
    body = {"user": user_as_json(user), "replanned": replanned_as_json(written.replanned)}
    return json_answer(body, status, headers)
