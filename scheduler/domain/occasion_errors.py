"""What is wrong with the input of an occasion, said to whoever wrote it: each breach with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion_input import (
    KEY_MESSAGE,
    KEY_PATTERN,
    NAME_PATTERN,
    FixedRuleInput,
    OccasionInput,
    OnceRuleInput,
    RecurrenceRuleInput,
    RetryInput,
    TextInput,
    YearlyRuleInput,
)
from scheduler.domain.user import field_errors

_UNION_MEMBERS: Final = frozenset({"yearly", "fixed", "rrule", "once"})

_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "": OccasionInput,
    "yearly": YearlyRuleInput,
    "fixed": FixedRuleInput,
    "rrule": RecurrenceRuleInput,
    "once": OnceRuleInput,
    "retry": RetryInput,
    "translations": TextInput,
}


def occasion_errors(error: ValidationError) -> list[FieldError]:
    """All that a model here refused, each with its place in the input and a message for whoever wrote it."""
    details = error.errors(include_url=False, include_input=False)
    return [
        FieldError(_without_member(detail["loc"], plain.pointer), _message(detail, plain.message))
        for detail, plain in zip(details, field_errors(error), strict=True)
        if not _follows(detail, details)
    ]


def _follows(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Whether an array is said to be too short only because what it holds is refused."""
    place = detail["loc"]
    return detail["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in details
    )


def _without_member(location: tuple[int | str, ...], pointer: str) -> str:
    """pydantic puts the kind of a rule into the place of its parts."""
    found = next((at for at, part in enumerate(location) if part == "rule"), None)
    if found is None or len(location) < found + 2 or location[found + 1] not in _UNION_MEMBERS:
        return pointer
    return re.sub(rf"/rule/{location[found + 1]}(?=/|$)", "/rule", pointer, count=1)


_MESSAGES: Final[Mapping[str, str]] = {
    "union_tag_not_found": "needs a kind: yearly, fixed, rrule or once",
    "union_tag_invalid": "has an unknown kind: one of {expected_tags}",
    "enum": "must be {expected}",
    "too_short": "must have at least one entry",
    "too_long": "must have at most {max_length} entries",
    "tuple_type": "must be an array",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
_PATTERNS: Final[Mapping[str, str]] = {
    KEY_PATTERN: KEY_MESSAGE,
    NAME_PATTERN: "must not contain control characters or line separators",
}


def _message(detail: ErrorDetails, plain: str) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(detail["loc"])
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], plain)
    return _MESSAGES[kind].format_map(context) if kind in _MESSAGES else plain


def _unknown_field(location: tuple[int | str, ...]) -> str:
    name = str(location[-1])
    shown = (name if len(name) <= 100 else name[:100] + "…").encode(errors="replace").decode()
    owner = next((str(part) for part in reversed(location[:-1]) if part in _MODELS), "")
    close = difflib.get_close_matches(name, _MODELS[owner].model_fields, n=1)
    return f"unknown field {shown!r}" + (f"; did you mean '{close[0]}'?" if close else "")
