"""The `{field}`s that the request of a message may name.

Every message has `id`, `channel`, `address`, `subject`, `text`, `html`, `locale`, `unsubscribe_url` (the last three
and the subject may be empty) and `tag`: its id with dashes for dots, for providers that take only letters, digits
and dashes in their tags. Besides these there are the message's own `fields`; one of the same name is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from scheduler.domain.message import ENVELOPE_FIELDS
from worker.channels.port import OutgoingMessage

ATTRIBUTES: Final = frozenset({"id", "channel", "address", "subject", "text", "locale"})
"""The fields that are attributes of every message, by the same name, and texts."""

_COMMON: Final = frozenset({"id", "address", "subject", "text"})


class Unsendable(Exception):
    """The message cannot be written as a request. `category` and `detail` are as in `Failed`."""

    def __init__(self, category: str, detail: str) -> None:
        self.category = category
        self.detail = detail
        super().__init__(detail)


class FieldReader:
    """Reads from messages what templates with these `names` need, and not much more."""

    def __init__(self, names: Iterable[str]) -> None:
        named = frozenset(names)
        self._needs_fields = not named <= ENVELOPE_FIELDS
        self._needs_channel = "channel" in named
        self._needs_rest = not named.isdisjoint(ENVELOPE_FIELDS - _COMMON - {"channel"})

    def read(self, message: OutgoingMessage) -> Mapping[str, str]:
        """The values of the named fields, as far as the message has them; there may be others."""
        values = {
            "id": message.id,
            "address": message.address,
            "subject": message.subject,
            "text": message.text,
        }
        if self._needs_channel:
            values["channel"] = message.channel.value
        if self._needs_rest:
            values |= {
                "html": message.html or "",
                "locale": message.locale,
                "tag": message.id.replace(".", "-"),
                "unsubscribe_url": message.unsubscribe_url or "",
            }
        return {**message.fields, **values} if self._needs_fields else values
