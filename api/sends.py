"""Requests to send: written as a whole before they are answered, some ten thousand messages a second.

They live beside the messages: `POST /messages` makes one, `/messages/sends` has them all.
"""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final, cast

from flask import Blueprint, Response, current_app
from flask.blueprints import BlueprintSetupState

from api.access import current_actor
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.models.messages import (
    CancelledSendAnswer,
    NewSendAnswer,
    OneSendAnswer,
    SendInput,
    SendListAnswer,
)
from api.queries import NoQuery, PageQuery, id_from_cursor, read_query, to_cursor
from api.services import EXTENSION, Services, services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.occasion import AdHocRule, MessageText
from scheduler.errors import NotFound
from scheduler.sending import Recipients, Send, Sender
from scheduler.store import ad_hoc
from scheduler.store.ad_hoc import Audience, StoredSend

sends = Blueprint("sends", __name__, url_prefix="/api/v1/messages")

_CURSOR_KIND: Final = "send"
_SENDER: Final = "daybreak_sender"
_LARGEST_ID: Final = 2**31 - 1


@sends.record_once
def _prepare(state: BlueprintSetupState) -> None:
    parts: Services = state.app.extensions[EXTENSION]
    state.app.extensions[_SENDER] = Sender(parts.engine, parts.clock, parts.settings.batch_size)


@sends.post("")
@endpoint(
    Scope.MESSAGES_SEND,
    body=SendInput,
    answers={201: NewSendAnswer},
    errors=(HTTPStatus.UNPROCESSABLE_ENTITY,),
)
def send_messages() -> Response:
    """Send messages, now or later, to users chosen now. All are written, or none."""
    sent = _sender().send(current_actor(), _send_of(read_body(SendInput)))
    ids = None if sent.keys is None else [key.text for key in sent.keys]
    body = {"send": _send_as_json(sent.send), "message_ids": ids}
    return json_answer(
        body, HTTPStatus.CREATED, {"Location": f"{sends.url_prefix}/sends/{sent.send.occasion.id}"}
    )


@sends.get("/sends")
@endpoint(
    Scope.MESSAGES_READ, query=PageQuery, answers={200: SendListAnswer}, errors=(HTTPStatus.BAD_REQUEST,)
)
def list_sends() -> Response:
    """A page of requests to send, the newest first."""
    query = read_query(PageQuery)
    before = id_from_cursor(_CURSOR_KIND, query.cursor) or _LARGEST_ID + 1
    with services().reading() as connection:
        found = ad_hoc.page(connection, tenant_id(), before=before, most=query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    next_cursor = to_cursor(_CURSOR_KIND, str(shown[-1].occasion.id)) if more else None
    return json_answer({"sends": [_send_as_json(send) for send in shown], "next_cursor": next_cursor})


@sends.get("/sends/<identity:send_id>")
@endpoint(Scope.MESSAGES_READ, query=NoQuery, answers={200: OneSendAnswer}, errors=(HTTPStatus.NOT_FOUND,))
def read_send(send_id: int) -> Response:
    """A request to send, and how many of its messages are in which state."""
    read_query(NoQuery)
    with services().reading() as connection:
        send = ad_hoc.find(connection, tenant_id(), send_id)
        if send is None:
            raise NotFound("send", send_id)
        counts = ad_hoc.counts(connection, send)
    return json_answer({"send": _send_as_json(send) | asdict(counts)})


@sends.post("/sends/<identity:send_id>/cancel")
@endpoint(
    Scope.MESSAGES_SEND, query=NoQuery, answers={200: CancelledSendAnswer}, errors=(HTTPStatus.NOT_FOUND,)
)
def cancel_send(send_id: int) -> Response:
    """Take back all messages of a send whose sending has not begun."""
    read_query(NoQuery)
    return json_answer({"cancelled": _sender().cancel(current_actor(), send_id)})


def _sender() -> Sender:
    return cast("Sender", current_app.extensions[_SENDER])


def _send_of(body: SendInput) -> Send:
    return Send(
        to=_recipients(body),
        text=MessageText(body.subject, body.body, body.html),
        channels=tuple(body.channels),
        at=body.due,
        name=body.name,
        priority=body.priority,
        translations={
            tag: MessageText(said.subject, said.body, said.html) for tag, said in body.translations.items()
        },
        expires_at=body.expires_at,
        lateness_limit=body.lateness_limit,
        gap=body.gap,
        overlap=body.overlap,
        same_day=body.same_day,
        group=body.group,
        quiet_hours=body.quiet_hours,
    )


def _recipients(body: SendInput) -> Recipients:
    to = body.to
    if to.filter is None:
        return Recipients(to.user_ids, to.external_ids)
    on = to.filter.date
    return Recipients(
        audience=Audience(
            timezone=to.filter.timezone,
            date_name=None if on is None else on.name,
            month_days=() if on is None else tuple(on.days or ()),
            attributes=to.filter.attributes,
        )
    )


def _send_as_json(send: StoredSend) -> dict[str, Any]:
    occasion, facts = send.occasion, send.facts
    rule = occasion.rule
    assert isinstance(rule, AdHocRule), "a send is kept with its rule"
    return {
        "id": occasion.id,
        "occasion": occasion.key,
        "name": occasion.name,
        "created_at": send.created_at,
        "at": None if rule.is_local else rule.at,
        "at_local": rule.at.isoformat("T", "minutes") if rule.is_local else None,
        "expires_at": rule.expires_at,
        "channels": occasion.channels,
        "priority": occasion.priority,
        "users": facts.users,
        "messages": facts.messages,
        "skipped": facts.skipped,
        "unreachable": facts.unreachable,
        "audience": facts.audience,
    }
