"""Texts with fields in them: `Hey, {first_name} {last_name}, it's your birthday!`.

A template is compiled once, when all its mistakes are found, and rendered often. It can name fields and
nothing else: no attributes, no indexes, no formats, no expressions. `{{` and `}}` stand for the braces
themselves.

An empty field leaves no hole behind. Where a field renders empty,

* the blanks before it go as well if a blank, a punctuation mark (one of `,.;:!?…)`) or the end of the line
  follows;
* at the start of a line the blanks after it go instead;
* of two commas that come together that way, one goes.

So `Hey, {first_name} {last_name}, it's …` becomes `Hey, Ann, it's …` without a last name, and `Hey, it's …`
without either. Blanks elsewhere are left as they were written.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput

LONGEST_SOURCE = 20_000  # characters

_FIELD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BLANKS: Final = " \t"
_CLOSES_UP: Final = tuple(",.;:!?…) \t\r\n")


class MissingFieldError(LookupError):
    """A template was rendered without a value for the field `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no value was given for the field {{{name}}}")


class Template:
    """A compiled text. `names` are its fields, once each, in order of appearance."""

    def __init__(self, literals: tuple[str, ...], fields: tuple[str, ...]) -> None:
        """Take the n fields and the n + 1 literal texts around them."""
        self.names = tuple(dict.fromkeys(fields))
        self._literals = literals
        self._fields = fields
        self._pattern = "%s".join(literal.replace("%", "%%") for literal in literals)

    @property
    def only_field(self) -> str | None:
        """The field, where the template is nothing but one field."""
        return self._fields[0] if self._literals == ("", "") else None

    def render(self, fields: Mapping[str, str]) -> str:
        """Return the text with the value of each field in its place; fields it does not name are ignored.

        Raises `MissingFieldError` where a value is missing. An empty value is none the less a value.
        """
        try:
            values = tuple(map(fields.__getitem__, self._fields))
        except KeyError as error:
            raise MissingFieldError(str(error.args[0])) from None
        if "" in values:
            return self._render_without_holes(values)
        return self._pattern % values

    def fill(self, fields: Mapping[str, str]) -> str:
        """Return the text with exactly the value of each field in its place, for text that is no prose.

        Raises `MissingFieldError` as `render` does.
        """
        try:
            return self._pattern % tuple(map(fields.__getitem__, self._fields))
        except KeyError as error:
            raise MissingFieldError(str(error.args[0])) from None

    @property
    def beginning(self) -> str:
        """The text before the first field."""
        return self._literals[0]

    def _render_without_holes(self, values: tuple[str, ...]) -> str:
        text = self._literals[0]
        hole = False
        for value, literal in zip(values, self._literals[1:], strict=True):
            hole = hole or not value
            for piece in filter(None, (value, literal)):
                text = _join_over_hole(text, piece) if hole else text + piece
                hole = False
        return _join_over_hole(text, "") if hole else text


def compile_template(source: str, allowed: frozenset[str] | None) -> Template:
    """Compile `source`, whose fields must be among `allowed` (None: any name will do).

    Raises InvalidInput that lists every mistake with its place.
    """
    if len(source) > LONGEST_SOURCE:
        raise InvalidInput(
            [FieldError("", f"is {len(source)} characters long; at most {LONGEST_SOURCE} are taken")]
        )
    literals, fields = [""], []
    errors: list[FieldError] = []
    position = 0
    for token in _TOKEN.finditer(source):
        literals[-1] += source[position : token.start()]
        position = token.end()
        if token[0] in ("{{", "}}"):
            literals[-1] += token[0][0]
        elif mistake := _mistake_in(token, allowed):
            errors.append(FieldError("", f"character {token.start() + 1}: {mistake}"))
        else:
            fields.append(token[1])
            literals.append("")
    literals[-1] += source[position:]
    if errors:
        raise InvalidInput(errors)
    return Template(tuple(literals), tuple(fields))


def _mistake_in(token: re.Match[str], allowed: frozenset[str] | None) -> str | None:
    """What is wrong with a single brace or a `{field}`; None: nothing."""
    name = token[1]
    if name is None:
        return f"a single {token[0]!r}; write {token[0] * 2!r} for the character itself"
    if not _FIELD_NAME.fullmatch(name):
        return (
            f"{{{name}}} is not a field; between braces stands a name made of letters, digits and underscores"
        )
    if allowed is not None and name not in allowed:
        close = get_close_matches(name, allowed, n=1)
        hint = f" (did you mean {{{close[0]}}}?)" if close else ""
        return f"unknown field {{{name}}}{hint}; allowed: {', '.join(sorted(allowed)) or 'none'}"
    return None


def _join_over_hole(before: str, after: str) -> str:
    """Put together what stands on both sides of an empty field, by the rule in the module's docstring."""
    if not after or after.startswith(_CLOSES_UP):
        before = before.rstrip(_BLANKS)
    if not before or before.endswith("\n"):
        after = after.lstrip(_BLANKS)
    if before.endswith(",") and after.startswith(","):
        after = after[1:]
    return before + after
