"""Jinja2's sandbox, narrowed: nothing can be called, and what can be looked up is listed here.

The sandbox alone keeps a text from the interpreter's insides; it does not bound what a text costs. That is done
by what a text may say (`grammar.py`) and by the work counted here and in the filters.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any, Final, NoReturn

from jinja2 import Undefined
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scheduler.domain.occasion import LeapDayPolicy
from scheduler.texts.bounds import LARGEST_NUMBER, MOST_TOKENS, MOST_WORK
from scheduler.texts.failure import RenderingFailed

_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


class Named(dict[str, Any]):
    """Values by name, under a name of their own; says of what is not in it how it would be called."""

    __slots__ = ("name",)

    def __init__(self, name: str, values: Iterable[tuple[str, Any]]) -> None:
        super().__init__(values)
        self.name = name


class Missing(Undefined):
    """What a text names and is not there: false, and unequal to everything, but of no other use."""

    def refuse(self, *_arguments: object, **_named: object) -> NoReturn:
        """Raise RenderingFailed that says what is missing."""
        raise RenderingFailed(f"{self._undefined_name or 'a value'} is missing")

    __str__ = __iter__ = __len__ = __contains__ = refuse
    _fail_with_undefined_error = refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = refuse
    __pos__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = refuse
    __int__ = __float__ = __call__ = __getitem__ = refuse


class Reading:
    """What rendering once goes by: the reader's locale, the message's date, and the work left."""

    __slots__ = ("leap_day", "local_date", "locale", "work")

    def __init__(self, locale: str, local_date: date, leap_day: LeapDayPolicy) -> None:
        self.locale = locale
        self.local_date = local_date
        self.leap_day = leap_day
        self.work = MOST_WORK

    def spend(self, work: int) -> None:
        """Count `work` units; raises RenderingFailed where there are not as many left."""
        self.work -= work
        if self.work < 0:
            raise RenderingFailed("rendering takes too much work: loops go round too often")


class ReadingContext(Context):
    """A context that carries the reading. `TextEnvironment` makes them; `CompiledText` fills `reading` in."""

    reading: Reading


class TokenBound(Extension):
    """Stops a source that consists of more tokens than are taken, before it is parsed any further."""

    def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
        """Pass `stream` on up to the bound."""
        return _bounded(stream)


def _bounded(stream: TokenStream) -> Iterator[Token]:
    for number, token in enumerate(stream):
        if number >= MOST_TOKENS:
            raise TemplateSyntaxError(f"there are more than {MOST_TOKENS:,} tokens", token.lineno)
        yield token


class TextEnvironment(ImmutableSandboxedEnvironment):
    """Without globals, extensions that do anything, constant folding and loaders."""

    context_class = ReadingContext
    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self, *, autoescape: bool) -> None:
        super().__init__(
            undefined=Missing,
            autoescape=autoescape,
            keep_trailing_newline=True,
            finalize=_printable,
            optimized=False,
            extensions=[TokenBound],
            cache_size=0,
        )
        self.globals.clear()
        self.filters.clear()
        self.tests.clear()

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What is called `attribute` in `attributes` or `dates`, or what a loop knows of itself."""
        if isinstance(obj, LoopContext):
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A value by name, or a part of a text or list by position."""
        if isinstance(obj, Named):
            return obj[argument] if argument in obj else Missing(name=f"{obj.name}.{argument}")
        if isinstance(obj, str | list | tuple) and isinstance(argument, int):
            try:
                return obj[argument]
            except IndexError:
                return Missing(name=f"number {argument} of a text or list")
        if isinstance(obj, Missing):
            return obj
        raise RenderingFailed("a number or date has no parts")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        """Arithmetic, for numbers only and up to a largest one."""
        for operand in (left, right):
            if isinstance(operand, Missing):
                operand.refuse()
            if not isinstance(operand, int | float):
                raise RenderingFailed(f"{operator} takes numbers; ~ puts texts together")
        if operator in ("/", "//", "%") and not right:
            raise RenderingFailed("a number is divided by zero")
        return checked_number(_OPERATORS[operator](left, right))


def checked_number(number: float) -> float:
    """`number`; raises RenderingFailed where it is larger than can be told exactly, or none at all."""
    if not -LARGEST_NUMBER <= number <= LARGEST_NUMBER:
        raise RenderingFailed("a number is too large")
    return number


def _printable(value: Any) -> Any:
    """`value` where it can stand in a text; raises RenderingFailed for lists, nothing and the like."""
    if isinstance(value, str | int | float | date):
        return value
    if isinstance(value, Missing):
        value.refuse()
    raise RenderingFailed("a list or nothing stands where a text, a number or a date is needed")
