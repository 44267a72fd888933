"""Options put into their places in a preset, so that no value can leave its place.

In a JSON document a value becomes a part of a string, never of the document; in a URL it is percent-encoded, except
where the URL begins with it; nowhere can it become a `{field}`. What names an option without a value is left out:
the member, element or form field, and what is empty for lack of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import quote

import orjson

from worker.channels.presets.schema import OPTION, Login

_LEFT_OUT: Final = object()


class Filling:
    """The values of a provider's options, by name; those without a value are not in it."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def has(self, name: str) -> bool:
        """Whether the option has a value."""
        return name in self._values

    def plain(self, source: str) -> str | None:
        """The text with values as they are; None where an option in it has none."""
        return self._fill(source, lambda value: value)

    def template(self, source: str) -> str | None:
        """The text as a template of fields, in which braces of values stand for themselves."""
        return self._fill(source, _without_fields)

    def pattern(self, source: str) -> str | None:
        """The text as a regular expression, in which values stand for themselves."""
        return self._fill(source, re.escape)

    def url(self, alternatives: Iterable[str]) -> str:
        """The first of the URLs whose options all have values; the preset sees to it that there is one."""
        filled = (self._url(source) for source in alternatives)
        return next(url for url in filled if url is not None)

    def login(self, alternatives: Iterable[Login]) -> tuple[str, str] | None:
        """The first user and password whose options all have values."""
        for login in alternatives:
            user, password = self.plain(login.user), self.plain(login.password)
            if user is not None and password is not None:
                return user, password
        return None

    def templates(self, sources: Mapping[str, str]) -> dict[str, str]:
        """Those of the named templates whose options all have values."""
        filled = {name: self.template(source) for name, source in sources.items()}
        return {name: text for name, text in filled.items() if text is not None}

    def document(self, source: str) -> object:
        """The JSON document, parsed."""
        return self._strings(orjson.loads(source))

    def pairs(self, source: str) -> list[list[str]]:
        """The JSON array of `[name, value]` pairs, parsed."""
        filled = ((name, self.template(value)) for name, value in orjson.loads(source))
        return [[name, text] for name, text in filled if text is not None]

    def _url(self, source: str) -> str | None:
        begin = OPTION.match(source)
        if begin is None:
            return self._fill(source, _encoded)
        rest = self._fill(source[begin.end() :], _encoded)
        start = self._values.get(begin[1])
        # A path is joined to a server's address, with or without its last slash.
        return None if start is None or rest is None else _without_fields(start.rstrip("/")) + rest

    def _fill(self, source: str, form: Callable[[str], str]) -> str | None:
        if not self._values.keys() >= set(OPTION.findall(source)):
            return None
        return OPTION.sub(lambda option: form(self._values[option[1]]), source)

    def _strings(self, value: object) -> object:
        match value:
            case str():
                text = self.template(value)
                return _LEFT_OUT if text is None else text
            case dict():
                members = {name: self._strings(member) for name, member in value.items()}
                kept = {name: member for name, member in members.items() if member is not _LEFT_OUT}
                return kept if kept or not value else _LEFT_OUT
            case list():
                elements = [one for one in map(self._strings, value) if one is not _LEFT_OUT]
                return elements if elements or not value else _LEFT_OUT
            case _:
                return value


def _without_fields(value: str) -> str:
    return value.replace("{", "{{").replace("}", "}}")


def _encoded(value: str) -> str:
    return quote(value, safe="")
