"""What the OpenAPI document says once for all operations: conduct, problems, header fields, parameters of paths."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from api.idempotency import HEADER, KEY_PATTERN
from scheduler.domain.occasion import Channel
from scheduler.domain.user import SOME_TEXT_PATTERN

Schema = dict[str, Any]

PROBLEM: Final = "application/problem+json"

DESCRIPTION: Final = f"""\
Register people, say what they are to be told and when; Daybreak sends it at the right hour where each of them lives.

**Who may call.** `Authorization: Bearer …` with an API key (`daybreak keys create`) or a JWT. Each operation names the
scope it needs.

**Bodies** are strict JSON in UTF-8: no unknown fields, no name twice, no NaN. All that is wrong with a body is said at
once, each with a JSON pointer. Instants are RFC 3339 in UTC, dates `YYYY-MM-DD`, times of day `HH:MM`.

**Errors** are problems (RFC 9457, `{PROBLEM}`) with the `request_id` under which the log has them.

**Lists** come in pages: `limit` items, and `next_cursor` to ask for those after them; null on the last page.

**Repeating.** A POST with an `{HEADER}` happens once, however often it is sent within a day: the repeated answer has
`Idempotent-Replayed: true`. The same key with another request is 422, while the first is under way 409.

**Versions.** A resource's `ETag` is its version. `If-None-Match` saves reading it again (304); `If-Match` makes a write
fail (412) if somebody else has changed it meanwhile.

**Also:** `Prefer: return=minimal` on writes, gzip, `X-Request-Id` and `traceparent` in and out, `RateLimit` and
`RateLimit-Policy` on every answer, `Retry-After` where it pays to come back.
"""

SECURITY_SCHEME: Final[Mapping[str, Any]] = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (dbk_…) or a JWT. The roles that an operation lists are the scopes it needs.",
}

# Their examples stand in the schemas: one at the parameter would be what Swagger UI sends, each time.
HEADER_PARAMETERS: Final[Mapping[str, Schema]] = {
    "IdempotencyKey": {
        "name": HEADER,
        "in": "header",
        "description": "Makes the request safe to repeat: a new one for each new request, such as a UUID.",
        "schema": {
            "type": "string",
            "pattern": f"^{KEY_PATTERN}$",
            "examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"],
        },
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`return=minimal`: answer without what was written (RFC 7240).",
        "schema": {"type": "string", "examples": ["return=minimal", "return=representation"]},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag of the version that is to be changed; if it is another by now, the answer is 412.",
        "schema": {"type": "string", "examples": ['"3"']},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of the version that the caller has; if it is still that one, the answer is 304.",
        "schema": {"type": "string", "examples": ['"3"']},
    },
}

HEADERS: Final[Mapping[str, Schema]] = {
    name: {"description": description, "schema": {"type": "string"}, "example": example}
    for name, description, example in (
        ("Location", "The path of what was made.", "/api/v1/users/17"),
        ("ETag", "The version of what is answered, for If-Match and If-None-Match.", '"3"'),
        ("Idempotent-Replayed", "`true`: this was answered before, and nothing happened again.", "true"),
        ("Preference-Applied", "That the answer is as short as was preferred.", "return=minimal"),
        ("X-Request-Id", "The caller's own, or one that was made; the log has it.", "job-7"),
        (
            "RateLimit",
            "What is left (r), and in how many seconds all is there again (t).",
            '"requests";r=99;t=1',
        ),
        ("RateLimit-Policy", "How much (q) in how many seconds (w).", '"requests";q=6000;w=60'),
        ("Retry-After", "Seconds after which to ask again.", "5"),
        ("WWW-Authenticate", "How to prove who one is.", 'Bearer realm="daybreak"'),
    )
}
"""All headers of answers. Each is a text of its own form, which its standard says."""

VERSIONED: Final = frozenset(
    {
        "OneUserAnswer",
        "WrittenUserAnswer",
        "OneOccasionAnswer",
        "CreatedOccasionAnswer",
        "WrittenOccasionAnswer",
    }
)
"""The models of answers that have an ETag."""

WITHOUT_PATH: Final = frozenset({"OneSuppressionAnswer"})
"""The models of what is made and cannot be read alone, so that no Location is told."""

PATH_SCHEMAS: Final[Mapping[str, Schema]] = {
    "channel": {"type": "string", "enum": [str(each) for each in Channel]},
    "external_id": {
        "type": "string",
        "minLength": 1,
        "maxLength": 200,
        "pattern": SOME_TEXT_PATTERN,
        "description": "Percent-encoded, slashes as well. One that ends as a path below a user does, such as "
        "`/occurrences`, means that path here, and one that begins with a slash is not found: the list of users has "
        "a filter for them, which tells their ids.",
        "examples": ["person-17"],
    },
    "key": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$", "examples": ["birthday"]},
    "message_id": {
        "type": "string",
        "pattern": rf"^[1-9]\d{{0,8}}\.[1-9]\d{{0,17}}\.\d{{8}}\.\d{{1,4}}\.({'|'.join(Channel)})$",
        "examples": ["1.42.20270228.0.email"],
    },
}
"""By the parameter's name; others are any text."""

