"""The text of an API key: `dbk_`, a prefix that may be shown, and a secret of 256 bits, in letters and digits.

    dbk_4fGh7KqP_3k…(43 characters)

The prefix names the key in lists and finds it; the secret proves it.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from typing import Final

_MARK: Final = "dbk"
_ALPHABET: Final = string.digits + string.ascii_letters
_PREFIX_CHARACTERS: Final = 8
_SECRET_BITS: Final = 256
_SECRET_CHARACTERS: Final = 43  # 62**43 > 2**256
_TEXT: Final = re.compile(
    rf"{_MARK}_(?P<prefix>[0-9A-Za-z]{{{_PREFIX_CHARACTERS}}})_[0-9A-Za-z]{{{_SECRET_CHARACTERS}}}"
)

MARK: Final = f"{_MARK}_"
"""What every key begins with."""


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key as its holder has it; `text` is shown once and kept nowhere."""

    prefix: str
    text: str = field(repr=False)


def new_key_text() -> KeyText:
    """A key that nobody has yet, from the system's source of randomness."""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_CHARACTERS))
    return KeyText(prefix, f"{MARK}{prefix}_{_in_base_62(secrets.randbits(_SECRET_BITS))}")


def prefix_of(text: str) -> str | None:
    """The prefix of a key; None for a text that is none."""
    match = _TEXT.fullmatch(text)
    return None if match is None else match["prefix"]


def _in_base_62(number: int) -> str:
    digits = []
    for _ in range(_SECRET_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
