"""What Schemathesis cannot know of the document: what the server has given out, what is stored, what the time is.

Loaded by it (`SCHEMATHESIS_HOOKS=tests.load.fuzz_hooks`). Input that keeps to the schema may still be refused, but for
one of the reasons listed here alone; input that breaks the schema goes out as it was made.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Final

import schemathesis

_REASONS: Final = (
    # what is stored
    "must be the next_cursor of an earlier page of this list",
    "is not the key of an occasion",
    "is not the (external )?id of a user",
    # the time
    "must be in the future",
    # two values of one request, for which OpenAPI has no words
    "must be after due_from",
    "is required beside (on|address)",
    "must not stand beside another occasion",
    "must be the one in the path, or left out",
    "must have no blanks around it",
    "must be after the messages fall due",
    "must be the key of this occasion",
    "cap_seconds must be a number from base_seconds",
    "equal times mean no hour",
    # languages of their own: a recurrence, a file
    r"^/(occasion/)?rule/rrule\b",
    "the file is empty",
    "the header (lacks|names)",
)
_REASON: Final = re.compile("|".join(_REASONS))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """A new key for each request, and whatever version there is."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    headers = case.headers
    if headers and "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if headers and "If-Match" in headers:
        headers["If-Match"] = "*"


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """False for valid input that was refused for reasons of which none is the document's."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    try:
        errors = json.loads(response.content)["errors"]
    except (ValueError, KeyError):
        return True
    return not all(
        _REASON.search(error["detail"]) or _REASON.search(error.get("pointer", "")) for error in errors
    )
