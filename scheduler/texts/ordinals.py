"""Ordinal numbers in digits: 1st, 2.º, 3:e.

Which form a number takes is CLDR's rule (plural rules of type ordinal); how the form is written is the table
below, in the masculine where a language makes a difference. Languages that are not in it, or whose short
forms need more than CLDR tells, get the bare number.
"""

from typing import Final

from babel import Locale

_FORMS: Final[dict[str, dict[str, str]]] = {
    "en": {"one": "{}st", "two": "{}nd", "few": "{}rd", "other": "{}th"},
    "fr": {"one": "{}er", "other": "{}e"},
    "ca": {"one": "{}r", "two": "{}n", "few": "{}t", "other": "{}è"},
    "sv": {"one": "{}:a", "other": "{}:e"},
    "hi": {"one": "{}ला", "two": "{}रा", "few": "{}था", "many": "{}ठा", "other": "{}वां"},
    "es": {"other": "{}.º"},
    "it": {"other": "{}º"},
    "pt": {"other": "{}º"},
    "gl": {"other": "{}º"},
    "nl": {"other": "{}e"},
    "el": {"other": "{}ος"},
    "eo": {"other": "{}-a"},
    "ga": {"other": "{}ú"},
    "lt": {"other": "{}-as"},
    "ru": {"other": "{}-й"},
    "uk": {"other": "{}-й"},
    "ja": {"other": "{}番目"},
    "ko": {"other": "{}번째"},
    "zh": {"other": "第{}"},
    "vi": {"other": "thứ {}"},
    "id": {"other": "ke-{}"},
    "ms": {"other": "ke-{}"},
    "fil": {"other": "ika-{}"},
    "th": {"other": "ที่ {}"},
} | {
    language: {"other": "{}."}
    for language in (
        *("bs", "cs", "da", "de", "et", "eu", "fi", "fo", "hr", "hu", "is", "lb", "lv", "nb", "nn", "no"),
        *("pl", "sk", "sl", "sr", "tr"),
    )
}


def ordinal(number: int, locale: Locale) -> str:
    """`number`, which is not negative, as an ordinal of `locale`'s language."""
    forms = _FORMS.get(locale.language)
    if forms is None:
        return str(number)
    return forms.get(locale.ordinal_form(number), forms["other"]).format(number)
