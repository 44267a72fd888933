"""Add a user in one round trip: with its entry in the audit log, and what replanning has to know.

In the order in which the statements were sent one by one: whoever deletes a user of that external id is waited for
before the user is added, and the watermarks are read once planning is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from scheduler.domain.access import Actor
from scheduler.domain.user import UserInput
from scheduler.store import audit, locks, users
from scheduler.store.direct import Direct, together
from scheduler.store.known_occasions import WATERMARKS
from scheduler.store.users import StoredUser

_NOTE: Final = text("""
INSERT INTO audit_log (at, tenant_id, actor, address, request_id, action, kind, subject, before, after)
SELECT :now, :tenant_id, :actor, :address, :request_id, :action, :kind, CAST(id AS text), CAST(:old AS jsonb),
       CAST(:new AS jsonb)
FROM users WHERE tenant_id = :tenant_id AND external_id = :external_id
RETURNING id""")

_DIRECT_NOTE: Final = Direct(_NOTE)
_DIRECT_LOCK: Final = Direct(users.LOCK_EXTERNAL)
_DIRECT_CREATE: Final = Direct(users.CREATE)
_DIRECT_SHARE: Final = Direct(locks.SHARE)


@dataclass(frozen=True, slots=True)
class Creation:
    """A user who was added, and the rows of `WATERMARKS` as of then; planning is shared."""

    user: StoredUser
    watermarks: Sequence[Any]


def create(
    connection: Connection,
    tenant_id: int,
    user: UserInput,
    actor: Actor,
    *,
    now: datetime,
    tombstone: bytes | None = None,
) -> Creation:
    """Add a user, as `users.create` does and with what it raises, note it, and share planning."""
    identity = {"tenant_id": tenant_id, "external_id": user.external_id}
    entry = audit.parameters(actor, "create", "user", "", None, user.model_dump(mode="json"), now=now)
    written = users.user_parameters(tenant_id, user, now) | {"tombstone": tombstone}
    try:
        locked, added, _, _, watermarks = together(
            connection,
            [
                (_DIRECT_LOCK, identity),
                (_DIRECT_CREATE, written),
                (_DIRECT_NOTE, entry | identity),
                (_DIRECT_SHARE, locks.planning_of(tenant_id)),
                (WATERMARKS, identity),
            ],
        )
    except IntegrityError as error:
        raise users.conflict(error, user) from None
    if locked:
        raise users.taken(user)
    if not added:
        raise users.erased(tombstone)
    row = added[0]
    return Creation(StoredUser(row.id, row.version, now, now, user), watermarks)
