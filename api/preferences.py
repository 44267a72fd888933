"""Preferences: the suppression list by address, and what each user wants no more of.

Both are looked at when a message is claimed, so a change counts for all that is not on its way by then. Both stay
when a user is deleted: whoever is imported again must not be written to for that.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from flask import Blueprint, Response

from api.access import current_actor
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.models.preferences import (
    NothingAnswer,
    OneSuppressionAnswer,
    SuppressionInput,
    SuppressionListAnswer,
    SuppressionListQuery,
    UnsubscribeListAnswer,
)
from api.people import user_id_of
from api.queries import InvalidQuery, NoQuery, id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.address import address_errors
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel
from scheduler.errors import InvalidInput, NotFound
from scheduler.preferences import Preferences
from scheduler.store import preferences as stored_preferences
from scheduler.store.preferences import Suppression, Unsubscribe

preferences = Blueprint("preferences", __name__, url_prefix="/api/v1")

_SOURCE: Final = "api"
_CURSOR_KIND: Final = "suppression"


@preferences.get("/suppressions")
@endpoint(Scope.USERS_READ, query=SuppressionListQuery, answers={200: SuppressionListAnswer})
def list_suppressions() -> Response:
    """A page of the suppression list in order of arrival."""
    query = read_query(SuppressionListQuery)
    if query.address is not None:
        found = _look_up(query)
    else:
        with services().reading() as connection:
            found = stored_preferences.suppressions(
                connection,
                tenant_id(),
                after=id_from_cursor(_CURSOR_KIND, query.cursor) or 0,
                most=query.limit + 1,
                channel=query.channel,
                reason=query.reason,
            )
    shown, more = found[: query.limit], len(found) > query.limit
    next_cursor = to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None
    return json_answer({"suppressions": [asdict(each) for each in shown], "next_cursor": next_cursor})


@preferences.post("/suppressions")
@endpoint(
    Scope.USERS_WRITE, body=SuppressionInput, answers={200: OneSuppressionAnswer, 201: OneSuppressionAnswer}
)
def suppress() -> Response:
    """Put an address on the list: 201, or 200 with the entry that was there already."""
    given = read_body(SuppressionInput)
    if errors := address_errors(given.channel, given.address):
        raise InvalidInput(FieldError(f"/address{each.pointer}", each.message) for each in errors)
    entry, is_new = _preferences().suppress(tenant_id(), given.channel, given.address, given.reason, _SOURCE)
    return json_answer({"suppression": asdict(entry)}, 201 if is_new else 200)


@preferences.delete("/suppressions/<identity:suppression_id>")
@endpoint(Scope.USERS_WRITE, query=NoQuery, answers={200: NothingAnswer})
def unsuppress(suppression_id: int) -> Response:
    """Take an entry off the list."""
    read_query(NoQuery)
    _preferences().unsuppress_by_id(tenant_id(), suppression_id)
    return json_answer({})


@preferences.get("/users/<identity:user_id>/unsubscribes")
@endpoint(Scope.USERS_READ, query=NoQuery, answers={200: UnsubscribeListAnswer})
def list_unsubscribes(user_id: int) -> Response:
    """All that a user wants no more of."""
    read_query(NoQuery)
    return _of_user(user_id)


@preferences.get("/users/external/<path:external_id>/unsubscribes")
@endpoint(Scope.USERS_READ, query=NoQuery, answers={200: UnsubscribeListAnswer})
def list_external_unsubscribes(external_id: str) -> Response:
    """All that the user of this external id wants no more of."""
    read_query(NoQuery)
    return _of_user(user_id_of(external_id))


@preferences.put("/users/<identity:user_id>/unsubscribes/<channel>")
@preferences.put("/users/<identity:user_id>/unsubscribes/<channel>/<occasion>")
@endpoint(Scope.USERS_WRITE, query=NoQuery, answers={200: UnsubscribeListAnswer})
def unsubscribe(user_id: int, channel: str, occasion: str | None = None) -> Response:
    """No more of an occasion on a channel, or of the whole channel; answers all of the user's."""
    read_query(NoQuery)
    return _unsubscribe(user_id, channel, occasion)


