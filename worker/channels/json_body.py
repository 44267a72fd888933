"""JSON request bodies with fields in them: `{"to": "{address}", "text": "{text}", "html?": "{html}"}`.

A body template is a JSON document whose strings may hold fields, as in `worker/templates.py`; the names of
its members may not. Fields are filled in before the string is encoded, so no value can end its string or
add a member. The document is compiled once into the encoded text between those strings.

What has no value can be left out. A field has a value where the message has it and it is not empty.

* A member whose name ends in `?` is left out where none of the fields inside its value, at any depth, has a
  value: `"reply?": {"to": "{reply_to}"}`. The `?` is not part of the name that is sent.
* An object with a member `"?"` is left out altogether, as a member or from its array, where none of the fields
  in that string has a value: `[{"type": "text", "value": "{text}"}, {"?": "{html}", "type": "html",
  "value": "{html}"}]`. The member `"?"` itself is never sent.

Two strings stand for something other than text, where they are the whole string: `"{fields}"` is the object of
the message's own fields, for providers with templates of their own; `"{messages}"` is the array of messages of
a request that carries several (see `BatchForm`).
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Final, NamedTuple

import orjson

from scheduler.errors import ConfigurationError, InvalidInput
from worker.templates import MissingFieldError, Template, compile_template

FIELDS_PLACE: Final = "fields"
MESSAGES_PLACE: Final = "messages"
MOST_OPTIONAL_FIELDS: Final = 10  # each doubles the forms that a body may take

# A string that JSON leaves as it is and that no document holds: strings with fields are found again by it.
_MARK: Final = "\ue000daybreak field\ue000"
_PLACES: Final = frozenset({FIELDS_PLACE, MESSAGES_PLACE})
_CONDITION: Final = "?"
_LEFT_OUT: Final = object()
_NOTHING: Final[Mapping[str, orjson.Fragment]] = {}


class _Form(NamedTuple):
    """An encoded document with `%b` for each of its strings; a string is a field alone, a text, or a place."""

    pattern: bytes
    strings: tuple[str | Template, ...]
    fields: tuple[str, ...] | None
    """The strings, where each is a field alone: most documents, and the fastest to write."""


class JsonBody:
    """A compiled body. Made by `compile_json_body`.

    `names` are the fields it takes; `places` are those of "fields" and "messages" that it has.
    """

    def __init__(self, document: object) -> None:
        """Compile a parsed document; raises ConfigurationError or InvalidInput."""
        if isinstance(document, dict) and _CONDITION in document:
            raise ConfigurationError("the document itself cannot be left out")
        self._document = document
        self._optional = tuple(dict.fromkeys(_optional_names(document)))
        if len(self._optional) > MOST_OPTIONAL_FIELDS:
            raise ConfigurationError(f"members left out depend on more than {MOST_OPTIONAL_FIELDS} fields")
        whole = self._compile(frozenset(self._optional))
        self._whole = None if self._optional else whole
        self._forms: dict[tuple[bool, ...], _Form] = {}
        strings = [compile_template(one, None) for one in _strings(document)]
        self.places = tuple(one.only_field for one in strings if one.only_field in _PLACES)
        self.names = frozenset(name for one in strings for name in one.names) - set(self.places)

    def encode(self, values: Mapping[str, str], inserted: Mapping[str, orjson.Fragment] = _NOTHING) -> bytes:
        """Return the document for the values of one message, as UTF-8; `inserted` is what its places take.

        Raises `MissingFieldError` where a value is missing, `TypeError` where one is no valid Unicode.
        """
        pattern, strings, fields = self._whole or self._form(values)
        try:
            if fields is not None:
                return pattern % tuple(map(orjson.dumps, map(values.__getitem__, fields)))
            texts = [
                (inserted[one] if one in inserted else values[one])
                if isinstance(one, str)
                else one.render(values)
                for one in strings
            ]
        except KeyError as error:
            raise MissingFieldError(str(error.args[0])) from None
        return pattern % tuple(map(orjson.dumps, texts))

    def direct_encoder(self, attributes: Container[str]) -> Callable[[object], bytes] | None:
        """What writes the document from an object with `attributes`, named as the fields are; raises TypeError.

        None where the document needs more than those.
        """
        if self._whole is None:
            return None
        pattern, _, fields = self._whole
        # One alone is read as it is, not in a tuple.
        if fields is None or len(fields) < 2 or not all(name in attributes for name in fields):
            return None
        read = attrgetter(*fields)
        return lambda source: pattern % tuple(map(orjson.dumps, read(source)))

    def array_encoder(self, attributes: Container[str]) -> Callable[[Iterable[object]], bytes] | None:
        """What writes an array of documents, one from each object with `attributes`, in half the time that
        `direct_encoder` takes for each; raises TypeError. None where the document is more than an object whose
        members are such fields.
        """
        if self._optional or not isinstance(self._document, dict):
            return None
        members = [each if isinstance(each, str) else "" for each in self._document.values()]
        fields = [compile_template(each, None).only_field for each in members]
        if len(fields) < 2 or not all(field in attributes for field in fields):
            return None
        names, read = tuple(self._document), attrgetter(*map(str, fields))
        return lambda sources: orjson.dumps([dict(zip(names, read(each), strict=False)) for each in sources])

    def _form(self, values: Mapping[str, str]) -> _Form:
        shape = tuple([bool(values.get(name)) for name in self._optional])
        form = self._forms.get(shape)
        if form is None:
            present = frozenset(
                name for name, has_value in zip(self._optional, shape, strict=True) if has_value
            )
            form = self._forms[shape] = self._compile(present)
        return form

    def _compile(self, present: frozenset[str]) -> _Form:
        """The document as it is where, of the optional fields, those `present` have a value."""
        strings: list[Template] = []
        marked = orjson.dumps(_mark_strings(_prune(self._document, present), strings))
        pieces = marked.replace(b"%", b"%%").split(orjson.dumps(_MARK))
        if len(pieces) != len(strings) + 1:
            raise ConfigurationError("it holds characters of the private use area")
        alone = tuple([string.only_field for string in strings if string.only_field])
        are_fields = len(alone) == len(strings) and _PLACES.isdisjoint(alone)
        kinds = tuple(string.only_field or string for string in strings)
        return _Form(b"%b".join(pieces), kinds, alone if are_fields else None)


def compile_json_body(document: str) -> JsonBody:
    """Compile a body template; raises ConfigurationError that says what is wrong with it."""
    try:
        return JsonBody(orjson.loads(document))
    except (ValueError, TypeError, RecursionError, InvalidInput, ConfigurationError) as error:
        raise ConfigurationError(f"the JSON body template does not compile: {error}") from None


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


def _prune(value: object, present: frozenset[str]) -> object:
    """A copy without what is left out where only the fields `present` have a value."""
    if isinstance(value, list):
        elements = [_prune(element, present) for element in value]
        return [element for element in elements if element is not _LEFT_OUT]
    if not isinstance(value, dict):
        return value
    if _CONDITION in value and present.isdisjoint(_names(value[_CONDITION])):
        return _LEFT_OUT
    members: dict[str, object] = {}
    for name, member in value.items():
        if name == _CONDITION or (name.endswith(_CONDITION) and present.isdisjoint(_names(member))):
            continue
        pruned = _prune(member, present)
        if pruned is not _LEFT_OUT:
            members[name.removesuffix(_CONDITION)] = pruned
    return members


def _optional_names(value: object) -> Iterator[str]:
    """The fields on which it depends what is left out."""
    if isinstance(value, list):
        for element in value:
            yield from _optional_names(element)
    if not isinstance(value, dict):
        return
    for name, member in value.items():
        if name.endswith(_CONDITION):
            names = _names(member)
            if not names:
                raise ConfigurationError(f"the member {name!r} has no field to depend on")
            yield from names
        yield from _optional_names(member)


def _names(value: object) -> list[str]:
    return [name for string in _strings(value) for name in compile_template(string, None).names]


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for member in value.values():
                yield from _strings(member)
        case list():
            for element in value:
                yield from _strings(element)
