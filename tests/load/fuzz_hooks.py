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
    "is not the key of (an occasion|a group of occasions)",
    "is not the (external )?id of a user",
    # the time
    "must (not )?be in the future",
    "must not be past",
    "is over everywhere on earth",
    "must be at most [0-9]+ days ahead",
    # two values of one request, for which OpenAPI has no words
    "must be (after|at most [0-9]+ days after) due_from",
    "is required beside (on|address)",
    "must not stand beside another occasion",
    "must list at most [0-9]+ users",
    "must be the one in the path, or left out",
    "must have no blanks around it",
    "must be after the messages fall due",
    "must be the key of this occasion",
    "is there twice: upper and lower case make no difference",  # the languages of translations
    "cap_seconds must be a number from base_seconds",
    "equal times mean no hour",
    "must not hold the same value twice",  # 09:00 and 09:00:00
    # a pattern cannot count the parts of an address, nor the octets of its letters
    "must be an e-mail address such as",
    "octets long",
    "that domain is reserved",
    # languages of their own: a template, a recurrence, a file
    r"^line \d+: ",
    r"^/(occasion/)?rule/rrule\b",
    "the file is (empty|not UTF-8 text|not NDJSON)",
    "the header (lacks|names|cannot be read)",
)
_REASON: Final = re.compile("|".join(_REASONS))

# An occasion may have the key `preview`, and a user the external id `a/occurrences`: such a path takes what those of
# all occasions, or of all users, take.
_MAY_BE_A_KEY: Final = re.compile(r"/api/v1/(occasions/preview|users/external/\{external_id\}/.+)")


@schemathesis.serializer("application/x-ndjson")
def serialize_lines(_context: Any, value: Any) -> bytes:
    """NDJSON as it was made: a text."""
    return str(value).encode()


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
    """False for what is right although the document cannot say so: see the reasons, and what `Allow` names."""
    kind = type(failure).__name__
    if kind in ("AllowHeaderMismatch", "UnsupportedMethodResponse"):
        return not _MAY_BE_A_KEY.fullmatch(case.operation.path)
    if kind == "UseAfterFree":
        # An API key that is deleted is revoked: it proves nothing any more, and stays on record.
        return b'"state":"revoked"' not in response.content
    return kind != "RejectedPositiveData" or not _is_for_good_reasons(response)


def _is_for_good_reasons(response: Any) -> bool:
    """Whether the document knows of no reason why this was refused."""
    try:
        problem = json.loads(response.content)
    except ValueError:
        return False
    if problem["type"] == "/problems/import-refused":
        return True  # the rows of a file
    errors: list[dict[str, str]] = problem.get("errors", [{"detail": ""}])
    return all(
        _REASON.search(error["detail"]) or _REASON.search(error.get("pointer", "")) for error in errors
    )
