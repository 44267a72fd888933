"""Tenants, and what keeps them apart in the database: the session's tenant, which the policies of all tables ask for.

A connection that names no tenant sees all of them: so it is for the scheduler, the workers and the commands. The
setting is the session's, so a pooler between us and PostgreSQL must keep sessions apart (no transaction pooling).
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DisconnectionError, IntegrityError

from scheduler.errors import Conflict

_ADD: Final = text("INSERT INTO tenants (name) VALUES (:name) RETURNING id, name")
_LIST: Final = text("SELECT id, name FROM tenants ORDER BY id")
_EXISTS: Final = text("SELECT EXISTS (SELECT FROM tenants WHERE id = :id)")

_TELL: Final = "SELECT set_config('daybreak.tenant_id', %s, false)"
_TOLD: Final = "daybreak_tenant_id"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose data stands apart from all others'."""

    id: int
    name: str


def add(connection: Connection, name: str) -> Tenant:
    """Add a tenant. Raises Conflict where the name is taken; the transaction is then lost."""
    try:
        return Tenant(*connection.execute(_ADD, {"name": name}).one())
    except IntegrityError:
        raise Conflict(f"a tenant named {name!r} exists already") from None


def list_all(connection: Connection) -> list[Tenant]:
    """All tenants, oldest first."""
    return [Tenant(*row) for row in connection.execute(_LIST)]


def exists(connection: Connection, tenant_id: int) -> bool:
    """Whether there is a tenant of this id."""
    return bool(connection.execute(_EXISTS, {"id": tenant_id}).scalar_one())


def keep_apart(engine: Engine, tenant_of_caller: Callable[[], int | None]) -> None:
    """Have each connection that `engine` lends name the tenant that `tenant_of_caller` says (None: none).

    Said only where the connection was last lent for another: one statement more then, none otherwise.
    """

    def tell(connection: psycopg.Connection[Any], record: Any, _lent: object) -> None:
        name_tenant(connection, record.info, tenant_of_caller())

    event.listen(engine, "checkout", tell)


def name_tenant(
    connection: psycopg.Connection[Any], info: MutableMapping[str, Any], tenant_id: int | None
) -> None:
    """Have a connection name a tenant, unless it does; `info` is what the pool notes of it.

    Raises DisconnectionError where the connection is lost.
    """
    if info.get(_TOLD) != tenant_id:
        _tell(connection, tenant_id)
        info[_TOLD] = tenant_id


def _tell(connection: psycopg.Connection[Any], tenant_id: int | None) -> None:
    """Outside of any transaction: one that is rolled back would take the setting back with it."""
    try:
        connection.autocommit = True
        try:
            connection.execute(_TELL, ["" if tenant_id is None else str(tenant_id)])
        finally:
            if not connection.closed:
                connection.autocommit = False
    except psycopg.OperationalError as error:
        # The pool then tries another connection.
        raise DisconnectionError(type(error).__name__) from error
