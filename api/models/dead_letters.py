"""Dead letters as callers see them, and how they say which of them they mean."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from api.models.answer import Answer
from api.models.messages import AttemptAnswer, MessageAnswer
from api.models.words import Instant, Word
from api.queries import PageQuery
from scheduler.dead_letters import (
    DEFAULT_MESSAGES_PER_SECOND,
    LEAST_MESSAGES_PER_SECOND,
    MOST_MESSAGES_PER_SECOND,
    MOST_REASON_CHARACTERS,
)
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel
from scheduler.domain.user import SOME_TEXT_PATTERN, TEXT_PATTERN
from scheduler.errors import InvalidInput


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


def _narrows_or_means_all(schema: dict[str, Any]) -> None:
    criteria = [name for name in Criteria.model_fields if name != "discarded"]
    none = {name: {"type": "null"} for name in criteria}
    schema["oneOf"] = [
        {"required": ["all"], "properties": {"all": {"const": True}, **none}},
        {
            "properties": {"all": {"type": "null"}},
            "anyOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in criteria
            ],
        },
    ]


class FilterBody(Criteria):
    """Which dead letters to move: at least one criterion, or `all`."""

    model_config = ConfigDict(json_schema_extra=_narrows_or_means_all)

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
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=MOST_REASON_CHARACTERS, pattern=TEXT_PATTERN
        ),
        WithJsonSchema(
            {
                "type": "string",
                "maxLength": MOST_REASON_CHARACTERS,
                "pattern": SOME_TEXT_PATTERN,
                "minLength": 1,
            }
        ),
    ]


class DiscardBody(ReasonBody):
    """What to discard, and why."""

    filter: Annotated[FilterBody, Field(json_schema_extra={"properties": {"discarded": {"const": False}}})]


class DeadLetterAnswer(Answer):
    """A message that is not tried again by itself."""

    id: int
    message_id: str
    user_id: int
    occasion: str | None
    """The occasion's key."""
    local_date: date
    slot: int
    channel: Channel
    category: str
    """Why, in a word: `http_400`, `lateness_limit`."""
    detail: str
    provider: str | None
    attempt: int
    died_at: datetime
    warning: str | None
    """Where it may have been sent all the same."""
    discarded_at: datetime | None
    discard_reason: str | None


class DeadLetterListAnswer(Answer):
    """A page of dead letters, the newest first.

    It may be short, even empty: only one whose `next_cursor` is null is the last.
    """

    dead_letters: list[DeadLetterAnswer]
    counts: Mapping[str, int] | None
    """How many match by category, on the first page; of very many, those among the newest ten thousand of each
    category, or of the occasion, category, provider or user that is asked for.
    """
    counts_are_exact: bool | None
    """False: there may be more than the counts say."""
    next_cursor: str | None


class OneDeadLetterAnswer(Answer):
    """A dead letter, its message and every attempt at it."""

    dead_letter: DeadLetterAnswer
    message: MessageAnswer | None
    """Null once the log has let it go."""
    attempts: list[AttemptAnswer]


class DiscardedLetterAnswer(Answer):
    """A dead letter that has been closed."""

    dead_letter: DeadLetterAnswer


class ReplayedAnswer(Answer):
    """What a replay did, in dead letters."""

    replayed: int
    outcome_unknown: int
    """Of those replayed: the provider may have accepted them already. It is given the same keys."""
    settled: int
    """Removed without a replay: their messages had been settled meanwhile."""
    last_due_at: datetime | None
    """When the last of them falls due."""
    warning: str | None


class DiscardedAnswer(Answer):
    """How many dead letters were closed."""

    discarded: int
