"""Erase a person: what is personal goes, what is only counted stays, and a keyed hash keeps them from coming back.

Each statement is harmless to repeat. Rows of the message log and of batches name their users by id alone; they stay.
`begin` must come first in the transaction: the audit log may not be changed otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from scheduler.domain.occasion import Channel
from scheduler.store import audit
from scheduler.store.audit import AuditEntry, AuditFilter

ERASE: Final = "erase"
"""What the audit log calls it: entries of that name are not scrubbed."""

_BEGIN: Final = text("SELECT set_config('daybreak.erasing', 'on', true)")

_ANYBODY: Final = text("SELECT EXISTS (SELECT FROM erased_users WHERE tenant_id = :tenant_id)")

_AMONG: Final = text("""
SELECT external_id_hash FROM erased_users
WHERE tenant_id = :tenant_id AND external_id_hash = ANY(CAST(:tombstones AS bytea[]))""")

_REMEMBER: Final = text("""
INSERT INTO erased_users (tenant_id, external_id_hash, erased_at)
SELECT :tenant_id, tombstone, :now FROM unnest(CAST(:tombstones AS bytea[])) AS tombstone
ON CONFLICT (tenant_id, external_id_hash) DO NOTHING""")

_ALLOW: Final = text("""
DELETE FROM erased_users
WHERE tenant_id = :tenant_id AND external_id_hash = CAST(:tombstone AS bytea)""")

_DELETED_ID: Final = text("""
SELECT user_id FROM deleted_users WHERE tenant_id = :tenant_id AND external_id = :external_id""")

_FORGET_DELETED: Final = text("""
DELETE FROM deleted_users WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING external_id""")

# What an attempt, a letter or a report says of itself may quote an address or a name, whoever wrote it.
_OF_USER: Final[Mapping[str, TextClause]] = {
    "inbox": text("DELETE FROM inbox_messages WHERE user_id = :user_id AND tenant_id = :tenant_id"),
    "unsubscribes": text("DELETE FROM unsubscribes WHERE user_id = :user_id AND tenant_id = :tenant_id"),
    "attempts": text("""
UPDATE delivery_attempts SET detail = ''
WHERE user_id = :user_id AND tenant_id = :tenant_id AND detail <> ''"""),
    "dead_letters": text("""
UPDATE dead_letters SET detail = '', discarded_at = coalesce(discarded_at, :now), discard_reason = 'erased'
WHERE user_id = :user_id AND tenant_id = :tenant_id AND (detail <> '' OR discard_reason IS DISTINCT FROM 'erased')"""),
    "delivery_events": text("""
UPDATE delivery_events SET detail = '' WHERE user_id = :user_id AND tenant_id = :tenant_id AND detail <> ''"""),
}

# What was said to one person alone; the rule knows for how many a send was.
_SENDS_TO_ONE: Final = text("""
UPDATE occasions SET name = 'Erased', subject = '', body = '', html = NULL, translations = '{}'
WHERE tenant_id = :tenant_id AND kind = 'ad_hoc' AND rule ->> 'users' = '1' AND (subject <> '' OR body <> '')
  AND id IN (SELECT occasion_id FROM message_log WHERE user_id = :user_id)
RETURNING id""")

_LETTERS: Final = text("SELECT id FROM dead_letters WHERE user_id = :user_id AND tenant_id = :tenant_id")

# Where the recipient acted themselves, the address is theirs.
_SCRUB_AUDIT: Final = text(f"""
UPDATE audit_log
SET before = CASE WHEN before IS NULL THEN NULL ELSE CAST('{{"erased": true}}' AS jsonb) END,
    after = CASE WHEN after IS NULL THEN NULL ELSE CAST('{{"erased": true}}' AS jsonb) END,
    address = CASE WHEN actor = 'recipient' THEN NULL ELSE address END
WHERE tenant_id = :tenant_id AND kind = :kind AND subject = ANY(CAST(:subjects AS text[])) AND action <> '{ERASE}'
  AND (before <> '{{"erased": true}}' OR after <> '{{"erased": true}}'
       OR actor = 'recipient' AND address IS NOT NULL)""")

# The key stays spent: a request that is repeated is not carried out again, but its answer is not told again either.
_SCRUB_ANSWERS: Final = text("""
UPDATE idempotency_keys SET body = convert_to('{"erased": true}', 'UTF8')
WHERE tenant_id = :tenant_id AND status IS NOT NULL
  AND EXISTS (SELECT FROM unnest(CAST(:needles AS bytea[])) AS needle WHERE position(needle IN body) > 0)""")

_SUPPRESSED: Final = text("""
SELECT s.id, CAST(s.channel AS text) AS channel, s.address
FROM unnest(CAST(:channels AS channel[]), CAST(:addresses AS text[])) AS wanted (channel, address)
JOIN suppressions s ON s.tenant_id = :tenant_id AND s.channel = wanted.channel AND s.address = wanted.address""")

# Reads all users of the tenant, and is asked only where one of the person's addresses is suppressed.
_HAS_ANOTHER_OWNER: Final[Mapping[Channel, TextClause]] = {
    channel: text(f"""
