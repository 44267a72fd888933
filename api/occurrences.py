"""What is to come: an occasion before it is saved, and the next occurrences of a user. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.answers import json_answer, time_of_day
from api.endpoint import endpoint
from api.models.occasions import (
    OccurrencesAnswer,
    OccurrencesQuery,
    PreviewAnswer,
    PreviewBody,
)
from api.occasion_views import local_instant, previewed_as_json, read_occasion_body, warnings_for
from api.people import user_of
from api.queries import NoQuery, read_query
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.domain.message import MessageKey, MessageState, NotSentReason
from scheduler.domain.occasion import Channel, Occasion
from scheduler.domain.occasion_input import occasion_of
from scheduler.domain.upcoming import Occurrence, upcoming
from scheduler.errors import InvalidInput
from scheduler.occasion_preview import (
    PreviewPolicy,
    Recipient,
    addresses_of,
    person_of,
    preview,
    reachable,
    sample_for,
)
from scheduler.service import links_for
from scheduler.store import backlogs, occasion_groups, preferences
from scheduler.store import occasions as stored_occasions
from scheduler.store import users as stored_users
from scheduler.store.users import StoredUser
from scheduler.texts.checking import check_texts
from scheduler.user_group import UserKey

occurrences = Blueprint("occurrences", __name__, url_prefix="/api/v1")

_SAMPLES: Final = 3


@occurrences.post("/occasions/preview")
@endpoint(
    Scope.OCCASIONS_READ,
    query=NoQuery,
    body=PreviewBody,
    answers={200: PreviewAnswer},
    errors=(HTTPStatus.UNPROCESSABLE_ENTITY,),
)
def preview_occasion() -> Response:
    """Who would get what, when and in what words, of an occasion that nobody has saved; on odd days as well."""
    read_query(NoQuery)
    body = read_occasion_body(PreviewBody)
    occasion = occasion_of(body.occasion, tenant_id())
    _check(occasion)
    settings = services().settings
    previewed = preview(
        occasion,
        _recipients(body, occasion),
        PreviewPolicy(settings.quiet_hours, links_for(settings)),
        now=services().clock.now(),
        most=body.next,
        with_odd_days=body.odd_days,
    )
    return json_answer(
        {
            "users": [previewed_as_json(each) for each in previewed],
            "warnings": warnings_for(occasion.channels),
        }
    )


@occurrences.get("/users/<identity:user_id>/occurrences")
@endpoint(
    Scope.USERS_READ,
    query=OccurrencesQuery,
    answers={200: OccurrencesAnswer},
    errors=(HTTPStatus.NOT_FOUND,),
)
def list_occurrences(user_id: int) -> Response:
    """The next occurrences of a user, of all active occasions, planned already or not, and what would be withheld."""
    return _occurrences(user_id)


@occurrences.get("/users/external/<path:external_id>/occurrences")
@endpoint(
    Scope.USERS_READ,
    query=OccurrencesQuery,
    answers={200: OccurrencesAnswer},
    errors=(HTTPStatus.NOT_FOUND,),
)
def list_external_occurrences(external_id: str) -> Response:
    """The next occurrences of the user of this external id, of all active occasions."""
    return _occurrences(external_id)


def _occurrences(key: UserKey) -> Response:
    query = read_query(OccurrencesQuery)
    now = services().clock.now()
    with services().reading() as connection:
        user = user_of(connection, key)
        person = person_of(user.values)
        found = [
            (occasion, each)
            for occasion in stored_occasions.list_all(connection, tenant_id())
            if occasion.active
            for each in upcoming(occasion, person, now, query.next)
        ]
        found.sort(key=lambda pair: (pair[1].send_at, pair[0].id, pair[1].slot))
        shown = found[: query.next]
        dates = [each.local_date for _, each in shown] or [now.date()]
        states = backlogs.states_of_user(
            connection,
            tenant_id(),
            user.id,
            date_first=min(dates) - timedelta(days=1),
            date_last=min(max(dates), (now + services().settings.horizon).date() + timedelta(days=3)),
        )
        refusals = _refusals(connection, user)
    return json_answer(
        {"occurrences": [_as_json(user, occasion, each, states, refusals) for occasion, each in shown]}
    )


@dataclass(frozen=True, slots=True)
class _Refusals:
    """What is not to be sent to a user: on which channels, and of which occasions (None: of all)."""

    suppressed: frozenset[Channel]
    unsubscribed: frozenset[tuple[Channel, int | None]]

    def reason(self, key: MessageKey) -> NotSentReason | None:
        """Why a message would be withheld, as workers see it."""
        if key.channel in self.suppressed:
            return NotSentReason.SUPPRESSED
        if self.unsubscribed & {(key.channel, None), (key.channel, key.occasion_id)}:
            return NotSentReason.UNSUBSCRIBED
        return None


def _refusals(connection: Connection, user: StoredUser) -> _Refusals:
    wants_no_more = preferences.unsubscribes(connection, tenant_id(), user.id)
    addresses = addresses_of(user.values)
    return _Refusals(
        frozenset(
            channel
            for channel, address in addresses.items()
            if preferences.suppression_of(connection, tenant_id(), channel, address) is not None
        ),
        frozenset((each.channel, each.occasion_id) for each in wants_no_more),
    )


def _check(occasion: Occasion) -> None:
    """Raise InvalidInput for all that saving it would be refused for; each place as the body has it."""
    mistakes = check_texts(occasion)
    with services().reading() as connection:
        try:
            occasion_groups.check_group(connection, occasion)
        except InvalidInput as refused:
            mistakes += refused.errors
    if mistakes:
        raise InvalidInput([FieldError(f"/occasion{each.pointer}", each.message) for each in mistakes])


def _recipients(body: PreviewBody, occasion: Occasion) -> list[Recipient]:
    """Those that the body names, or the tenant's first users, or somebody made up."""
    if body.user_ids is not None or body.users is not None:
        return _stored(body.user_ids or []) + [Recipient(None, user) for user in body.users or []]
    with services().reading() as connection:
        ids = stored_users.ids_after(connection, tenant_id(), after=0, most=_SAMPLES)
        found = [stored_users.find(connection, tenant_id(), user_id) for user_id in ids]
    return [Recipient(user.id, user.values) for user in found if user] or [sample_for(occasion)]


