"""Which text is for a reader, and how numbers and dates are written for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from babel import Locale, UnknownLocaleError

_FALLBACK: Final = "en"
_MOST_LOCALES: Final = 1_000


def ranges(tag: str) -> Iterator[str]:
    """`tag` and what it falls back to, in lower case: `zh-hant-tw`, `zh-hant`, `zh` (RFC 4647 §3.4, Lookup).

    A single letter or digit introduces what follows it, so it goes together with that.
    """
    parts = tag.lower().replace("_", "-").split("-")
    while parts:
        yield "-".join(parts)
        parts.pop()
        while parts and len(parts[-1]) == 1:
            parts.pop()


@lru_cache(maxsize=_MOST_LOCALES)
def known_locale(tag: str) -> Locale | None:
    """The most particular locale of CLDR that `tag` falls under; None: none does."""
    for candidate in ranges(tag):
        try:
            return Locale.parse(candidate, sep="-")
        except (ValueError, UnknownLocaleError):
            continue
    return None


def locale_of(tag: str) -> Locale:
    """As `known_locale`; English for languages that CLDR does not know."""
    return known_locale(tag) or Locale(_FALLBACK)
