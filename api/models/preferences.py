"""The suppression list and what users want no more of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.models.answer import Answer
from api.queries import PageQuery
from scheduler.domain.address import ADDRESSED, address_schema
from scheduler.domain.occasion import Channel
from scheduler.domain.suppression import SuppressionReason

_LONGEST_ADDRESS: Final = 4096
# A request line has room for no more, each character written as up to twelve.
_LONGEST_LOOKED_UP: Final = 400


def _one_of(choices: type[Channel | SuppressionReason]) -> BeforeValidator:
    """One of the values, refused in words that name them all."""

    def parse(value: object) -> object:
        if isinstance(value, str) and value in set(choices):
            return choices(value)
        raise ValueError(f"must be one of {', '.join(choices)}")

    return BeforeValidator(parse)


ChannelName = Annotated[Channel, _one_of(Channel)]
ReasonName = Annotated[SuppressionReason, _one_of(SuppressionReason)]


def _address_by_channel(schema: dict[str, Any]) -> None:
    """What an address is depends on the channel."""
    schema["oneOf"] = [
        {"properties": {"channel": {"const": str(channel)}, "address": address_schema(channel)}}
        for channel in ADDRESSED
    ]


class SuppressionInput(BaseModel):
    """An address to put on the list."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra=_address_by_channel,
    )

    channel: ChannelName
    address: Annotated[str, Field(max_length=_LONGEST_ADDRESS, examples=["ann@example.org"])]
    reason: ReasonName = SuppressionReason.MANUAL


class SuppressionListQuery(PageQuery):
    """Which addresses to list. An address is looked up on its channel."""

    channel: ChannelName | None = None
    reason: ReasonName | None = None
    address: Annotated[str, Field(max_length=_LONGEST_LOOKED_UP)] | None = None


class SuppressionAnswer(Answer):
    """An address that is not written to on a channel."""

    id: int
    channel: Channel
    address: str
    reason: SuppressionReason
    source: str
    """Who put it there."""
    created_at: datetime


class OneSuppressionAnswer(Answer):
    """An entry of the suppression list."""

    suppression: SuppressionAnswer


class SuppressionListAnswer(Answer):
    """A page of the suppression list in order of arrival."""

    suppressions: list[SuppressionAnswer]
    next_cursor: str | None


class NothingAnswer(Answer):
    """It is done, and there is nothing to tell."""


class UnsubscribeAnswer(Answer):
    """What a user wants no more of: an occasion on a channel, or all of the channel."""

    channel: Channel
    every_occasion: bool
    occasion: str | None
    """The occasion's key; null where all of the channel is meant, or the occasion is gone."""
    source: str
    created_at: datetime


class UnsubscribeListAnswer(Answer):
    """All that a user wants no more of."""

    unsubscribes: list[UnsubscribeAnswer]
