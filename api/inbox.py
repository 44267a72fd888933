"""The inbox of a user: what was sent to them on the channel `in_app`, read by the programs that show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.access import current_actor
from api.answers import json_answer
from api.endpoint import endpoint
from api.models.inbox import InboxAnswer, InboxQuery, ReadEntryAnswer
from api.queries import NoQuery, id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.errors import NotFound
from scheduler.store import audit, occasions
from scheduler.store import inbox as stored_inbox
from scheduler.store import users as stored_users
from scheduler.store.database import in_transaction
from scheduler.store.inbox import InboxEntry

inbox = Blueprint("inbox", __name__, url_prefix="/api/v1/users/<identity:user_id>/inbox")

_CURSOR_KIND: Final = "inbox"


@inbox.get("")
@endpoint(Scope.MESSAGES_READ, query=InboxQuery, answers={200: InboxAnswer})
def list_inbox(user_id: int) -> Response:
    """A page of a user's inbox, the newest entry first, with the count of all that is unread."""
    query = read_query(InboxQuery)
    before = id_from_cursor(_CURSOR_KIND, query.cursor)
    with services().reading() as connection:
        if stored_users.find(connection, tenant_id(), user_id) is None:
            raise NotFound("user", user_id)
        found = stored_inbox.page(
            connection,
            tenant_id(),
            user_id,
            before=before,
            most=query.limit + 1,
            unread_only=query.unread,
        )
        unread = stored_inbox.unread_count(connection, tenant_id(), user_id)
        shown = found[: query.limit]
        keys = _occasion_keys(connection, shown)
    more = len(found) > query.limit
    return json_answer(
        {
            "entries": [_as_json(entry, keys) for entry in shown],
            "unread_count": unread,
            "next_cursor": to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None,
        }
    )


@inbox.post("/<identity:entry_id>/read")
@endpoint(Scope.MESSAGES_SEND, query=NoQuery, answers={200: ReadEntryAnswer})
def mark_entry_read(user_id: int, entry_id: int) -> Response:
    """Note that an entry has been read; the first time counts."""
    read_query(NoQuery)

    def work(connection: Connection) -> tuple[InboxEntry | None, int]:
        now = services().clock.now()
        entry = stored_inbox.mark_read(connection, tenant_id(), user_id, entry_id, now=now)
        if entry is not None and entry.read_at == now:
            after = {"user_id": user_id, "read_at": now}
            audit.add(connection, current_actor(), "read", "inbox_entry", str(entry_id), None, after, now=now)
        return entry, stored_inbox.unread_count(connection, tenant_id(), user_id)

    entry, unread = in_transaction(services().engine, work)
    if entry is None:
        raise NotFound("inbox entry", entry_id)
    with services().reading() as connection:
        keys = _occasion_keys(connection, [entry])
    return json_answer({"entry": _as_json(entry, keys), "unread_count": unread})


def _occasion_keys(connection: Connection, entries: Iterable[InboxEntry]) -> dict[int, str]:
    found = occasions.by_id(connection, sorted({entry.key.occasion_id for entry in entries}))
    return {occasion.id: occasion.key for occasion in found.values()}


def _as_json(entry: InboxEntry, occasion_keys: Mapping[int, str]) -> dict[str, Any]:
    return {
        "id": entry.id,
        "message_id": entry.key.text,
        "occasion": occasion_keys.get(entry.key.occasion_id),
        "local_date": entry.key.local_date,
        "slot": entry.key.slot,
        "subject": entry.subject,
        "body": entry.body,
        "html": entry.html,
        "created_at": entry.created_at,
        "read_at": entry.read_at,
    }
