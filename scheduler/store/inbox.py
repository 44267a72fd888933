"""The inbox of each user: what was sent to them on the channel `in_app`, until they are deleted.

The key of a message is the key of its entry, so a message that is sent again is not there twice. Entries are
personal data: an entry is only added while its user exists, and the two lock each other out, so that none is
left behind by a deletion at the same moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel

_COLUMNS: Final = "id, user_id, occasion_id, local_date, slot, subject, body, html, created_at, read_at"

# The lock is the one a foreign key would take: it keeps the user from being deleted until the commit.
_ADD: Final = text("""
INSERT INTO inbox_messages (user_id, created_at, occasion_id, local_date, tenant_id, slot, subject, body, html)
SELECT u.id, :now, m.occasion_id, m.local_date, u.tenant_id, m.slot, m.subject, m.body, m.html
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:occasion_ids AS integer[]), CAST(:local_dates AS date[]),
            CAST(:slots AS smallint[]), CAST(:tenant_ids AS integer[]), CAST(:subjects AS text[]),
            CAST(:bodies AS text[]), CAST(:htmls AS text[]))
    AS m (user_id, occasion_id, local_date, slot, tenant_id, subject, body, html)
JOIN users u ON u.id = m.user_id AND u.tenant_id = m.tenant_id
ORDER BY u.id FOR KEY SHARE OF u
ON CONFLICT (user_id, local_date, occasion_id, slot) DO NOTHING""")

_PAGE: Final = text(f"""
SELECT {_COLUMNS} FROM inbox_messages
WHERE user_id = :user_id AND tenant_id = :tenant_id AND id < :before
ORDER BY id DESC LIMIT :most""")

_PAGE_OF_UNREAD: Final = text(f"""
SELECT {_COLUMNS} FROM inbox_messages
WHERE user_id = :user_id AND tenant_id = :tenant_id AND id < :before AND read_at IS NULL
ORDER BY id DESC LIMIT :most""")

_UNREAD_COUNT: Final = text("""
SELECT count(*) FROM inbox_messages WHERE user_id = :user_id AND tenant_id = :tenant_id AND read_at IS NULL""")

_MARK_READ: Final = text(f"""
UPDATE inbox_messages SET read_at = coalesce(read_at, :now)
WHERE user_id = :user_id AND tenant_id = :tenant_id AND id = :id
RETURNING {_COLUMNS}""")

REMOVE_ALL: Final = text("""
DELETE FROM inbox_messages WHERE user_id = ANY(CAST(:user_ids AS bigint[])) RETURNING id""")
"""Empty the inboxes of users whom this transaction has deleted."""

_LARGEST_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A rendered message for its user's inbox."""

    key: MessageKey
    tenant_id: int
    subject: str = field(repr=False)
    body: str = field(repr=False)
    html: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """A message in an inbox. `read_at` None: unread."""

    id: int
    key: MessageKey
    created_at: datetime
    read_at: datetime | None
    subject: str = field(repr=False)
    body: str = field(repr=False)
    html: str | None = field(repr=False)


def add(connection: Connection, entries: Sequence[NewEntry], *, now: datetime) -> int:
    """Put messages into the inboxes of users who exist; returns how many were not there already."""
    parameters = {
        "user_ids": [entry.key.user_id for entry in entries],
        "occasion_ids": [entry.key.occasion_id for entry in entries],
        "local_dates": [entry.key.local_date for entry in entries],
        "slots": [entry.key.slot for entry in entries],
        "tenant_ids": [entry.tenant_id for entry in entries],
        "subjects": [entry.subject for entry in entries],
        "bodies": [entry.body for entry in entries],
        "htmls": [entry.html for entry in entries],
        "now": now,
    }
    return connection.execute(_ADD, parameters).rowcount


def page(
    connection: Connection,
    tenant_id: int,
    user_id: int,
    *,
    before: int | None,
    most: int,
    unread_only: bool = False,
) -> list[InboxEntry]:
    """Up to `most` entries, the newest first; those with an id under `before`, where that is given."""
    parameters = {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "before": _LARGEST_ID if before is None else before,
        "most": most,
    }
    rows = connection.execute(_PAGE_OF_UNREAD if unread_only else _PAGE, parameters)
    return [_entry(row) for row in rows]


def unread_count(connection: Connection, tenant_id: int, user_id: int) -> int:
    """How many entries the user has not read."""
    parameters = {"tenant_id": tenant_id, "user_id": user_id}
    return int(connection.execute(_UNREAD_COUNT, parameters).scalar_one())


def mark_read(
    connection: Connection, tenant_id: int, user_id: int, entry_id: int, *, now: datetime
) -> InboxEntry | None:
    """Note that an entry has been read, unless that is known already; None if there is no such entry."""
    parameters = {"tenant_id": tenant_id, "user_id": user_id, "id": entry_id, "now": now}
    row = connection.execute(_MARK_READ, parameters).one_or_none()
    return None if row is None else _entry(row)


def remove_all(connection: Connection, user_id: int) -> None:
    """Empty the inbox of a user whom this transaction has deleted."""
    connection.execute(REMOVE_ALL, {"user_ids": [user_id]})


def _entry(row: Row[Any]) -> InboxEntry:
    return InboxEntry(
        id=row.id,
        key=MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel.IN_APP),
        created_at=row.created_at,
        read_at=row.read_at,
        subject=row.subject,
        body=row.body,
        html=row.html,
    )