def _stored(user_ids: list[int]) -> list[Recipient]:
    """Stored users by id. Raises InvalidInput that lists all there are not."""
    recipients, errors = [], []
    with services().reading() as connection:
        for place, user_id in enumerate(user_ids):
            user = stored_users.find(connection, tenant_id(), user_id)
            if user is None:
                errors.append(FieldError(f"/user_ids/{place}", "is not the id of a user"))
            else:
                recipients.append(Recipient(user.id, user.values))
    if errors:
        raise InvalidInput(errors)
    return recipients


def _as_json(
    user: StoredUser,
    occasion: Occasion,
    each: Occurrence,
    states: Mapping[MessageKey, MessageState],
    refusals: _Refusals,
) -> dict[str, Any]:
    assert each.send_at is not None, "what is skipped is not to come"
    keys = [
        MessageKey(occasion.id, user.id, each.local_date, each.slot, channel)
        for channel in reachable(user.values, occasion.channels)
    ]
    return {
        "occasion": occasion.key,
        "local_date": each.local_date,
        "local_time": time_of_day(each.local_time),
        "slot": each.slot,
        "date_rule": each.date_rule,
        "time_rule": each.time_rule,
        "send_at": each.send_at,
        "local": local_instant(each.send_at, user.values.timezone),
        "is_paused": occasion.paused_at is not None,
        "messages": [
            {
                "channel": key.channel,
                "id": key.text,
                "state": states.get(key),
                "withheld": refusals.reason(key),
            }
            for key in keys
        ],
    }