@preferences.put("/users/external/<path:external_id>/unsubscribes/<channel>")
@preferences.put("/users/external/<path:external_id>/unsubscribes/<channel>/<occasion>")
@endpoint(Scope.USERS_WRITE, query=NoQuery, answers={200: UnsubscribeListAnswer})
def unsubscribe_external(external_id: str, channel: str, occasion: str | None = None) -> Response:
    """No more of an occasion on a channel, or of the whole channel, to the user of this external id."""
    read_query(NoQuery)
    return _unsubscribe(user_id_of(external_id), channel, occasion)


@preferences.delete("/users/<identity:user_id>/unsubscribes/<channel>")
@preferences.delete("/users/<identity:user_id>/unsubscribes/<channel>/<occasion>")
@endpoint(Scope.USERS_WRITE, query=NoQuery, answers={200: UnsubscribeListAnswer})
def resubscribe(user_id: int, channel: str, occasion: str | None = None) -> Response:
    """Take back exactly this one; answers those that are left. That there was none is no error."""
    read_query(NoQuery)
    return _resubscribe(user_id, channel, occasion)


@preferences.delete("/users/external/<path:external_id>/unsubscribes/<channel>")
@preferences.delete("/users/external/<path:external_id>/unsubscribes/<channel>/<occasion>")
@endpoint(Scope.USERS_WRITE, query=NoQuery, answers={200: UnsubscribeListAnswer})
def resubscribe_external(external_id: str, channel: str, occasion: str | None = None) -> Response:
    """Take back exactly this one of the user of this external id; answers those that are left."""
    read_query(NoQuery)
    return _resubscribe(user_id_of(external_id), channel, occasion)


def _unsubscribe(user_id: int, channel: str, occasion: str | None) -> Response:
    parts = _preferences()
    parts.of_user(tenant_id(), user_id)
    parts.unsubscribe(tenant_id(), user_id, _channel(channel), _occasion_id(parts, occasion), _SOURCE)
    return _of_user(user_id)


def _resubscribe(user_id: int, channel: str, occasion: str | None) -> Response:
    parts = _preferences()
    parts.of_user(tenant_id(), user_id)
    parts.resubscribe(tenant_id(), user_id, _channel(channel), _occasion_id(parts, occasion), _SOURCE)
    return _of_user(user_id)


def _preferences() -> Preferences:
    return Preferences(services().engine, services().clock, current_actor())


def _look_up(query: SuppressionListQuery) -> list[Suppression]:
    """The entry of an address, unless another filter leaves it out."""
    if query.channel is None:
        raise InvalidQuery([FieldError("/channel", "is required beside address")])
    if query.cursor is not None or address_errors(query.channel, query.address or ""):
        return []
    with services().reading() as connection:
        entry = stored_preferences.suppression_of(connection, tenant_id(), query.channel, query.address or "")
    return [entry] if entry is not None and query.reason in (None, entry.reason) else []


def _channel(name: str) -> Channel:
    if name not in set(Channel):
        raise NotFound("channel", name)
    return Channel(name)


def _occasion_id(parts: Preferences, key: str | None) -> int | None:
    return None if key is None else parts.occasion_id(tenant_id(), key)


def _of_user(user_id: int) -> Response:
    found = _preferences().of_user(tenant_id(), user_id)
    return json_answer({"unsubscribes": [_as_json(each) for each in found]})


def _as_json(unsubscribed: Unsubscribe) -> dict[str, Any]:
    """`occasion` is null where all of the channel is meant; `every_occasion` says so."""
    return {
        "channel": unsubscribed.channel,
        "every_occasion": unsubscribed.occasion_id is None,
        "occasion": unsubscribed.occasion,
        "source": unsubscribed.source,
        "created_at": unsubscribed.created_at,
    }
