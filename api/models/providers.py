"""The providers as callers see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, WithJsonSchema

from scheduler.domain.occasion import Channel
from scheduler.domain.user import SOME_TEXT_PATTERN, TEXT_PATTERN
from scheduler.provider_settings import UnknownOutcome


class HoldInput(BaseModel):
    """Why a provider is put on hold, for those who find it so."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    reason: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=TEXT_PATTERN),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 500, "pattern": SOME_TEXT_PATTERN}),
    ]


class RouteAnswer(BaseModel):
    """The providers of a channel, in order; a channel without any sends nothing: its messages wait."""

    channel: Channel
    providers: list[str]
    unknown_outcome: UnknownOutcome | None


class CircuitAnswer(BaseModel):
    """A provider's circuit in one worker process, as that last told."""

    process: str
    state: Literal["closed", "open", "half-open"]
    since: datetime
    seen_at: datetime
    openings: int
    category: str | None


class HoldAnswer(BaseModel):
    """That nothing is given to a provider, since when, by whom and why."""

    held_at: datetime
    held_by: str
    reason: str


class ProviderAnswer(BaseModel):
    """A provider; its options are not shown, any of them may be a secret."""

    name: str
    kind: str
    sandbox: bool
    messages_per_second: float | None
    concurrency: int | None
    hold: HoldAnswer | None
    bound_messages: int
    """About how many messages wait for it alone: it may have accepted them already, and no other is given them."""
    circuits: list[CircuitAnswer]


class ProviderListAnswer(BaseModel):
    """All channels and all providers."""

    channels: list[RouteAnswer]
    providers: list[ProviderAnswer]


class OneProviderAnswer(BaseModel):
    """A provider."""

    provider: ProviderAnswer
