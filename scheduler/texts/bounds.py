"""How large a text, its result and the work of rendering it may be.

All bounds count; none measures time. They are chosen so that the worst text that passes them takes about a
tenth of a second, and generous for texts that are meant.
"""

from enum import StrEnum
from typing import Final


class TextForm(StrEnum):
    """What a text is for."""

    SUBJECT = "subject"
    BODY = "body"
    HTML = "html"


LONGEST_SOURCE: Final = {TextForm.SUBJECT: 1_000, TextForm.BODY: 20_000, TextForm.HTML: 100_000}
"""In characters."""

LONGEST_RESULT: Final = {TextForm.SUBJECT: 1_000, TextForm.BODY: 50_000, TextForm.HTML: 300_000}
"""In characters."""

LONGEST_VALUE: Final = 10_000
"""Characters of anything a filter returns or `~` puts together."""

LARGEST_NUMBER: Final = 2**53
"""In either direction; the bound for attributes."""

MOST_TOKENS: Final = 10_000
"""Names, operators, braces and the like in one source."""

MOST_NODES: Final = 3_000
"""Parts of the syntax tree of one source."""

DEEPEST: Final = 40
"""Levels of the syntax tree."""

DEEPEST_LOOP: Final = 3
"""Loops within each other."""

MOST_WORK: Final = 20_000
"""Units for rendering once: one for each filter and each 64 characters it returns, and for each round of a
loop as many as its body has nodes."""

CHARACTERS_PER_UNIT: Final = 64
