"""The audit log: who did what to what, kept in the transaction that did it, and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.access import Actor

_ADD: Final = text("""
INSERT INTO audit_log (at, tenant_id, actor, address, request_id, action, kind, subject, before, after)
VALUES (:now, :tenant_id, :actor, :address, :request_id, :action, :kind, :subject, CAST(:old AS jsonb),
        CAST(:new AS jsonb))""")


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
    connection.execute(
        _ADD,
        {
            "now": now,
            "tenant_id": actor.tenant_id,
            "actor": actor.name,
            "address": actor.address,
            "request_id": actor.request_id,
            "action": action,
            "kind": kind,
            "subject": subject,
            "old": None if before is None else json.dumps(before, default=str),
            "new": None if after is None else json.dumps(after, default=str),
        },
    )
