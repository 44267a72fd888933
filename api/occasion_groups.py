"""Groups of occasions: how often their members may write to one user, all together."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.access import current_actor
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.models.occasions import GroupBody, GroupListAnswer, OneGroupAnswer, RemovedAnswer
from api.queries import NoQuery, read_query
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.duration import format_duration
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion_input import KEY_MESSAGE, KEY_PATTERN
from scheduler.errors import InvalidInput, NotFound
from scheduler.store import audit
from scheduler.store import occasion_groups as stored_groups
from scheduler.store.database import in_transaction
from scheduler.store.occasion_groups import OccasionGroup

occasion_groups = Blueprint("occasion_groups", __name__, url_prefix="/api/v1/occasion-groups")

_KIND = "occasion group"


@occasion_groups.get("")
@endpoint(Scope.OCCASIONS_READ, query=NoQuery, answers={200: GroupListAnswer})
def list_groups() -> Response:
    """All groups in order of their keys: a handful, so there are no pages."""
    read_query(NoQuery)
    with services().reading() as connection:
        found = stored_groups.list_all(connection, tenant_id())
    return json_answer({"groups": [_as_json(group) for group in found]})


@occasion_groups.put("/<key>")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    body=GroupBody,
    answers={200: OneGroupAnswer},
    errors=(HTTPStatus.UNPROCESSABLE_ENTITY,),
)
def put_group(key: str) -> Response:
    """Add a group, or give it another limit; it holds for what no worker has claimed yet."""
    read_query(NoQuery)
    body = read_body(GroupBody)
    if not re.fullmatch(KEY_PATTERN, key):
        raise InvalidInput([FieldError("/key", KEY_MESSAGE)])
    group = OccasionGroup(key, body.most_occurrences, body.period)

    def work(connection: Connection) -> None:
        before = _find(connection, key)
        if before == group:
            return
        stored_groups.put(connection, tenant_id(), group)
        _note(connection, "create" if before is None else "replace", before, group)

    in_transaction(services().engine, work)
    return json_answer({"group": _as_json(group)})


@occasion_groups.delete("/<key>")
@endpoint(
    Scope.OCCASIONS_WRITE,
    query=NoQuery,
    answers={200: RemovedAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def remove_group(key: str) -> Response:
    """Remove a group that no occasion names."""
    read_query(NoQuery)

    def work(connection: Connection) -> None:
        before = _find(connection, key)
        if before is None:
            raise NotFound(_KIND, key)
        stored_groups.remove(connection, tenant_id(), key)
        _note(connection, "delete", before, None)

    in_transaction(services().engine, work)
    return json_answer({"removed": True})


def _find(connection: Connection, key: str) -> OccasionGroup | None:
    found = stored_groups.list_all(connection, tenant_id())
    return next((group for group in found if group.key == key), None)


def _note(
    connection: Connection, action: str, before: OccasionGroup | None, after: OccasionGroup | None
) -> None:
    subject = after or before
    assert subject is not None, "somebody did something to a group"
    audit.add(
        connection,
        current_actor(),
        action,
        _KIND,
        subject.key,
        None if before is None else _as_json(before),
        None if after is None else _as_json(after),
        now=services().clock.now(),
    )


def _as_json(group: OccasionGroup) -> dict[str, Any]:
    return {
        "key": group.key,
        "most_occurrences": group.most_occurrences,
        "period": format_duration(group.period),
    }
