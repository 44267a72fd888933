"""What filters take: values as texts, numbers, dates or lists, or a clear refusal."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any, Final

from babel import Locale
from markupsafe import Markup, escape

from scheduler.texts.bounds import LARGEST_NUMBER, LONGEST_VALUE
from scheduler.texts.environment import Missing, Named, Reading
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.locales import known_locale, locale_of

TOO_LONG: Final = f"a value is longer than {LONGEST_VALUE:,} characters"

_LONGEST_PATTERN: Final = 50
_DECIMAL: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_ISO_DATE: Final = len("2000-01-31")


def as_text(value: Any) -> str:
    """A text, number or date as a text (Markup stays what it is); nothing else has a bounded one."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | date):
        return str(value)
    if isinstance(value, Missing):
        value.refuse()
    raise RenderingFailed("a list or nothing stands where a text, a number or a date is needed")


def joined(values: list[Any], between: str) -> str:
    """Texts with `between` between them, escaped where one of them is escaped already."""
    texts = [as_text(value) for value in values]
    if sum(map(len, texts)) + len(between) * len(texts) > LONGEST_VALUE:
        raise RenderingFailed(TOO_LONG)
    if isinstance(between, Markup) or any(isinstance(text, Markup) for text in texts):
        return escape(between).join(texts)
    return between.join(texts)


def rounds_of(value: Any) -> list[Any]:
    """What a loop goes over, one by one; of `attributes` and `dates` the names, in order."""
    if isinstance(value, Missing):
        value.refuse()
    if not isinstance(value, list | tuple | Named):
        raise RenderingFailed("a loop or join takes a list, attributes or dates")
    return sorted(value) if isinstance(value, Named) else list(value)


def parts_of(value: Any, name: str) -> Any:
    """A text or list as something with a length and positions."""
    if not isinstance(value, str | list | tuple | Named):
        raise RenderingFailed(f"{name} takes a text or a list")
    return sorted(value) if isinstance(value, Named) else value


def as_date(value: Any, name: str) -> date:
    """A date, or a text that is one."""
    if type(value) is date:
        return value
    if isinstance(value, str) and len(value) == _ISO_DATE:
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise RenderingFailed(f"{name} takes a date, or a text written YYYY-MM-DD")


def as_number(value: Any, name: str) -> int | float | Decimal:
    """A number up to the largest taken, or a text that is one, such as `-12.50`."""
    number: int | float | Decimal | None = None
    if isinstance(value, int | float):
        number = value
    elif isinstance(value, str) and _DECIMAL.fullmatch(value):
        number = Decimal(value)
    if number is None or not -LARGEST_NUMBER <= number <= LARGEST_NUMBER:
        raise RenderingFailed(f"{name} takes a number")
    return number


def chosen_locale(reading: Reading, tag: object) -> Locale:
    """The locale a filter was given, else (None) the reader's."""
    if tag is None:
        return locale_of(reading.locale)
    locale = known_locale(tag) if isinstance(tag, str) else None
    if locale is None:
        raise RenderingFailed("a filter is given a locale that is not known")
    return locale


def check_pattern(pattern: object, name: str) -> None:
    """Raises RenderingFailed where a pattern is no text or a very long one."""
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _LONGEST_PATTERN:
        raise RenderingFailed(f"{name} takes a pattern of up to {_LONGEST_PATTERN} characters")
