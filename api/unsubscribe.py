"""Where the link in a message leads: no more of these, no more at all on this channel, or both taken back.

`GET` changes nothing, whoever follows the link: mail scanners follow all of them. `POST` with
`List-Unsubscribe=One-Click` is what a mailbox sends at its own button (RFC 8058 §3.2): it carries no cookie and no
password, is answered 200 without a redirect, and means the messages of this occasion on this channel. The page's
buttons post to the same place, so it works without JavaScript. All of it may be repeated.

The link is all that is asked for: it is signed, and the page tells nothing of the person but what kind of messages
the link came with. A link that is not ours is answered 404, whatever is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, cast

from flask import Blueprint, Response, current_app, render_template, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import BadRequest

from api.endpoint import endpoint
from api.request_log import request_id
from api.services import EXTENSION, services
from scheduler.domain.access import Actor
from scheduler.domain.occasion import Channel
from scheduler.links import InvalidLink, LinkSigner, UnsubscribeLink
from scheduler.preferences import Preferences
from scheduler.service import links_for
from scheduler.store import occasions
from scheduler.store import preferences as stored_preferences

unsubscribe = Blueprint("unsubscribe", __name__, url_prefix="/unsubscribe")

ONE_CLICK: Final = ("List-Unsubscribe", "One-Click")
MOST_FORM_BYTES: Final = 10_000

RECIPIENT: Final = Actor(1, "recipient", frozenset())
"""Who acts where somebody has followed the link in a message: what it says is all they may do."""

_EXTENSION: Final = "daybreak_links"
_BY_MAILBOX: Final = "one-click"
_BY_PAGE: Final = "unsubscribe page"
_HTML: Final = "text/html"
_PROBLEM: Final = "application/problem+json"

_MANY: Final[Mapping[Channel, str]] = {
    Channel.EMAIL: "e-mails",
    Channel.SMS: "text messages",
    Channel.PUSH: "notifications",
    Channel.WEBHOOK: "webhook calls",
    Channel.IN_APP: "messages in the app",
}

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    # The address of the page is what opens it: it goes nowhere else and is kept by nobody.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Scope:
    """How far a choice reaches: the link's occasion, or all of its channel (None)."""

    occasion_id: int | None


@unsubscribe.record_once
def _prepare(state: BlueprintSetupState) -> None:
    state.app.extensions[_EXTENSION] = links_for(state.app.extensions[EXTENSION].settings)


@unsubscribe.get("/<token>")
@endpoint(None, is_listed=False)
def ask(token: str) -> Response:
    """The page: what the link is about and how it stands. Changes nothing."""
    try:
        return _page(_read(token))
    except InvalidLink:
        return _no_such_link()


@unsubscribe.post("/<token>")
@endpoint(None, is_listed=False)
def answer(token: str) -> Response:
    """Do what was chosen, and show how it stands. Raises BadRequest where nothing was."""
    request.max_content_length = MOST_FORM_BYTES
    form = request.form
    try:
        link = _read(token)
    except InvalidLink:
        return _no_such_link()
    actor = replace(RECIPIENT, request_id=request_id())
    preferences = Preferences(services().engine, services().clock, actor)
    if form.get(ONE_CLICK[0]) == ONE_CLICK[1]:
        preferences.unsubscribe(link.tenant_id, link.user_id, link.channel, link.occasion_id, _BY_MAILBOX)
    elif chosen := _scope(link, form.get("unsubscribe")):
        preferences.unsubscribe(link.tenant_id, link.user_id, link.channel, chosen.occasion_id, _BY_PAGE)
    elif chosen := _scope(link, form.get("undo")):
        preferences.resubscribe(link.tenant_id, link.user_id, link.channel, chosen.occasion_id, _BY_PAGE)
    else:
        raise BadRequest("the form must say List-Unsubscribe=One-Click, or unsubscribe or undo what")
    return _page(link, was_changed=True)


def _scope(link: UnsubscribeLink, chosen: str | None) -> _Scope | None:
    match chosen:
        case "occasion":
            return _Scope(link.occasion_id)
        case "channel":
            return _Scope(None)
        case _:
            return None


def _read(token: str) -> UnsubscribeLink:
    signer = cast("LinkSigner | None", current_app.extensions[_EXTENSION])
    if signer is None:
        raise InvalidLink
    return signer.read(token)


def _page(link: UnsubscribeLink, *, was_changed: bool = False) -> Response:
    with services().reading() as connection:
        occasion = occasions.by_id(connection, [link.occasion_id]).get(link.occasion_id)
        found = stored_preferences.unsubscribes(connection, link.tenant_id, link.user_id)
    ended = {each.occasion_id for each in found if each.channel is link.channel}
    is_ours = occasion is not None and occasion.tenant_id == link.tenant_id
    page = render_template(
        "unsubscribe.html",
        occasion=occasion.name if occasion is not None and is_ours else None,
        many=_MANY[link.channel],
        channel_ended=None in ended,
        occasion_ended=link.occasion_id in ended,
        was_changed=was_changed,
    )
    return Response(page, headers=_HEADERS, content_type="text/html; charset=utf-8")


def _no_such_link() -> Response:
    """The answer to a link that is not ours: a page for people, a problem for programs."""
    if request.accept_mimetypes.best_match([_PROBLEM, _HTML]) != _HTML:
        raise InvalidLink
    return Response(
        render_template("unsubscribe_unknown.html"),
        HTTPStatus.NOT_FOUND,
        _HEADERS,
        content_type="text/html; charset=utf-8",
    )