_MEMBERS: Final[Mapping[str, Schema]] = {
    "type": {"type": "string", "format": "uri-reference", "description": "The kind of problem."},
    "title": {"type": "string", "description": "The kind of problem in words."},
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "detail": {"type": "string", "description": "What is wrong this time."},
    "instance": {"type": "string", "description": "The path that was asked for."},
    "request_id": {"type": "string", "description": "Where to find it in the log."},
}

PROBLEM_SCHEMAS: Final[Mapping[str, Schema]] = {
    "Problem": {
        "type": "object",
        "description": "Why a request was not carried out (RFC 9457).",
        "properties": dict(_MEMBERS),
        "required": list(_MEMBERS),
        "examples": [
            {
                "type": "/problems/not-found",
                "title": "Not found",
                "status": 404,
                "detail": "no user '7'",
                "instance": "/api/v1/users/7",
                "request_id": "5e3f0c0a9c0f4b6f8f2f0f6f1f6d7e11",
            }
        ],
    },
    "InvalidProblem": {
        "description": "All that is wrong with what was sent, where that is why.",
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {
            "errors": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "pointer": {"type": "string", "description": "Where in the body (RFC 6901)."},
                        "parameter": {"type": "string", "description": "Which parameter of the query."},
                        "detail": {"type": "string"},
                    },
                    "required": ["detail"],
                },
            }
        },
    },
}

_ERRORS: Final[Mapping[HTTPStatus, str]] = {
    HTTPStatus.BAD_REQUEST: "The query breaks rules, or the body is not JSON",
    HTTPStatus.UNAUTHORIZED: "No valid API key or JWT",
    HTTPStatus.FORBIDDEN: "The key lacks the scope",
    HTTPStatus.NOT_FOUND: "There is no such thing, or it is another tenant's",
    HTTPStatus.CONFLICT: "It clashes with what is there, or the same request is still under way",
    HTTPStatus.PRECONDITION_FAILED: "It is of another version than If-Match says",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large",
    HTTPStatus.REQUEST_URI_TOO_LONG: "The request line is longer than 8,190 bytes",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of a media type that is not taken",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The body breaks rules, or the idempotency key is another request's",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A fault of ours; the log has it under the request id",
}
_INVALID: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_BREACHES: Final[Mapping[HTTPStatus, Schema]] = {
    HTTPStatus.BAD_REQUEST: {
        "type": "/problems/invalid-query",
        "title": "Invalid query",
        "detail": "the query breaks 1 rule",
        "errors": [
            {"parameter": "timezon", "detail": "unknown parameter 'timezon'; did you mean 'timezone'?"}
        ],
    },
    HTTPStatus.UNPROCESSABLE_ENTITY: {
        "type": "/problems/invalid-input",
        "title": "Invalid input",
        "detail": "the input breaks 2 rules",
        "errors": [
            {"pointer": "/dates/birthday", "detail": "must not be in the future"},
            {"pointer": "/nickname", "detail": "unknown field 'nickname'"},
        ],
    },
}
_HEADERS_OF: Final[Mapping[HTTPStatus, str]] = {
    HTTPStatus.UNAUTHORIZED: "WWW-Authenticate",
    HTTPStatus.FORBIDDEN: "WWW-Authenticate",
    HTTPStatus.TOO_MANY_REQUESTS: "Retry-After",
    HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After",
}


def header_references(*names: str) -> Schema:
    """Header fields of an answer, each by reference."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def response_name(status: HTTPStatus) -> str:
    """The name of the response component that stands for an error."""
    return "".join(word.capitalize() for word in status.phrase.replace("-", " ").split())


def problem_response(status: HTTPStatus) -> Schema:
    """What is answered with an error."""
    is_invalid = status in _INVALID
    schema = "InvalidProblem" if is_invalid else "Problem"
    description = _ERRORS.get(status, status.phrase)
    example = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": description,
        "instance": "/api/v1/users",
        "request_id": "5e3f0c0a9c0f4b6f8f2f0f6f1f6d7e11",
    }
    response: Schema = {
        "description": description,
        "content": {
            PROBLEM: {
                "schema": {"$ref": f"#/components/schemas/{schema}"},
                "example": example | (_BREACHES[status] if is_invalid else {}),
            }
        },
    }
    if header := _HEADERS_OF.get(status):
        response["headers"] = header_references(header)
    return response
