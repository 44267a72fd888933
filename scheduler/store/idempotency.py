"""Requests that callers may repeat: who claimed which key, whether the request took effect, what was answered.

A claim is a row. `mark` is called in each transaction that the request commits, just before: so the row says that the
request took effect exactly if it did, whatever becomes of the process or of the connection. A claim that was given to
another meanwhile cannot be marked, and its transaction must not be committed. Rows are forgotten after a day, some at
each answer that is kept, so there is no job for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

KEPT_FOR: Final = timedelta(hours=24)

ABANDONED_AFTER: Final = timedelta(minutes=2)
"""A claim without effect and answer is taken to be that of a process that died."""

_FORGOTTEN_AT_ONCE: Final = 10

# Losing the claim in a crash of the server loses the request as well, so nobody waits for the disk.
_DO_NOT_WAIT: Final = text("SELECT set_config('synchronous_commit', 'off', true)")

_CLAIM: Final = text("""
INSERT INTO idempotency_keys AS held (tenant_id, actor, key, fingerprint, created_at)
VALUES (:tenant_id, :actor, :key, :fingerprint, :now)
ON CONFLICT (tenant_id, actor, key) DO UPDATE
SET fingerprint = excluded.fingerprint, created_at = excluded.created_at, took_effect = false,
    status = NULL, headers = NULL, body = NULL
WHERE held.created_at < :forgotten_before
   OR (held.status IS NULL AND NOT held.took_effect AND held.created_at < :abandoned_before
       AND held.fingerprint = excluded.fingerprint)
RETURNING created_at""")

_FIND: Final = text("""
SELECT fingerprint, took_effect, status, headers, body FROM idempotency_keys
WHERE tenant_id = :tenant_id AND actor = :actor AND key = :key""")

_MARK: Final = text("""
UPDATE idempotency_keys SET took_effect = true
WHERE tenant_id = :tenant_id AND actor = :actor AND key = :key AND created_at = :claimed_at AND status IS NULL""")

_KEEP: Final = text(f"""
WITH forgotten AS (
    DELETE FROM idempotency_keys
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_keys WHERE created_at < :forgotten_before
        ORDER BY created_at LIMIT {_FORGOTTEN_AT_ONCE} FOR UPDATE SKIP LOCKED))
)
UPDATE idempotency_keys SET status = :status, headers = CAST(:headers AS jsonb), body = :body
WHERE tenant_id = :tenant_id AND actor = :actor AND key = :key AND created_at = :claimed_at""")

_RELEASE: Final = text("""
DELETE FROM idempotency_keys
WHERE tenant_id = :tenant_id AND actor = :actor AND key = :key AND created_at = :claimed_at AND NOT took_effect""")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry a request out, held from `claimed_at` on."""

    tenant_id: int
    actor: str
    key: str
    claimed_at: datetime

    @property
    def parameters(self) -> dict[str, object]:
        """Its row, for a statement."""
        return {
            "tenant_id": self.tenant_id,
            "actor": self.actor,
            "key": self.key,
            "claimed_at": self.claimed_at,
        }


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class EarlierRequest:
    """A request that has the key already. Without an answer it is under way, or its answer was lost."""

    fingerprint: bytes
    took_effect: bool
    answer: KeptAnswer | None


def claim(
    connection: Connection, tenant_id: int, actor: str, key: str, fingerprint: bytes, *, now: datetime
) -> Claim | EarlierRequest:
    """Claim `key` for a request, or find the one that has it; needs a transaction of its own."""
    row = {"tenant_id": tenant_id, "actor": actor, "key": key}
    connection.execute(_DO_NOT_WAIT)
    while True:
        claimed = connection.execute(
            _CLAIM,
            row
            | {
                "fingerprint": fingerprint,
                "now": now,
                "forgotten_before": now - KEPT_FOR,
                "abandoned_before": now - ABANDONED_AFTER,
            },
        ).first()
        if claimed is not None:
            return Claim(tenant_id, actor, key, now)
        found = connection.execute(_FIND, row).first()
        if found is not None:  # else it was released between the two statements
            answer = None if found.status is None else KeptAnswer(found.status, found.headers, found.body)
            return EarlierRequest(found.fingerprint, found.took_effect, answer)


def mark(connection: Connection, claimed: Claim) -> bool:
    """Note in the request's own transaction that it takes effect; False: the claim is lost, so it must not."""
    return connection.execute(_MARK, claimed.parameters).rowcount == 1


def keep(connection: Connection, claimed: Claim, answer: KeptAnswer, *, now: datetime) -> None:
    """Keep what the request was answered; forget some that are older than a day."""
    connection.execute(_DO_NOT_WAIT)
    connection.execute(
        _KEEP,
        claimed.parameters
        | {
            "status": answer.status,
            "headers": json.dumps(dict(answer.headers)),
            "body": answer.body,
            "forgotten_before": now - KEPT_FOR,
        },
    )


def release(connection: Connection, claimed: Claim) -> bool:
    """Give the key back, so that the request may be made again; False where it took effect."""
    return connection.execute(_RELEASE, claimed.parameters).rowcount == 1
