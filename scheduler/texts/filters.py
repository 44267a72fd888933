"""The filters texts may use, each bounded in what it returns, and Jinja's tests that are safe as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any, Final

from babel.dates import format_date
from babel.numbers import format_decimal
from jinja2 import filters as jinja_filters
from jinja2 import pass_context
from jinja2.tests import TESTS as JINJA_TESTS
from markupsafe import Markup, escape

from scheduler.texts.bounds import CHARACTERS_PER_UNIT, LONGEST_VALUE
from scheduler.texts.environment import Missing, Named, Reading, ReadingContext, checked_number
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.operands import (
    TOO_LONG,
    as_date,
    as_number,
    as_text,
    check_pattern,
    chosen_locale,
    joined,
    parts_of,
    rounds_of,
)
from scheduler.texts.ordinals import ordinal
from scheduler.texts.whole_years import whole_years

_MOST_DECIMALS: Final = 15
_DATE_FORMATS: Final = ("full", "long", "medium", "short")

Filter = Callable[..., Any]


def _age(reading: Reading, value: Any) -> int:
    return whole_years(as_date(value, "age"), reading.local_date, reading.leap_day)


def _ordinal(reading: Reading, value: Any, locale: str | None = None) -> str:
    number = as_number(value, "ordinal")
    if number != int(number) or number < 0:
        raise RenderingFailed("ordinal takes whole numbers from 0 on")
    return ordinal(int(number), chosen_locale(reading, locale))


def _date(reading: Reading, value: Any, format: str = "long", locale: str | None = None) -> str:  # noqa: A002
    day = as_date(value, "date")
    if format not in _DATE_FORMATS:
        check_pattern(format, "date")
    try:
        return format_date(day, format, chosen_locale(reading, locale))
    except (ValueError, AttributeError, KeyError, TypeError):
        raise RenderingFailed("date takes full, long, medium, short or a date pattern of CLDR") from None


def _number(reading: Reading, value: Any, format: str | None = None, locale: str | None = None) -> str:  # noqa: A002
    number = as_number(value, "number")
    if format is not None:
        check_pattern(format, "number")
    try:
        return format_decimal(number, format, chosen_locale(reading, locale))
    except (ValueError, IndexError, KeyError, ArithmeticError):
        raise RenderingFailed("number takes a number pattern of CLDR, such as #,##0.00") from None


def _default(value: Any, instead: Any = "", _boolean: bool = False) -> Any:
    is_absent = value is None or isinstance(value, Missing) or value == ""
    return instead if is_absent or (_boolean and not value) else value


def _upper(value: Any) -> str:
    return as_text(value).upper()


def _lower(value: Any) -> str:
    return as_text(value).lower()


def _title(value: Any) -> str:
    return jinja_filters.do_title(as_text(value))


def _capitalize(value: Any) -> str:
    return as_text(value).capitalize()


def _trim(value: Any) -> str:
    return as_text(value).strip()


def _string(value: Any) -> str:
    return as_text(value)


def _truncate(value: Any, length: Any = 255, killwords: bool = False, end: str = "…") -> str:
    text, end = as_text(value), as_text(end)
    if isinstance(length, bool) or not isinstance(length, int) or length < len(end):
        raise RenderingFailed("truncate takes a length of at least that of what ends a shortened text")
    if len(text) <= length:
        return text
    kept = text[: length - len(end)]
    return (kept if killwords else kept.rsplit(" ", 1)[0]) + end


def _join(value: Any, between: Any = "") -> str:
    return joined(rounds_of(value), as_text(between))


def _concat(value: list[Any]) -> str:
    return joined(value, "")


def _first(value: Any) -> Any:
    parts = parts_of(value, "first")
    return parts[0] if parts else Missing(name="the first of nothing")


def _last(value: Any) -> Any:
    parts = parts_of(value, "last")
    return parts[-1] if parts else Missing(name="the last of nothing")


def _length(value: Any) -> int:
    return len(parts_of(value, "length"))


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Named):
        raise RenderingFailed("items takes attributes or dates")
    return sorted(value.items())


def _round(value: Any, precision: Any = 0, method: str = "common") -> float:
    number = as_number(value, "round")
    if not isinstance(precision, int) or abs(precision) > _MOST_DECIMALS:
        raise RenderingFailed(f"round takes up to {_MOST_DECIMALS} decimals")
    if method not in ("common", "ceil", "floor"):
        raise RenderingFailed("round takes common, ceil or floor")
    return float(jinja_filters.do_round(float(number), precision, method))  # type: ignore[arg-type]


def _abs(value: Any) -> Any:
    return abs(as_number(value, "abs"))


def _int(value: Any, default: int = 0) -> int:
    try:
        return int(as_number(value, "int"))
    except RenderingFailed:
        return default


def _float(value: Any, default: float = 0.0) -> float:
    try:
        return float(as_number(value, "float"))
    except RenderingFailed:
        return default


def _escape(value: Any) -> Markup:
    return escape(as_text(value))


def _loop(reading: Reading, value: Any, weight: int) -> list[Any]:
    """What a loop goes over, paid for in advance: `weight` units a round."""
    rounds = rounds_of(value)
    reading.spend(len(rounds) * weight)
    return rounds


def _checked(reading: Reading, result: Any) -> Any:
    if isinstance(result, str):
        if len(result) > LONGEST_VALUE:
            raise RenderingFailed(TOO_LONG)
        reading.spend(1 + len(result) // CHARACTERS_PER_UNIT)
        return result
    reading.spend(1)
    return checked_number(result) if isinstance(result, int | float) else result


def _in_context(function: Filter, *, needs_reading: bool, takes_missing: bool) -> Filter:
    """`function` as Jinja calls it: passing on what is missing, with its work counted."""

    @pass_context
    @wraps(function)
    def bounded(context: ReadingContext, value: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(value, Missing) and not takes_missing:
            return value
        if needs_reading:
            return _checked(context.reading, function(context.reading, value, *arguments, **named))
        return _checked(context.reading, function(value, *arguments, **named))

    return bounded


def _public_signature(function: Filter, inner: int) -> inspect.Signature:
    """The parameters of a filter without the first `inner`, which no text writes."""
    parameters = list(inspect.signature(function).parameters.values())[inner:]
    return inspect.Signature(parameters)


_OF_THE_READER: Final[Mapping[str, Filter]] = {
    "age": _age,
    "years": _age,
    "ordinal": _ordinal,
    "date": _date,
    "number": _number,
}
_OF_THE_VALUE: Final[Mapping[str, Filter]] = {
    "default": _default,
    "d": _default,
    "upper": _upper,
    "lower": _lower,
    "title": _title,
    "capitalize": _capitalize,
    "trim": _trim,
    "string": _string,
    "truncate": _truncate,
    "join": _join,
    "first": _first,
    "last": _last,
    "length": _length,
    "count": _length,
    "items": _items,
    "round": _round,
    "abs": _abs,
    "int": _int,
    "float": _float,
    "escape": _escape,
    "e": _escape,
}

DEFAULTS: Final = frozenset({"default", "d"})
"""Filters that stand in for what is missing; all others pass it on."""

NUMERIC: Final = frozenset({"ordinal", "number", "round", "abs", "int", "float"})
"""Filters of numbers."""

OF_DATES: Final = frozenset({"age", "years", "date"})
"""Filters of dates."""

OF_GROUPS: Final = frozenset({"items", "length", "count"})
"""Filters that take all of `attributes` or `dates`."""

LOOP: Final = "_loop"
"""What is put around each loop's list; no text can name it."""

