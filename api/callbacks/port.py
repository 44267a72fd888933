"""What a reader of callbacks is given, and what it answers: a reader for each provider's way of signing.

A reader verifies first and reads then: nothing of a body is believed that its sender has not signed. Events it
does not know, or that are about no message of ours, are left out: providers tell more than is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import SecretStr
from werkzeug.exceptions import BadRequest

from scheduler.domain.delivery_event import DeliveryEvent
from scheduler.domain.message import MessageKey
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry


class NotAuthentic(Exception):
    """The request was not signed by whom it should be; its text says what is missing, and nothing of the key."""


@dataclass(frozen=True, slots=True)
class CallbackRequest:
    """A request as it came. `url` is the address the provider called, as the public knows it.

    The names of `headers` are in lower case.
    """

    url: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: datetime


Reader = Callable[[ProviderEntry, CallbackRequest], list[DeliveryEvent]]
"""Raises NotAuthentic, BadRequest for what makes no sense, or ConfigurationError where the key is not set."""


def secret_option(entry: ProviderEntry, name: str) -> str:
    """An option of the provider that callbacks cannot be checked without."""
    value = entry.options.get(name)
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not text:
        raise ConfigurationError(
            f"provider {entry.name}: callbacks need the option {name} in the providers file"
        )
    return text


def parse_json(body: bytes | str) -> Any:
    """A signed body as JSON. Raises BadRequest."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None


def parse_key(text: object) -> MessageKey | None:
    """The message an event is about, by its id or by its tag (dashes for dots); None: none of ours."""
    if not isinstance(text, str):
        return None
    try:
        return MessageKey.parse(text.replace("-", "."))
    except ValueError:
        return None


_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def instant_of_seconds(seconds: object, otherwise: datetime) -> datetime:
    """An instant given in seconds of the Unix epoch; `otherwise` where it is none."""
    if isinstance(seconds, int | float) and 0 <= seconds < _LATEST:
        return datetime.fromtimestamp(seconds, UTC)
    return otherwise


def instant_of_text(text: object, otherwise: datetime) -> datetime:
    """An instant in RFC 3339; `otherwise` where it is none, or says no offset."""
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        instant = None
    return otherwise if instant is None or instant.tzinfo is None else credible(instant, otherwise)


def credible(instant: datetime, otherwise: datetime) -> datetime:
    """An aware instant in UTC; `otherwise` where it lies outside of the years that are kept."""
    try:
        in_utc = instant.astimezone(UTC)
    except OverflowError:
        return otherwise
    return in_utc if 1970 <= in_utc.year < 9999 else otherwise


def storable(text: object) -> str:
    """A text as the database takes it: without NUL and lone surrogates."""
    return str(text).replace("\0", "").encode(errors="replace").decode()
