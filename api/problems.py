"""Every error as an RFC 9457 problem: the one place that knows which error is which answer.

A problem has `type`, `title`, `status`, `detail`, `instance` (the path asked for) and `request_id`.
Invalid input also has `errors`: for each breach `detail` and where it is, as `pointer` (RFC 6901, into the
body) or `parameter` (of the query). What the caller cannot have caused is answered without details.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from flask import Flask, current_app, request
from loguru import logger
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.wrappers import Response as BaseResponse

from api.answers import Answer, json_answer
from api.paths import no_such_path
from api.queries import InvalidQuery
from api.request_log import request_id, route
from scheduler.domain.user import field_errors
from scheduler.errors import Conflict, InvalidInput, NotFound, Unavailable, VersionConflict

MEDIA_TYPE: Final = "application/problem+json"

RETRY_AFTER_SECONDS: Final = 5
"""When to ask again after the database did not answer."""

_UNSPECIFIC: Final = "about:blank"  # RFC 9457 §4.2.1: says no more than the status


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer; `members` are those of its type."""

    status: int
    title: str
    detail: str
    type: str = _UNSPECIFIC
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A handler answers with `problem`, which no error of the tree stands for."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.title)


def register_problems(app: Flask) -> None:
    """Answer every error of `app` with its problem."""
    app.register_error_handler(Exception, _answer)


def _answer(error: Exception) -> BaseResponse:
    if isinstance(error, HTTPException) and (error.code or 500) < HTTPStatus.BAD_REQUEST:
        return error.get_response()
    return problem_answer(_problem(error))


def problem_answer(problem: Problem) -> Answer:
    """The answer that says `problem`."""
    return json_answer(_body(problem), problem.status, problem.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> dict[str, Any]:
    """The problem that an error is, for an answer that has begun; notes it in the log as ever."""
    return _body(_problem(error))


def _body(problem: Problem) -> dict[str, Any]:
    return {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": quote(request.path),
        "request_id": request_id(),
        **problem.members,
    }


def _problem(error: Exception) -> Problem:
    match error:
        case Refused():
            return error.problem
        case HTTPException():
            return _http_problem(error)
        case InvalidInput() | ValidationError():
            return _invalid(error)
        case NotFound():
            return Problem(HTTPStatus.NOT_FOUND, "Not found", str(error), "/problems/not-found")
        case Conflict():
            return Problem(HTTPStatus.CONFLICT, "Conflict", str(error), "/problems/conflict")
        case VersionConflict():
            return stale(str(error))
        case Unavailable() | OperationalError() | InterfaceError() | InternalError() | PoolTimeout():
            return _unavailable(error)
        case _:
            return _unexpected(error)


def stale(detail: str) -> Problem:
    """The answer to a write that was meant for another version."""
    return Problem(
        HTTPStatus.PRECONDITION_FAILED, "Precondition failed", detail, "/problems/precondition-failed"
    )


def _http_problem(error: HTTPException) -> Problem:
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    return Problem(status, error.name, _helpful(error), headers=headers)


def _helpful(error: HTTPException) -> str:
    """What to do instead, where the framework's own words do not say it."""
    match error:
        case MethodNotAllowed():
            return f"{request.method} is not for this path, which takes {', '.join(sorted(error.valid_methods or ()))}"
        case NoSuchPath() if request.url_rule is None:
            return no_such_path(request.path, current_app.url_map)
        case RequestEntityTooLarge():
            return "the body is larger than this path takes"
        case _:
            return error.description or ""


def _invalid(error: InvalidInput | ValidationError) -> Problem:
    errors = field_errors(error) if isinstance(error, ValidationError) else error.errors
    if isinstance(error, InvalidQuery):
        status, what = HTTPStatus.BAD_REQUEST, "query"
        listed = [{"parameter": each.pointer.removeprefix("/"), "detail": each.message} for each in errors]
    else:
        status, what = HTTPStatus.UNPROCESSABLE_ENTITY, "input"
        listed = [{"pointer": each.pointer, "detail": each.message} for each in errors]
    detail = f"the {what} breaks {len(errors)} rule" + ("s" if len(errors) > 1 else "")
    return Problem(status, f"Invalid {what}", detail, f"/problems/invalid-{what}", {"errors": listed})


def _unavailable(error: Exception) -> Problem:
    cause = error.orig if isinstance(error, DBAPIError) else error
    logger.bind(cause=type(cause).__name__, route=route(), request_id=request_id()).warning(
        "request_found_database_unavailable"
    )
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Temporarily unavailable",
        "the database does not answer; a write under way may have taken effect",
        "/problems/unavailable",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _unexpected(error: Exception) -> Problem:
    logger.bind(route=route(), request_id=request_id()).opt(exception=error).error("request_failed")
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Problem(status, status.phrase, "something went wrong here; the log has it under the request_id")
