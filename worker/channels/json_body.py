"""JSON request bodies with fields in them: `{"to": "{address}", "text": "{text}"}`.

A body template is a JSON document whose strings may hold fields, as in `worker/templates.py`; the names of
its members may not. Fields are filled in before the string is encoded, so no value can end its string or
add a member. The document is compiled once into the encoded text between those strings.
"""

from collections.abc import Mapping
from typing import Final

import orjson

from scheduler.domain.message import ENVELOPE_FIELDS
from scheduler.errors import ConfigurationError, InvalidInput
from worker.channels.port import OutgoingMessage
from worker.templates import MissingFieldError, Template, compile_template

MESSAGE_FIELDS: Final = ENVELOPE_FIELDS
"""Fields every message has of its own; a field of the same name among its `fields` is hidden by them."""

# A string that JSON leaves as it is and that no document holds: strings with fields are found again by it.
_MARK: Final = "\ue000daybreak field\ue000"


class JsonBody:
    """A compiled body. Made by `compile_json_body`."""

    def __init__(self, pattern: bytes, strings: tuple[Template, ...]) -> None:
        """Take the encoded document with `%b` for each of the `strings`."""
        self._pattern = pattern
        # A string that is nothing but a field needs no rendering.
        self._strings = tuple(string.only_field or string for string in strings)
        self._needs_fields = not MESSAGE_FIELDS.issuperset(
            name for string in strings for name in string.names
        )

    def encode(self, message: OutgoingMessage) -> bytes:
        """Return the document for one message, as UTF-8.

        Raises `MissingFieldError` where the message lacks a field, `TypeError` where a value is no valid Unicode.
        """
        values: Mapping[str, str] = {
            "id": message.id,
            "channel": message.channel.value,
            "address": message.address,
            "subject": message.subject,
            "text": message.text,
        }
        if self._needs_fields:
            values = {**message.fields, **values}
        try:
            texts = [values[one] if isinstance(one, str) else one.render(values) for one in self._strings]
        except KeyError as error:
            raise MissingFieldError(str(error.args[0])) from None
        return self._pattern % tuple(map(orjson.dumps, texts))


def compile_json_body(document: str) -> JsonBody:
    """Compile a body template; raises ConfigurationError that says what is wrong with it."""
    try:
        parsed = orjson.loads(document)
        strings: list[Template] = []
        marked = orjson.dumps(_mark_strings(parsed, strings))
    except (ValueError, TypeError, InvalidInput) as error:
        raise ConfigurationError(f"the JSON body template does not compile: {error}") from None
    pieces = marked.replace(b"%", b"%%").split(orjson.dumps(_MARK))
    if len(pieces) != len(strings) + 1:
        raise ConfigurationError("the JSON body template holds characters of the private use area")
    return JsonBody(b"%b".join(pieces), tuple(strings))


def _mark_strings(value: object, strings: list[Template]) -> object:
    """A copy of the document with every string that holds fields replaced by a mark, and listed."""
    match value:
        case dict():
            return {name: _mark_strings(member, strings) for name, member in value.items()}
        case list():
            return [_mark_strings(element, strings) for element in value]
        case str():
            template = compile_template(value, None)
            if not template.names:
                return template.render({})
            strings.append(template)
            return _MARK
        case _:
            return value
