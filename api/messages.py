"""Messages: search, read with their attempts, cancel, try again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.access import current_actor
from api.answers import json_answer
from api.endpoint import endpoint
from api.models.messages import (
    MessageListAnswer,
    MessageListQuery,
    OneMessageAnswer,
    RetriedMessageAnswer,
)
from api.queries import (
    InvalidQuery,
    NoQuery,
    from_cursor,
    read_query,
    to_cursor,
    unknown_cursor,
)
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.domain.message import MessageKey
from scheduler.errors import NotFound
from scheduler.operations import Operations
from scheduler.store import ad_hoc, message_queries, occasions, users
from scheduler.store.ad_hoc import StoredSend
from scheduler.store.message_queries import MessageFilter, MessageHistory, Position, StoredMessage

messages = Blueprint("messages", __name__, url_prefix="/api/v1/messages")

_CURSOR_KIND: Final = "message"
_NOBODY: Final = -1
_MOST_USERS_LOOKED_UP: Final = 1_000


@messages.get("")
@endpoint(
    Scope.MESSAGES_READ,
    query=MessageListQuery,
    answers={200: MessageListAnswer},
    errors=(HTTPStatus.BAD_REQUEST,),
)
def list_messages() -> Response:
    """A page of messages: month by month of local dates, in each by user, then by local date.

    It may hold fewer than `limit`, even none, where matches are rare: a hundred thousand messages are looked
    through for it, in twelve months at most. Users, dates, times and `state=dead` narrow what is looked through.
    Only a page whose `next_cursor` is null is the last.
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
@endpoint(Scope.MESSAGES_READ, query=NoQuery, answers={200: OneMessageAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def read_message(message_id: str) -> Response:
    """A message with every attempt at it and, if it has one, its dead letter."""
    read_query(NoQuery)
    return json_answer({"message": _read(_key(message_id))})


@messages.post("/<message_id>/cancel")
@endpoint(
    Scope.MESSAGES_SEND,
    query=NoQuery,
    answers={200: OneMessageAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def cancel_message(message_id: str) -> Response:
    """Take a message back that is scheduled or waits to be tried again; 409 once it is being sent or has ended.

    It is left `cancelled`, or `dead` with a discarded dead letter where an earlier attempt may have been accepted.
    """
    read_query(NoQuery)
    key = _key(message_id)
    _operations().cancel_message(current_actor(), key)
    return json_answer({"message": _read(key)})


@messages.post("/<message_id>/retry")
@endpoint(
    Scope.OPERATIONS_RUN,
    query=NoQuery,
    answers={200: RetriedMessageAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def retry_message(message_id: str) -> Response:
    """Try a message again at once: a dead one, or one that waits to be. It is given the same idempotency key."""
    read_query(NoQuery)
    key = _key(message_id)
    due_at = _operations().retry_message(current_actor(), key)
    return json_answer({"message": _read(key), "due_at": due_at})


def _operations() -> Operations:
    here = services()
    return Operations(here.engine, here.clock, here.settings.retry_max_attempts)


def _key(message_id: str) -> MessageKey:
    try:
        return MessageKey.parse(message_id)
    except ValueError:
        raise NotFound("message", message_id) from None


def _read(key: MessageKey) -> dict[str, Any]:
    with services().reading() as connection:
        history = message_queries.find(connection, tenant_id(), key)
        if history is None:
            raise NotFound("message", key.text)
        keys = _occasion_keys(connection, [history.message])
    return message_as_json(history.message, keys) | _history_as_json(history)


def _filter(connection: Connection, query: MessageListQuery) -> MessageFilter:
    occasion_id = _occasion_id(connection, query)
    wanted = MessageFilter(
        user_id=_user_id(connection, query),
        occasion_id=occasion_id,
        channel=query.channel,
        state=query.state,
        reason=query.reason,
        send_from=query.send_at_from,
        send_until=query.send_at_until,
        local_date_first=query.local_date_from,
        local_date_last=query.local_date_until,
    )
    send = None if occasion_id is None else ad_hoc.find(connection, tenant_id(), occasion_id)
    return wanted if send is None else _of_send(connection, wanted, send)


def _of_send(connection: Connection, wanted: MessageFilter, send: StoredSend) -> MessageFilter:
    """Look for the messages of a send where they are, not in all of the log."""
    first, last = send.facts.first_date, send.facts.last_date
    if first is None or last is None:
        return replace(wanted, user_id=_NOBODY)
    return replace(
        wanted,
        user_ids=ad_hoc.user_ids(connection, send, most=_MOST_USERS_LOOKED_UP),
        local_date_first=max(first, wanted.local_date_first or first),
        local_date_last=min(last, wanted.local_date_last or last),
    )


def _user_id(connection: Connection, query: MessageListQuery) -> int | None:
    """The user that is meant; nobody's id where there is no such user, or two are named."""
    if query.external_id is None:
        return query.user_id
    found = users.find_external(connection, tenant_id(), query.external_id)
    if found is None or query.user_id not in (None, found.id):
        return _NOBODY
    return found.id


def _occasion_id(connection: Connection, query: MessageListQuery) -> int | None:
    if query.occasion is None:
        return query.send_id
    found = occasions.find(connection, tenant_id(), query.occasion)
    if found is None:
        raise InvalidQuery([FieldError("/occasion", "is not the key of an occasion")])
    if query.send_id not in (None, found.id):
        raise InvalidQuery([FieldError("/send_id", "must not stand beside another occasion")])
    return found.id


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
        "attempts": [asdict(attempt) for attempt in history.attempts],
        "dead_letter": None if dead_letter is None else asdict(dead_letter),
    }
