"""The audit log: who did what to what, kept in the transaction that did it, and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.access import Actor

_ADD: Final = text("""
INSERT INTO audit_log (at, tenant_id, actor, address, request_id, action, kind, subject, before, after)
VALUES (:now, :tenant_id, :actor, :address, :request_id, :action, :kind, :subject, CAST(:old AS jsonb),
        CAST(:new AS jsonb))""")

_COLUMNS: Final = "id, at, actor, address, request_id, action, kind, subject, before, after"

_CONDITIONS: Final[Mapping[str, str]] = {
    "actor": "actor = :actor",
    "action": "action = :action",
    "kind": "kind = :kind",
    "subject": "subject = :subject",
    "at_from": "at >= :at_from",
    "at_until": "at < :at_until",
}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What somebody did; `before` and `after` hold the fields that it changed."""

    id: int
    at: datetime
    actor: str
    address: str | None
    request_id: str | None
    action: str
    kind: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are meant; None: any. `at_from` is included, `at_until` is not."""

    actor: str | None = None
    action: str | None = None
    kind: str | None = None
    subject: str | None = None
    at_from: datetime | None = None
    at_until: datetime | None = None

    def named(self) -> dict[str, Any]:
        """The criteria that are given."""
        return {name: value for name in _CONDITIONS if (value := getattr(self, name)) is not None}


def add(
    connection: Connection,
    actor: Actor,
    action: str,
    kind: str,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    *,
    now: datetime,
) -> None:
    """Keep that `actor` did `action` (a constant word) to the `kind` of thing whose id is `subject`.

    `before` and `after` are what changed, as JSON has it: dates and instants as text.
    """
    connection.execute(_ADD, parameters(actor, action, kind, subject, before, after, now=now))


def parameters(
    actor: Actor,
    action: str,
    kind: str,
    subject: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    *,
    now: datetime,
) -> dict[str, Any]:
    """What a statement that adds an entry takes."""
    return {
        "now": now,
        "tenant_id": actor.tenant_id,
        "actor": actor.name,
        "address": actor.address,
        "request_id": actor.request_id,
        "action": action,
        "kind": kind,
        "subject": subject,
        "old": None if before is None else json.dumps(before, default=_in_words),
        "new": None if after is None else json.dumps(after, default=_in_words),
    }


def _in_words(value: object) -> str:
    """An instant in the form that the API gives it everywhere, RFC 3339 in UTC; anything else in its own."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is different in the two, as `before` and `after` of an entry."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}


def page(
    connection: Connection, tenant_id: int, wanted: AuditFilter, *, before: int | None, most: int
) -> list[AuditEntry]:
    """Up to `most` entries, the newest first, from the first one older than the id `before`."""
    named = wanted.named()
    conditions = [_CONDITIONS[name] for name in named]
    if before is not None:
        conditions.append("id < :before")
        named["before"] = before
    where = "".join(f" AND {condition}" for condition in conditions)
    statement = text(
        f"SELECT {_COLUMNS} FROM audit_log WHERE tenant_id = :tenant_id{where} ORDER BY id DESC LIMIT :most"
    )
    rows = connection.execute(statement, {**named, "tenant_id": tenant_id, "most": most})
    return [AuditEntry(*row) for row in rows]
