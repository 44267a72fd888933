"""Dead letters: list, read, replay, discard; one of them, or all that a filter means.

Who means all of them says so (`{"all": true}`): an empty filter is refused, so that nobody replays everything by
a slip. A request that replays or discards many is answered when all are moved, some thousands a second; when
it breaks off, what was moved stays so, and the same request again does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from flask import Blueprint, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from sqlalchemy import Connection

from api.answers import json_answer
from api.bodies import read_body
from api.messages import message_as_json
from api.queries import (
    InvalidQuery,
    NoQuery,
    PageQuery,
    id_from_cursor,
    read_query,
    to_cursor,
)
from api.services import services
from api.tenancy import tenant_id
from scheduler.clock import as_utc
from scheduler.dead_letters import (
    DEFAULT_MESSAGES_PER_SECOND,
    LEAST_MESSAGES_PER_SECOND,
    MOST_MESSAGES_PER_SECOND,
    MOST_REASON_CHARACTERS,
    DeadLetters,
    Replayed,
)
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel
from scheduler.errors import InvalidInput, NotFound
from scheduler.store import dead_letters as stored_letters
from scheduler.store import message_queries, occasions
from scheduler.store.dead_letters import DeadLetter, DeadLetterFilter

dead_letters = Blueprint("dead_letters", __name__, url_prefix="/api/v1/dead-letters")

MAY_BE_SENT_ALREADY: Final = (
    "the outcome of the last attempt is not known: the provider may have accepted the message already; "
    "it is given the same idempotency key again"
)

_CURSOR_KIND: Final = "dead-letter"
_FIRST_YEAR: Final = 1900
_LAST_YEAR: Final = 2999
_INSTANT_MESSAGE: Final = "must be an instant with its zone, such as 2027-03-01T09:00:00Z"


def _parse_instant(value: object) -> datetime:
    try:
        instant = as_utc(datetime.fromisoformat(value)) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        instant = None
    if instant is None or not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError(_INSTANT_MESSAGE)
    return instant


def _check_word(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not contain control characters")
    return value


Instant = Annotated[datetime, BeforeValidator(_parse_instant)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_check_word)]


class Criteria(BaseModel):
    """Which dead letters are meant. `died_from` is included, `died_until` is not."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    category: Word | None = None
    occasion: Word | None = None
    channel: Annotated[Channel, Field(strict=False)] | None = None
    user_id: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    provider: Word | None = None
    died_from: Instant | None = None
    died_until: Instant | None = None
    discarded: bool = False


class DeadLetterListQuery(Criteria, PageQuery):
    """Which dead letters to list: open ones, or discarded ones."""


class FilterBody(Criteria):
    """Which dead letters to move: at least one criterion, or `all`."""

    all: Literal[True] | None = None

    def narrows(self) -> bool:
        """Whether it names anything but which of the two lists is meant."""
        return bool(self.model_dump(exclude_none=True, exclude={"all", "discarded"}))

    def check(self) -> Self:
        """This filter. Raises InvalidInput unless it either narrows or says that all are meant."""
        if self.all is not None and self.narrows():
            raise InvalidInput([FieldError("/filter/all", "must not stand beside other criteria")])
        if self.all is None and not self.narrows():
            message = 'must name what is meant; {"all": true} means all of them'
            raise InvalidInput([FieldError("/filter", message)])
        return self


class ReplayBody(BaseModel):
    """What to replay, and how fast."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    filter: FilterBody
    messages_per_second: Annotated[
        float, Field(ge=LEAST_MESSAGES_PER_SECOND, le=MOST_MESSAGES_PER_SECOND)
    ] = DEFAULT_MESSAGES_PER_SECOND


class ReasonBody(BaseModel):
    """Why something is discarded, for those who look for it later."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    reason: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_REASON_CHARACTERS),
        AfterValidator(_check_word),
    ]


class DiscardBody(ReasonBody):
    """What to discard, and why."""

    filter: FilterBody


@dead_letters.get("")
def list_dead_letters() -> Response:
    """A page of dead letters, the newest first; the first page counts all that match by category."""
    query = read_query(DeadLetterListQuery)
    before = id_from_cursor(_CURSOR_KIND, query.cursor)
    with services().reading() as connection:
        wanted = _filter(connection, query, InvalidQuery, "/occasion")
        found = stored_letters.page(connection, tenant_id(), wanted, before=before, most=query.limit + 1)
        counts = stored_letters.counts(connection, tenant_id(), wanted) if before is None else None
        shown = found[: query.limit]
        keys = _occasion_keys(connection, shown)
    more = len(found) > query.limit
    return json_answer(
        {
            "dead_letters": [_as_json(letter, keys) for letter in shown],
            "counts": counts,
            "next_cursor": to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None,
        }
    )


@dead_letters.get("/<identity:letter_id>")
def read_dead_letter(letter_id: int) -> Response:
    """A dead letter with its message and every attempt that failed; the message is null once the log has let it go."""
    read_query(NoQuery)
    with services().reading() as connection:
        letter = stored_letters.find(connection, tenant_id(), letter_id)
        if letter is None:
            raise NotFound("dead letter", letter_id)
        history = message_queries.find(connection, tenant_id(), letter.key)
        keys = _occasion_keys(connection, [letter])
    message = None if history is None else message_as_json(history.message, keys)
    attempts = [] if history is None else [asdict(attempt) for attempt in history.attempts]
    return json_answer(
        {"dead_letter": _as_json(letter, keys), "message": message, "failed_attempts": attempts}
    )


@dead_letters.post("/<identity:letter_id>/replay")
def replay_dead_letter(letter_id: int) -> Response:
    """Try a message again, at once."""
    read_query(NoQuery)
    return json_answer(_replayed_as_json(_service().replay_one(tenant_id(), letter_id)))


@dead_letters.post("/<identity:letter_id>/discard")
def discard_dead_letter(letter_id: int) -> Response:
    """Close a dead letter; its message stays dead."""
    body = read_body(ReasonBody)
    letter = _service().discard_one(tenant_id(), letter_id, body.reason)
    with services().reading() as connection:
        keys = _occasion_keys(connection, [letter])
    return json_answer({"dead_letter": _as_json(letter, keys)})


@dead_letters.post("/replay")
def replay_dead_letters() -> Response:
    """Try again what a filter means, at the rate given."""
    body = read_body(ReplayBody)
    wanted = _filter_of_body(body.filter)
    return json_answer(_replayed_as_json(_service().replay(tenant_id(), wanted, body.messages_per_second)))


@dead_letters.post("/discard")
def discard_dead_letters() -> Response:
    """Close what a filter means; the messages stay dead."""
    body = read_body(DiscardBody)
    if body.filter.discarded:
        raise InvalidInput([FieldError("/filter/discarded", "must be false: these are discarded already")])
    return json_answer(
        {"discarded": _service().discard(tenant_id(), _filter_of_body(body.filter), body.reason)}
    )


def _service() -> DeadLetters:
    here = services()
    return DeadLetters(here.engine, here.clock, here.settings.retry_max_attempts)


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