CONCAT: Final = "_concat"
"""What stands for `~`; no text can name it."""

FILTERS: Final[Mapping[str, Filter]] = MappingProxyType(
    {
        name: _in_context(each, needs_reading=True, takes_missing=False)
        for name, each in _OF_THE_READER.items()
    }
    | {
        name: _in_context(each, needs_reading=False, takes_missing=name in DEFAULTS)
        for name, each in _OF_THE_VALUE.items()
    }
)
"""The filters a text may name."""

INNER_FILTERS: Final[Mapping[str, Filter]] = MappingProxyType(
    {
        LOOP: _in_context(_loop, needs_reading=True, takes_missing=True),
        CONCAT: _in_context(_concat, needs_reading=False, takes_missing=False),
    }
)
"""The filters that are put into a text when it is compiled."""

SIGNATURES: Final[Mapping[str, inspect.Signature]] = MappingProxyType(
    {name: _public_signature(each, 2) for name, each in _OF_THE_READER.items()}
    | {name: _public_signature(each, 1) for name, each in _OF_THE_VALUE.items()}
)
"""What may stand between the parentheses of each filter."""

_TESTS_TAKEN: Final = (
    *("defined", "undefined", "none", "string", "number", "boolean"),
    *("odd", "even", "divisibleby"),
)
_JINJA_TESTS: Final[Mapping[str, Any]] = JINJA_TESTS

TESTS: Final[Mapping[str, Any]] = MappingProxyType({name: _JINJA_TESTS[name] for name in _TESTS_TAKEN})
"""The tests a text may name after `is`."""
