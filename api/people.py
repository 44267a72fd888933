"""Whom a path means: a user by id, or by the id that the caller's own system gave them."""

from __future__ import annotations

from sqlalchemy import Connection

from api.services import services
from api.tenancy import tenant_id
from scheduler.errors import NotFound
from scheduler.store import users as stored_users
from scheduler.store.users import StoredUser
from scheduler.user_group import UserKey


def user_of(connection: Connection, key: UserKey) -> StoredUser:
    """The user of this id or external id. Raises NotFound."""
    if isinstance(key, int):
        found = stored_users.find(connection, tenant_id(), key)
    else:
        found = None if "\0" in key else stored_users.find_external(connection, tenant_id(), key)
    if found is None:
        raise NotFound("user", key)
    return found


def user_id_of(external_id: str) -> int:
    """The id of the user of this external id. Raises NotFound."""
    with services().reading() as connection:
        return user_of(connection, external_id).id
