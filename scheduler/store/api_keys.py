"""API keys. The text of a key is never stored, only its keyed hash.

Keys are found by their prefix whatever the tenant: who asks is not known before. All else names the tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from scheduler.domain.access import Role, Scope

USE_NOTED_AFTER: Final = timedelta(minutes=1)
"""How far the instant of a key's last use lies behind at most."""

_COLUMNS: Final = """
    id, tenant_id, name, prefix, role, scopes, created_at, created_by, expires_at, revoked_at, last_used_at,
    replaced_by"""

_ADD: Final = text(f"""
INSERT INTO api_keys (tenant_id, name, prefix, key_hash, role, scopes, created_at, created_by, expires_at)
VALUES (:tenant_id, :name, :prefix, :key_hash, :role, CAST(:scopes AS text[]), :now, :created_by, :expires_at)
RETURNING {_COLUMNS}""")

_BY_PREFIX: Final = text(f"SELECT {_COLUMNS}, key_hash FROM api_keys WHERE prefix = :prefix")

_FIND: Final = text(f"SELECT {_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND id = :id")

_LOCK: Final = text(f"SELECT {_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE")

_PAGE: Final = text(f"""
SELECT {_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND id > :after ORDER BY id LIMIT :most""")

_COUNT: Final = text("SELECT count(*) FROM api_keys WHERE tenant_id = :tenant_id")

_REVOKE: Final = text("""
UPDATE api_keys SET revoked_at = :now WHERE tenant_id = :tenant_id AND id = :id AND revoked_at IS NULL""")

_REPLACE: Final = text(f"""
UPDATE api_keys SET replaced_by = :replaced_by, expires_at = least(expires_at, :ends_at)
WHERE tenant_id = :tenant_id AND id = :id AND replaced_by IS NULL
RETURNING {_COLUMNS}""")

# Processes take turns: whoever comes later within the minute writes nothing.
_NOTE_USE: Final = text("""
UPDATE api_keys SET last_used_at = :now
WHERE id = :id AND (last_used_at IS NULL OR last_used_at <= :noted_before)""")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key without what proves it."""

    id: int
    tenant_id: int
    name: str
    prefix: str
    role: Role | None
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: int | None

    def is_valid(self, now: datetime) -> bool:
        """Whether it lets anybody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class CheckedKey:
    """A key with what a text that claims to be it must hash to."""

    key: StoredKey
    key_hash: bytes = field(repr=False)


def add(
    connection: Connection,
    tenant_id: int,
    *,
    name: str,
    prefix: str,
    key_hash: bytes,
    role: Role | None,
    scopes: Sequence[Scope],
    created_by: str,
    expires_at: datetime | None,
    now: datetime,
) -> StoredKey:
    """Keep a new key."""
    row = connection.execute(
        _ADD,
        {
            "tenant_id": tenant_id,
            "name": name,
            "prefix": prefix,
            "key_hash": key_hash,
            "role": role,
            "scopes": list(scopes),
            "created_by": created_by,
            "expires_at": expires_at,
            "now": now,
        },
    ).one()
    return _stored(row)


def by_prefix(connection: Connection, prefix: str) -> CheckedKey | None:
    """The key with this prefix, of whichever tenant."""
    row = connection.execute(_BY_PREFIX, {"prefix": prefix}).one_or_none()
    return None if row is None else CheckedKey(_stored(row), bytes(row.key_hash))


def find(connection: Connection, tenant_id: int, key_id: int) -> StoredKey | None:
    """A key by its id."""
    row = connection.execute(_FIND, {"tenant_id": tenant_id, "id": key_id}).one_or_none()
    return None if row is None else _stored(row)


def lock(connection: Connection, tenant_id: int, key_id: int) -> StoredKey | None:
    """A key by its id, which nobody else changes until the transaction ends."""
    row = connection.execute(_LOCK, {"tenant_id": tenant_id, "id": key_id}).one_or_none()
    return None if row is None else _stored(row)


def page(connection: Connection, tenant_id: int, *, after: int, most: int) -> list[StoredKey]:
    """Up to `most` keys in order of id, from the first one after the id `after`."""
    parameters = {"tenant_id": tenant_id, "after": after, "most": most}
    return [_stored(row) for row in connection.execute(_PAGE, parameters)]


def count(connection: Connection, tenant_id: int) -> int:
    """How many keys a tenant has, revoked ones among them."""
    return int(connection.execute(_COUNT, {"tenant_id": tenant_id}).scalar_one())


def revoke(connection: Connection, tenant_id: int, key_id: int, *, now: datetime) -> bool:
    """End a key at once; False where it had been, or where there is none."""
    parameters = {"tenant_id": tenant_id, "id": key_id, "now": now}
    return connection.execute(_REVOKE, parameters).rowcount > 0


def replace(
    connection: Connection, tenant_id: int, key_id: int, *, replaced_by: int, ends_at: datetime
) -> StoredKey | None:
    """Note a key's successor and end it at `ends_at`, unless it ends sooner; None where it has one already."""
    parameters = {"tenant_id": tenant_id, "id": key_id, "replaced_by": replaced_by, "ends_at": ends_at}
    row = connection.execute(_REPLACE, parameters).one_or_none()
    return None if row is None else _stored(row)


def note_use(connection: Connection, key_id: int, *, now: datetime) -> None:
    """Keep when a key was last used, unless that was noted less than `USE_NOTED_AFTER` ago."""
    connection.execute(_NOTE_USE, {"id": key_id, "now": now, "noted_before": now - USE_NOTED_AFTER})


def _stored(row: Row[Any]) -> StoredKey:
    known = frozenset(Scope)
    return StoredKey(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        prefix=row.prefix,
        role=None if row.role is None else Role(row.role),
        scopes=frozenset(Scope(scope) for scope in row.scopes if scope in known),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        replaced_by=row.replaced_by,
    )
