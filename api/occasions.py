"""Occasions: create, read, list, replace, change, copy, pause and resume, archive, delete.

A write answers what it changed in the message log. What one request cannot plan in its time, the scheduler does.
"""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response
from pydantic import ValidationError

from api.access import current_actor
from api.answers import json_answer
from api.bodies import JSON, MERGE_PATCH, read_body
from api.conditions import etag_of, expected_version
from api.endpoint import endpoint
from api.models.occasions import (
    CloneBody,
    CreatedOccasionAnswer,
    DeletedOccasionAnswer,
    OccasionListAnswer,
    OccasionListQuery,
    OneOccasionAnswer,
    PausedBacklogAnswer,
    ResumeBody,
    ResumedOccasionAnswer,
    WrittenOccasionAnswer,
)
from api.occasion_views import backlog_as_json, occasion_as_json, read_occasion_body, warnings_for
from api.problems import Problem, Refused
from api.queries import NoQuery, id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.occasion import Occasion, OccasionKind
from scheduler.domain.occasion_errors import occasion_errors
from scheduler.domain.occasion_input import OccasionInput, OccasionPatch
from scheduler.errors import InvalidInput
from scheduler.occasions import BacklogWaiting, Occasions, WrittenOccasion
from scheduler.service import planner_for
from scheduler.store import occasions as stored_occasions

occasions = Blueprint("occasions", __name__, url_prefix="/api/v1/occasions")

_CURSOR_KIND: Final = "occasion"
_WRITING: Final = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
)
_WRITING_INPUT: Final = (*_WRITING, HTTPStatus.UNPROCESSABLE_ENTITY)


@occasions.post("")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    body=OccasionInput,
    answers={201: CreatedOccasionAnswer},
    errors=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def create_occasion() -> Response:
    """Add an occasion, and plan it through the horizon at once."""
    read_query(NoQuery)
    return _created(_service().create(current_actor(), read_occasion_body(OccasionInput)))


@occasions.get("")
@endpoint(Scope.OCCASIONS_READ, query=OccasionListQuery, answers={200: OccasionListAnswer})
def list_occasions() -> Response:
    """A page of occasions, oldest first; those in the archive where they are asked for."""
    query = read_query(OccasionListQuery)
    after = id_from_cursor(_CURSOR_KIND, query.cursor) or 0
    with services().reading() as connection:
        found = stored_occasions.page(
            connection,
            tenant_id(),
            after=after,
            most=query.limit + 1,
            active=query.active,
            archived=query.archived,
            kind=None if query.kind is None else OccasionKind(query.kind),
            channel=query.channel,
        )
    shown, more = found[: query.limit], len(found) > query.limit
    next_cursor = to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None
    return json_answer({"occasions": [occasion_as_json(each) for each in shown], "next_cursor": next_cursor})


@occasions.get("/<key>")
@endpoint(
    Scope.OCCASIONS_READ, query=NoQuery, answers={200: OneOccasionAnswer}, errors=(HTTPStatus.NOT_FOUND,)
)
def read_occasion(key: str) -> Response:
    """An occasion by its key."""
    read_query(NoQuery)
    return _one(_service().read(tenant_id(), key))


@occasions.put("/<key>")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    body=OccasionInput,
    answers={200: WrittenOccasionAnswer},
    errors=_WRITING_INPUT,
)
def replace_occasion(key: str) -> Response:
    """Replace all that can be written of an occasion, and replan everyone where that changes who gets what when."""
    read_query(NoQuery)
    given = read_occasion_body(OccasionInput)
    return _written(_service().replace(current_actor(), key, given, expected_version()))


@occasions.patch("/<key>")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    body=OccasionPatch,
    body_types=(MERGE_PATCH, JSON),
    answers={200: WrittenOccasionAnswer},
    errors=_WRITING_INPUT,
)
def change_occasion(key: str) -> Response:
    """Change what is named; null takes away (RFC 7396). A rule of another kind takes the place of the old one."""
    read_query(NoQuery)
    patch = read_occasion_body(OccasionPatch, (MERGE_PATCH, JSON))
    try:
        written = _service().patch(current_actor(), key, patch, expected_version())
    except ValidationError as error:
        raise InvalidInput(occasion_errors(error)) from None
    return _written(written)


@occasions.delete("/<key>")
@endpoint(Scope.OCCASIONS_WRITE, query=NoQuery, answers={200: DeletedOccasionAnswer}, errors=_WRITING)
def delete_occasion(key: str) -> Response:
    """Delete an occasion that has never planned anything; one that has is archived, for the sake of its history."""
    read_query(NoQuery)
    archived = _service().delete(current_actor(), key, expected_version())
    return json_answer(
        {
            "deleted": archived is None,
            "archived": archived is not None,
            "occasion": None if archived is None else occasion_as_json(archived.occasion),
        }
    )


