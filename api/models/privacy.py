"""What a person may ask to know and to be forgotten, as callers see it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, WithJsonSchema

from api.models.answer import Answer
from scheduler.domain.user import SOME_TEXT_PATTERN, TEXT_PATTERN, ExternalId

MOST_REASON_CHARACTERS = 500

Reason = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=MOST_REASON_CHARACTERS, pattern=TEXT_PATTERN
    ),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": MOST_REASON_CHARACTERS, "pattern": SOME_TEXT_PATTERN}
    ),
]


class EraseInput(BaseModel):
    """Why a person is erased. It is kept in the audit log, so it must name nobody."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reason: Reason


class AllowInput(BaseModel):
    """Who may come back, and why. The reason is kept in the audit log, so it must name nobody."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    external_id: ExternalId
    reason: Reason


class PrivacyExportAnswer(Answer):
    """All that is stored of a person, table by table."""

    user: dict[str, Any] | None
    """Null: they were deleted."""
    messages: list[dict[str, Any]]
    """Each with the attempts that failed and what providers reported."""
    inbox: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]
    unsubscribes: list[dict[str, Any]]
    suppressions: list[dict[str, Any]]
    """Of the addresses they have and had."""
    sends: list[dict[str, Any]]
    """What was sent to them alone."""
    deleted: list[dict[str, Any]]
    """By which external ids they are known to have been deleted."""
    audit: list[dict[str, Any]]


class ErasedAnswer(Answer):
    """What an erasure did. Rows that are left hold the id and nothing personal."""

    user_id: int
    already: bool
    """They had been erased before; what was left is gone now."""
    removed_messages: int
    rows: dict[str, int]
    """What was removed or emptied, by kind."""


class AllowedAnswer(Answer):
    """Whether anything had kept them from coming back."""

    allowed: bool