SELECT EXISTS (
    SELECT FROM users WHERE tenant_id = :tenant_id AND id <> :user_id AND {address} = :address)""")
    for channel, address in {
        Channel.EMAIL: "lower(email)",
        Channel.SMS: "phone",
        Channel.PUSH: "push_token",
        Channel.WEBHOOK: "webhook_url",
    }.items()
}

_UNSUPPRESS: Final = text("""
DELETE FROM suppressions WHERE tenant_id = :tenant_id AND id = ANY(CAST(:ids AS bigint[]))""")

_AUDIT_PAGE: Final = 500


def anybody(connection: Connection, tenant_id: int) -> bool:
    """Whether anybody was erased."""
    return bool(connection.execute(_ANYBODY, {"tenant_id": tenant_id}).scalar_one())


def among(connection: Connection, tenant_id: int, tombstones: Sequence[bytes]) -> list[bytes]:
    """Those of the hashes that are of somebody who was erased."""
    parameters = {"tenant_id": tenant_id, "tombstones": list(tombstones)}
    return [bytes(found) for found in connection.execute(_AMONG, parameters).scalars()]


def begin(connection: Connection) -> None:
    """Say that this transaction erases somebody."""
    connection.execute(_BEGIN)


def remember(connection: Connection, tenant_id: int, tombstones: Iterable[bytes], *, now: datetime) -> None:
    """Keep the owners of these external ids from coming back."""
    connection.execute(_REMEMBER, {"tenant_id": tenant_id, "tombstones": list(tombstones), "now": now})


def allow(connection: Connection, tenant_id: int, tombstone: bytes) -> bool:
    """Let the owner of an external id come back; False where nothing kept them from it."""
    return connection.execute(_ALLOW, {"tenant_id": tenant_id, "tombstone": tombstone}).rowcount == 1


def deleted_id(connection: Connection, tenant_id: int, external_id: str) -> int | None:
    """The id of a user who was deleted, as long as that is known."""
    parameters = {"tenant_id": tenant_id, "external_id": external_id}
    return connection.execute(_DELETED_ID, parameters).scalar_one_or_none()


def forget_deleted(connection: Connection, tenant_id: int, user_id: int) -> list[str]:
    """Forget by which external ids a user who is deleted was known; returns them."""
    parameters = {"tenant_id": tenant_id, "user_id": user_id}
    return list(connection.execute(_FORGET_DELETED, parameters).scalars())


def entries_about(connection: Connection, tenant_id: int, user_id: int) -> list[AuditEntry]:
    """All that the audit log says of a user, the newest first."""
    wanted = AuditFilter(kind="user", subject=str(user_id))
    found: list[AuditEntry] = []
    while True:
        before = found[-1].id if found else None
        page = audit.page(connection, tenant_id, wanted, before=before, most=_AUDIT_PAGE)
        found += page
        if len(page) < _AUDIT_PAGE:
            return found


def scrub(connection: Connection, tenant_id: int, user_id: int, *, now: datetime) -> dict[str, int]:
    """Take what is personal out of all rows about a user, but the user; returns how many rows of each kind."""
    parameters: dict[str, Any] = {"tenant_id": tenant_id, "user_id": user_id, "now": now}
    counts = {name: connection.execute(each, parameters).rowcount for name, each in _OF_USER.items()}
    sends = list(connection.execute(_SENDS_TO_ONE, parameters).scalars())
    letters = connection.execute(_LETTERS, parameters).scalars()
    subjects: dict[str, list[str]] = {
        "user": [str(user_id)],
        "send": [str(each) for each in sends],
        "dead_letter": [str(each) for each in letters],
    }
    counts["sends"] = len(sends)
    counts["audit_entries"] = sum(
        connection.execute(_SCRUB_AUDIT, {"tenant_id": tenant_id, "kind": kind, "subjects": ids}).rowcount
        for kind, ids in subjects.items()
        if ids
    )
    return counts


def scrub_answers(connection: Connection, tenant_id: int, needles: Collection[bytes]) -> int:
    """Empty the answers, kept for repeated requests, that hold one of these; reads all that are kept, of a day."""
    if not needles:
        return 0
    parameters = {"tenant_id": tenant_id, "needles": list(needles)}
    return connection.execute(_SCRUB_ANSWERS, parameters).rowcount


def unsuppress(
    connection: Connection, tenant_id: int, user_id: int, addresses: Collection[tuple[Channel, str]]
) -> int:
    """Take a person's addresses off the suppression list, unless they are somebody else's too; returns how many."""
    parameters: dict[str, Any] = {
        "tenant_id": tenant_id,
        "channels": [channel.value for channel, _ in addresses],
        "addresses": [address for _, address in addresses],
    }
    found = connection.execute(_SUPPRESSED, parameters).all()
    theirs = [
        entry.id
        for entry in found
        if not connection.execute(
            _HAS_ANOTHER_OWNER[Channel(entry.channel)],
            {"tenant_id": tenant_id, "user_id": user_id, "address": entry.address},
        ).scalar_one()
    ]
    return connection.execute(_UNSUPPRESS, {"tenant_id": tenant_id, "ids": theirs}).rowcount if theirs else 0