@occasions.post("/<key>/clone")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    body=CloneBody,
    answers={201: CreatedOccasionAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def clone_occasion(key: str) -> Response:
    """Add an occasion like this one under another key; not active unless that is asked for."""
    read_query(NoQuery)
    body = read_occasion_body(CloneBody)
    try:
        return _created(_service().clone(current_actor(), key, body.key, body.name, active=body.active))
    except ValidationError as error:
        raise InvalidInput(occasion_errors(error)) from None


@occasions.post("/<key>/archive")
@endpoint(Scope.OCCASIONS_WRITE, query=NoQuery, answers={200: WrittenOccasionAnswer}, errors=_WRITING)
def archive_occasion(key: str) -> Response:
    """Turn an occasion off for good: what is scheduled of it is taken out of the log. Harmless to repeat."""
    read_query(NoQuery)
    return _written(_service().archive(current_actor(), key, expected_version()))


@occasions.post("/<key>/unarchive")
@endpoint(Scope.OCCASIONS_WRITE, query=NoQuery, answers={200: WrittenOccasionAnswer}, errors=_WRITING)
def unarchive_occasion(key: str) -> Response:
    """Take an occasion back from the archive; it is not active. Harmless to repeat."""
    read_query(NoQuery)
    return _written(_service().unarchive(current_actor(), key, expected_version()))


@occasions.post("/<key>/pause")
@endpoint(Scope.OCCASIONS_WRITE, query=NoQuery, answers={200: OneOccasionAnswer}, errors=_WRITING)
def pause_occasion(key: str) -> Response:
    """Send nothing of an occasion until it is resumed; it is planned as ever. Harmless to repeat."""
    read_query(NoQuery)
    return _one(_service().pause(current_actor(), key, expected_version()))


@occasions.get("/<key>/backlog")
@endpoint(
    Scope.OCCASIONS_READ, query=NoQuery, answers={200: PausedBacklogAnswer}, errors=(HTTPStatus.NOT_FOUND,)
)
def read_backlog(key: str) -> Response:
    """What would have been sent since an occasion pauses, and how much of it still may be."""
    read_query(NoQuery)
    occasion, backlog = _service().backlog(tenant_id(), key)
    return json_answer({"paused_at": occasion.paused_at, "backlog": backlog_as_json(backlog)})


@occasions.post("/<key>/resume")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    body=ResumeBody,
    answers={200: ResumedOccasionAnswer},
    errors=_WRITING_INPUT,
)
def resume_occasion(key: str) -> Response:
    """Let an occasion go on. Where there is a backlog, the body must say whether to send or to skip it (else 409)."""
    read_query(NoQuery)
    body = read_body(ResumeBody)
    try:
        resumed = _service().resume(current_actor(), key, body.backlog, expected_version())
    except BacklogWaiting as waiting:
        raise Refused(_choice_needed(waiting)) from None
    return json_answer(
        {
            "occasion": occasion_as_json(resumed.occasion),
            "backlog": backlog_as_json(resumed.backlog),
            "skipped": resumed.skipped,
        },
        headers=_etag(resumed.occasion),
    )


def _service() -> Occasions:
    here = services()
    return Occasions(here.engine, planner_for(here.settings, here.engine), here.clock)


def _choice_needed(waiting: BacklogWaiting) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "Backlog waiting",
        str(waiting),
        "/problems/backlog-waiting",
        {"backlog": backlog_as_json(waiting.backlog)},
    )


def _one(occasion: Occasion) -> Response:
    return json_answer({"occasion": occasion_as_json(occasion)}, headers=_etag(occasion))


def _created(written: WrittenOccasion) -> Response:
    assert written.planned is not None, "what is new is planned"
    occasion = written.occasion
    return json_answer(
        {
            "occasion": occasion_as_json(occasion),
            "planned": asdict(written.planned),
            "is_done": written.is_done,
            "warnings": warnings_for(occasion.channels),
        },
        HTTPStatus.CREATED,
        {"Location": f"{occasions.url_prefix}/{occasion.key}"} | _etag(occasion),
    )


def _written(written: WrittenOccasion) -> Response:
    assert written.replanned is not None, "an edit says what it replanned"
    return json_answer(
        {
            "occasion": occasion_as_json(written.occasion),
            "replanned": asdict(written.replanned),
            "is_done": written.is_done,
            "warnings": warnings_for(written.occasion.channels),
        },
        headers=_etag(written.occasion),
    )


def _etag(occasion: Occasion) -> dict[str, str]:
    return {"ETag": etag_of(occasion.version)}
