"""Messages: list, and read with what failed on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Final

from flask import Blueprint, Response
from pydantic import Field
from sqlalchemy import Connection

from api.answers import json_answer
from api.queries import InvalidQuery, PageQuery, from_cursor, read_query, to_cursor, unknown_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.field_error import FieldError
from scheduler.domain.message import MessageKey, MessageState
from scheduler.domain.occasion import Channel
from scheduler.domain.user import LocalDate
from scheduler.errors import NotFound
from scheduler.store import message_queries, occasions
from scheduler.store.message_queries import MessageFilter, MessageHistory, Position, StoredMessage

messages = Blueprint("messages", __name__, url_prefix="/api/v1/messages")

_CURSOR_KIND: Final = "message"
_MOST_OCCASION_KEY_CHARACTERS: Final = 200


class MessageListQuery(PageQuery):
    """Which messages to list. Both local dates are included."""

    user_id: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    occasion: Annotated[str, Field(max_length=_MOST_OCCASION_KEY_CHARACTERS)] | None = None
    channel: Channel | None = None
    state: MessageState | None = None
    local_date_from: LocalDate | None = None
    local_date_until: LocalDate | None = None


@messages.get("")
def list_messages() -> Response:
    """A page of messages: month by month of local dates, in each by user, then by local date.

    It may hold fewer than `limit`, even none, where matches are rare: only a page whose `next_cursor` is
    null is the last.
    """
    query = read_query(MessageListQuery)
    position = _position(query.cursor)
    with services().reading() as connection:
        wanted = _filter(connection, query)
        page = message_queries.page(connection, tenant_id(), wanted, position=position, most=query.limit)
        keys = _occasion_keys(connection, page.messages)
    next_cursor = to_cursor(_CURSOR_KIND, _position_text(page.next)) if page.next is not None else None
    listed = [message_as_json(message, keys) for message in page.messages]
    return json_answer({"messages": listed, "next_cursor": next_cursor})


@messages.get("/<message_id>")
def read_message(message_id: str) -> Response:
    """A message with the attempts that failed and, if it has one, its dead letter."""
    try:
        key = MessageKey.parse(message_id)
    except ValueError:
        raise NotFound("message", message_id) from None
    with services().reading() as connection:
        history = message_queries.find(connection, tenant_id(), key)
        if history is None:
            raise NotFound("message", message_id)
        keys = _occasion_keys(connection, [history.message])
    return json_answer({"message": message_as_json(history.message, keys) | _history_as_json(history)})


def _filter(connection: Connection, query: MessageListQuery) -> MessageFilter:
    occasion_id = None
    if query.occasion is not None:
        found = None if "\0" in query.occasion else occasions.find(connection, tenant_id(), query.occasion)
        if found is None:
            raise InvalidQuery([FieldError("/occasion", "is not the key of an occasion")])
        occasion_id = found.id
    return MessageFilter(
        user_id=query.user_id,
        occasion_id=occasion_id,
        channel=query.channel,
        state=query.state,
        local_date_first=query.local_date_from,
        local_date_last=query.local_date_until,
    )


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    starts, _, after = from_cursor(_CURSOR_KIND, cursor).partition("/")
    try:
        return Position(date.fromisoformat(starts), MessageKey.parse(after) if after else None)
    except ValueError:
        raise unknown_cursor() from None


def _position_text(position: Position) -> str:
    return f"{position.starts}/{position.after.text if position.after is not None else ''}"


def _occasion_keys(connection: Connection, shown: Sequence[StoredMessage]) -> dict[int, str]:
    found = occasions.by_id(connection, sorted({message.key.occasion_id for message in shown}))
    return {occasion.id: occasion.key for occasion in found.values()}


def message_as_json(message: StoredMessage, occasion_keys: Mapping[int, str]) -> dict[str, Any]:
    """A message as lists show it; `occasion_keys` by the ids of occasions."""
    key = message.key
    return {
        "id": key.text,
        "user_id": key.user_id,
        "occasion": occasion_keys.get(key.occasion_id),
        "local_date": key.local_date,
        "slot": key.slot,
        "channel": key.channel,
        "state": message.state,
        "reason": message.reason,
        "send_at": message.send_at,
        "accepted_at": message.accepted_at,
        "attempt": message.attempt,
        "timezone": message.timezone,
        "date_rule": message.date_rule,
        "time_rule": message.time_rule,
        "year": message.year,
    }


def _history_as_json(history: MessageHistory) -> dict[str, Any]:
    dead_letter = history.dead_letter
    return {
        "failed_attempts": [asdict(attempt) for attempt in history.attempts],
        "dead_letter": None if dead_letter is None else asdict(dead_letter),
    }
