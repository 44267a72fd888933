"""API keys as callers see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.models.answer import Answer
from api.models.words import Instant, Word, exactly_one
from scheduler.domain.access import Role, Scope

MOST_OVERLAP_SECONDS = 2_592_000


class KeyInput(BaseModel):
    """A key that is asked for: with a role or with scopes, none of which its creator lacks."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=exactly_one("role", "scopes")
    )

    name: Word
    role: Annotated[Role | None, Field(strict=False)] = None
    scopes: Annotated[
        list[Annotated[Scope, Field(strict=False)]] | None, Field(min_length=1, max_length=len(Scope))
    ] = None
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _says_what_it_grants(self) -> Self:
        if (self.role is None) == (self.scopes is None):
            raise ValueError("must have either role or scopes")
        return self


class RotationInput(BaseModel):
    """How long the old key lets its holder in beside the new one, in seconds; 0 ends it at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    overlap_seconds: Annotated[int, Field(ge=0, le=MOST_OVERLAP_SECONDS)] = 86_400


class KeyAnswer(Answer):
    """A key without what proves it. `scopes` is what it allows for now."""

    id: int
    name: str
    prefix: str
    state: Literal["active", "expired", "revoked"]
    role: Role | None
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To about a minute."""
    replaced_by: int | None


class IssuedKeyAnswer(Answer):
    """A new key. `key` is what its holder sends; it is shown this once."""

    api_key: KeyAnswer
    key: str


class OneKeyAnswer(Answer):
    """A key."""

    api_key: KeyAnswer


class KeyListAnswer(Answer):
    """A page of keys in order of id."""

    api_keys: list[KeyAnswer]
    next_cursor: str | None
