"""Dead letters: list, read, replay, discard; one of them, or all that a filter means.

Who means all of them says so (`{"all": true}`): an empty filter is refused, so that nobody replays everything by
a slip. A request that replays or discards many is answered when all are moved, some thousands a second; when
it breaks off, what was moved stays so, and the same request again does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.access import current_actor
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.messages import message_as_json
from api.models.dead_letters import (
    Criteria,
    DeadLetterListAnswer,
    DeadLetterListQuery,
    DiscardBody,
    DiscardedAnswer,
    DiscardedLetterAnswer,
    FilterBody,
    OneDeadLetterAnswer,
    ReasonBody,
    ReplayBody,
    ReplayedAnswer,
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
from scheduler.clock import as_utc
from scheduler.dead_letters import (
    DeadLetters,
    Replayed,
)
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput, NotFound
from scheduler.store import dead_letters as stored_letters
from scheduler.store import message_queries, occasions
from scheduler.store.dead_letters import DeadLetter, DeadLetterFilter, Place

dead_letters = Blueprint("dead_letters", __name__, url_prefix="/api/v1/dead-letters")

MAY_BE_SENT_ALREADY: Final = (
    "the outcome of the last attempt is not known: the provider may have accepted the message already; "
    "it is given the same idempotency key again"
)

_CURSOR_KIND: Final = "dead-letter"
_LARGEST_ID: Final = 2**63 - 1


@dead_letters.get("")
@endpoint(Scope.OPERATIONS_READ, query=DeadLetterListQuery, answers={200: DeadLetterListAnswer})
def list_dead_letters() -> Response:
    """A page of dead letters, the newest first; the first page counts by category what matches.

    A page may be short, even empty, where few match: only one whose `next_cursor` is null is the last.
    """
    query = read_query(DeadLetterListQuery)
    before = _place(query.cursor)
    with services().reading() as connection:
        wanted = _filter(connection, query, InvalidQuery, "/occasion")
        found = stored_letters.page(connection, tenant_id(), wanted, before=before, most=query.limit)
        counts = (
            stored_letters.bounded_counts(connection, tenant_id(), wanted) if query.cursor is None else None
        )
        keys = _occasion_keys(connection, found.letters)
    return json_answer(
        {
            "dead_letters": [_as_json(letter, keys) for letter in found.letters],
            "counts": None if counts is None else counts.letters,
            "counts_are_exact": None if counts is None else counts.are_exact,
            "next_cursor": None if found.next is None else _cursor(found.next),
        }
    )


@dead_letters.get("/<identity:letter_id>")
@endpoint(Scope.OPERATIONS_READ, query=NoQuery, answers={200: OneDeadLetterAnswer})
def read_dead_letter(letter_id: int) -> Response:
    """A dead letter with its message and every attempt at it; the message is null once the log has let it go."""
    read_query(NoQuery)
    with services().reading() as connection:
        letter = stored_letters.find(connection, tenant_id(), letter_id)
        if letter is None:
            raise NotFound("dead letter", letter_id)
        history = message_queries.find(connection, tenant_id(), letter.key)
        keys = _occasion_keys(connection, [letter])
    message = None if history is None else message_as_json(history.message, keys)
    attempts = [] if history is None else [asdict(attempt) for attempt in history.attempts]
    return json_answer({"dead_letter": _as_json(letter, keys), "message": message, "attempts": attempts})


@dead_letters.post("/<identity:letter_id>/replay")
@endpoint(Scope.OPERATIONS_RUN, query=NoQuery, answers={200: ReplayedAnswer}, errors=(HTTPStatus.CONFLICT,))
def replay_dead_letter(letter_id: int) -> Response:
    """Try a message again, at once."""
    read_query(NoQuery)
    return json_answer(_replayed_as_json(_service().replay_one(tenant_id(), letter_id)))


@dead_letters.post("/<identity:letter_id>/discard")
@endpoint(
    Scope.OPERATIONS_RUN, body=ReasonBody, answers={200: DiscardedLetterAnswer}, errors=(HTTPStatus.CONFLICT,)
)
def discard_dead_letter(letter_id: int) -> Response:
    """Close a dead letter; its message stays dead."""
    body = read_body(ReasonBody)
    letter = _service().discard_one(tenant_id(), letter_id, body.reason)
    with services().reading() as connection:
        keys = _occasion_keys(connection, [letter])
    return json_answer({"dead_letter": _as_json(letter, keys)})


@dead_letters.post("/replay")
@endpoint(Scope.OPERATIONS_RUN, body=ReplayBody, answers={200: ReplayedAnswer})
def replay_dead_letters() -> Response:
    """Try again what a filter means, at the rate given."""
    body = read_body(ReplayBody)
    wanted = _filter_of_body(body.filter)
    return json_answer(_replayed_as_json(_service().replay(tenant_id(), wanted, body.messages_per_second)))


@dead_letters.post("/discard")
@endpoint(Scope.OPERATIONS_RUN, body=DiscardBody, answers={200: DiscardedAnswer})
def discard_dead_letters() -> Response:
    """Close what a filter means; the messages stay dead."""
    body = read_body(DiscardBody)
    if body.filter.discarded:
        raise InvalidInput([FieldError("/filter/discarded", "must be false: these are discarded already")])
    return json_answer(
        {"discarded": _service().discard(tenant_id(), _filter_of_body(body.filter), body.reason)}
    )


def _cursor(place: Place) -> str:
    return to_cursor(_CURSOR_KIND, f"{place.died_at.isoformat()}/{place.id}")


def _place(cursor: str | None) -> Place | None:
    """The place that a cursor names. Raises InvalidQuery."""
    if cursor is None:
        return None
    died_at, _, letter_id = from_cursor(_CURSOR_KIND, cursor).partition("/")
    try:
        place = Place(as_utc(datetime.fromisoformat(died_at)), int(letter_id))
    except (ValueError, OverflowError):
        raise unknown_cursor() from None
    if not 0 < place.id <= _LARGEST_ID:
        raise unknown_cursor()
    return place


def _service() -> DeadLetters:
    here = services()
    return DeadLetters(here.engine, here.clock, here.settings.retry_max_attempts, actor=current_actor())


def _filter_of_body(body: FilterBody) -> DeadLetterFilter:
    body.check()
    with services().reading() as connection:
        return _filter(connection, body, InvalidInput, "/filter/occasion")


def _filter(
    connection: Connection, criteria: Criteria, error: type[InvalidInput], pointer: str
) -> DeadLetterFilter:
    occasion_id = None
    if criteria.occasion is not None:
        found = occasions.find(connection, tenant_id(), criteria.occasion)
        if found is None:
            raise error([FieldError(pointer, "is not the key of an occasion")])
        occasion_id = found.id
    return DeadLetterFilter(
        category=criteria.category,
        occasion_id=occasion_id,
        channel=criteria.channel,
        user_id=criteria.user_id,
        provider=criteria.provider,
        died_from=criteria.died_from,
        died_until=criteria.died_until,
        discarded=criteria.discarded,
    )


def _occasion_keys(connection: Connection, letters: Iterable[DeadLetter]) -> dict[int, str]:
    found = occasions.by_id(connection, sorted({letter.key.occasion_id for letter in letters}))
    return {occasion.id: occasion.key for occasion in found.values()}


def _as_json(letter: DeadLetter, occasion_keys: Mapping[int, str]) -> dict[str, Any]:
    key = letter.key
    return {
        "id": letter.id,
        "message_id": key.text,
        "user_id": key.user_id,
        "occasion": occasion_keys.get(key.occasion_id),
        "local_date": key.local_date,
        "slot": key.slot,
        "channel": key.channel,
        "category": letter.category,
        "detail": letter.detail,
        "provider": letter.provider or None,
        "attempt": letter.attempt,
        "died_at": letter.died_at,
        "warning": MAY_BE_SENT_ALREADY if letter.outcome_unknown else None,
        "discarded_at": letter.discarded_at,
        "discard_reason": letter.discard_reason,
    }


def _replayed_as_json(replayed: Replayed) -> dict[str, Any]:
    return asdict(replayed) | {"warning": MAY_BE_SENT_ALREADY if replayed.outcome_unknown else None}
