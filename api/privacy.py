"""Privacy: tell all that is stored of a person, and erase it.

What is erased, what stays and what cannot be reached stands in `scheduler.privacy`.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response

from api.access import current_actor
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.models.privacy import (
    AllowedAnswer,
    AllowInput,
    ErasedAnswer,
    EraseInput,
    PrivacyExportAnswer,
)
from api.problems import Problem, Refused
from api.queries import NoQuery, read_query
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.errors import ConfigurationError, NotFound
from scheduler.privacy import Privacy
from scheduler.service import privacy_for

privacy = Blueprint("privacy", __name__, url_prefix="/api/v1")


@privacy.get("/users/<identity:user_id>/privacy-export")
@endpoint(
    Scope.PRIVACY,
    query=NoQuery,
    answers={200: PrivacyExportAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def export_person(user_id: int) -> Response:
    """All that is stored of a user, also of one who was deleted."""
    read_query(NoQuery)
    return _export(user_id)


@privacy.get("/users/external/<path:external_id>/privacy-export")
@endpoint(
    Scope.PRIVACY,
    query=NoQuery,
    answers={200: PrivacyExportAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def export_external_person(external_id: str) -> Response:
    """All that is stored of the user of this external id, also of one who was deleted."""
    read_query(NoQuery)
    return _export(_id_of(external_id))


def _export(user_id: int) -> Response:
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="user-{user_id}.json"',
    }
    return json_answer(_privacy().export(tenant_id(), user_id), headers=headers)


@privacy.post("/users/<identity:user_id>/erase")
@endpoint(
    Scope.PRIVACY,
    query=NoQuery,
    body=EraseInput,
    answers={200: ErasedAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def erase_person(user_id: int) -> Response:
    """Forget a user, also one who was deleted, and keep them from coming back; harmless to repeat."""
    read_query(NoQuery)
    return _erase(user_id)


@privacy.post("/users/external/<path:external_id>/erase")
@endpoint(
    Scope.PRIVACY,
    query=NoQuery,
    body=EraseInput,
    answers={200: ErasedAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def erase_external_person(external_id: str) -> Response:
    """Forget the user of this external id, also one who was deleted, and keep them from coming back.

    By then nobody is known by that external id: asked again, it answers 404.
    """
    read_query(NoQuery)
    return _erase(_id_of(external_id))


def _id_of(external_id: str) -> int:
    """The id of a user, also of one who was deleted. Raises NotFound."""
    if "\0" in external_id:
        raise NotFound("user", external_id)
    return _privacy().find(tenant_id(), external_id)


def _erase(user_id: int) -> Response:
    erased = _privacy().erase(current_actor(), user_id, read_body(EraseInput).reason)
    return json_answer(
        {
            "user_id": erased.user_id,
            "already": erased.already,
            "removed_messages": erased.removed_messages,
            "rows": dict(erased.counts),
        }
    )


@privacy.post("/privacy/allow")
@endpoint(
    Scope.PRIVACY,
    query=NoQuery,
    body=AllowInput,
    answers={200: AllowedAnswer},
    errors=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def allow_person() -> Response:
    """Let somebody who was erased be added again under their external id, as somebody new."""
    read_query(NoQuery)
    given = read_body(AllowInput)
    return json_answer({"allowed": _privacy().allow(current_actor(), given.external_id, given.reason)})


def _privacy() -> Privacy:
    """Raises Refused where there is no key to remember people under: an API that asks nobody who they are has none."""
    parts = services()
    try:
        return privacy_for(parts.settings, parts.engine, parts.clock)
    except ConfigurationError as error:
        raise Refused(Problem(HTTPStatus.CONFLICT, "Conflict", str(error), "/problems/conflict")) from None
