"""Phone numbers in E.164 form: which calling codes there are, and how many digits follow each.

The rules are those of the package `phonenumbers` (Google's libphonenumber), looked up once for each country: its
own functions take 40 µs for one, and an import has 25 for a whole person. Limit: whether a range of numbers is in use
is not looked at, since ranges are opened faster than programs are updated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

_FEWEST_DIGITS: Final = 7
_MOST_DIGITS: Final = 15
_FORM: Final = re.compile(rf"\+[1-9][0-9]{{{_FEWEST_DIGITS - 1},{_MOST_DIGITS - 1}}}")
_LONGEST_CODE: Final = 3
_EXAMPLE: Final = "+442071838750"


def check_phone_number(number: str) -> str:
    """Return `number` if it is one; otherwise raise a ValueError that says what is wrong, without repeating it."""
    if not _FORM.fullmatch(number):
        raise ValueError(f"must be a phone number in E.164 form such as {_EXAMPLE}")
    # Calling codes are prefix-free: one at most fits.
    for end in range(2, 2 + _LONGEST_CODE):
        code = number[1:end]
        if allowed := _lengths_after(code):
            if len(number) - end in allowed:
                return number
            raise ValueError(f"must have {' or '.join(map(str, sorted(allowed)))} digits after +{code}")
    raise ValueError(f"must begin with a country's calling code, as in {_EXAMPLE}")


@cache
def phone_number_pattern() -> str:
    """A regular expression that matches exactly what `check_phone_number` takes; takes half a second."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

    by_lengths: dict[str, list[str]] = {}
    for code in sorted(map(str, COUNTRY_CODE_TO_REGION_CODE)):
        if lengths := _lengths_after(code):
            by_lengths.setdefault("|".join(_digits(lengths)), []).append(code)
    parts = (f"({'|'.join(codes)})({digits})" for digits, codes in sorted(by_lengths.items()))
    return rf"^\+({'|'.join(parts)})$"


def _digits(lengths: Iterable[int]) -> Iterator[str]:
    """Patterns for so many digits, a range of numbers as one."""
    found: list[list[int]] = []
    for length in sorted(lengths):
        if found and found[-1][1] == length - 1:
            found[-1][1] = length
        else:
            found.append([length, length])
    for first, last in found:
        yield f"[0-9]{{{first}}}" if first == last else f"[0-9]{{{first},{last}}}"


@cache
def _lengths_after(code: str) -> frozenset[int]:
    """How many digits may follow a calling code; none if it is none."""
    # Loaded where it is needed: its tables take a tenth of a second, and some milliseconds for each country.
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    regions = COUNTRY_CODE_TO_REGION_CODE.get(int(code), ())
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(int(code), regions[0]) if regions else None
    if metadata is None or metadata.general_desc is None:
        return frozenset()
    lengths = metadata.general_desc.possible_length
    return frozenset(each for each in lengths if _FEWEST_DIGITS <= each + len(code) <= _MOST_DIGITS)
