"""Addresses of a channel: which are right, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel
from scheduler.domain.user import Email, Phone, PushToken, WebhookUrl, field_errors

_ADAPTERS: Final[Mapping[Channel, TypeAdapter[str]]] = {
    Channel.EMAIL: TypeAdapter(Email),
    Channel.SMS: TypeAdapter(Phone),
    Channel.PUSH: TypeAdapter(PushToken),
    Channel.WEBHOOK: TypeAdapter(WebhookUrl),
}

ADDRESSED: Final = tuple(_ADAPTERS)
"""The channels that have addresses; the others reach a user without one."""


def address_schema(channel: Channel) -> dict[str, Any]:
    """The JSON schema of an address of one of the channels that have some."""
    return _ADAPTERS[channel].json_schema()


def normal_address(channel: Channel, address: str) -> str:
    """The form in which two addresses are compared: blanks around it gone, e-mail in lower case.

    The part before the @ may tell cases apart by the letter of RFC 5321 §2.4; no mailbox of note does, and
    who complained as Ann@example.org must not be written to as ann@example.org.
    """
    address = address.strip()
    return address.lower() if channel is Channel.EMAIL else address


def address_errors(channel: Channel, address: str) -> list[FieldError]:
    """What is wrong with an address of a channel, at the pointer `""`; it is not repeated in the message."""
    adapter = _ADAPTERS.get(channel)
    if adapter is None:
        return [FieldError("", f"the channel {channel} has no addresses")]
    try:
        adapter.validate_python(address, strict=True)
    except ValidationError as error:
        return field_errors(error)
    return []
