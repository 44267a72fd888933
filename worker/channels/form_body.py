"""Request bodies of the form `application/x-www-form-urlencoded`, from a list of names and values with fields.

The template is a JSON array of `[name, value]` pairs of strings: `[["To", "{address}"], ["Body", "{text}"]]`. A name
may come more than once. One that ends in `?` is left out where none of the fields in its value has a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote_plus

import orjson

from scheduler.errors import ConfigurationError, InvalidInput
from worker.templates import Template, compile_template

CONTENT_TYPE: Final = "application/x-www-form-urlencoded"


class FormBody:
    """A compiled form. Made by `compile_form_body`; `names` are the fields it takes, and it has no `places`."""

    places: tuple[str, ...] = ()

    def __init__(self, pairs: list[tuple[str, Template]]) -> None:
        self.names = frozenset(name for _, value in pairs for name in value.names)
        self._pairs = [
            (quote_plus(name.removesuffix("?")) + "=", value, value.names if name.endswith("?") else None)
            for name, value in pairs
        ]

    def encode(self, values: Mapping[str, str], _inserted: object = None) -> bytes:
        """The form for the values of one message.

        Raises `MissingFieldError` where a value is missing, `UnicodeEncodeError` where one is no valid Unicode.
        """
        parts = [
            name + quote_plus(template.render(values))
            for name, template, optional in self._pairs
            if optional is None or any(values.get(field) for field in optional)
        ]
        return "&".join(parts).encode()


def compile_form_body(document: str) -> FormBody:
    """Compile a form template; raises ConfigurationError that says what is wrong with it."""
    try:
        return FormBody([_pair(pair) for pair in _array(orjson.loads(document))])
    except (ValueError, InvalidInput) as error:
        raise ConfigurationError(f"the form template does not compile: {error}") from None


def _array(document: object) -> list[object]:
    if not isinstance(document, list) or not document:
        raise ValueError("it is a JSON array of [name, value] pairs, at least one")
    return document


def _pair(pair: object) -> tuple[str, Template]:
    match pair:
        case [str(name), str(value)] if name.removesuffix("?"):
            template = compile_template(value, None)
            if name.endswith("?") and not template.names:
                raise ValueError(f"the value of {name!r} has no field to depend on")
            return name, template
        case _:
            raise ValueError("each element is a [name, value] pair of strings")
