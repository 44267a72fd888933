"""Export: all users that are meant, in a form that an import takes, sent while they are read.

They are read a thousand at a time in order of id, each as they are at that moment; no connection is held while the
caller takes them in, and memory does not grow with them. To import what was exported changes nothing. An export that
breaks off ends without the end of the body: a client can tell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from flask import Blueprint, Response, stream_with_context

from api.endpoint import endpoint
from api.models.users import UserAnswer, UserExportQuery
from api.negotiation import chosen_form
from api.queries import read_query
from api.services import services
from api.tenancy import tenant_id
from api.users import check_day, values_as_json
from scheduler.domain.access import Scope
from scheduler.store import user_queries
from scheduler.store.user_queries import UserFilter
from scheduler.store.users import StoredUser

exports = Blueprint("exports", __name__, url_prefix="/api/v1/users")

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"

_LINE: Final = orjson.OPT_APPEND_NEWLINE
_FIELDS: Final = (
    *("external_id", "first_name", "last_name", "email", "phone", "push_token", "webhook_url"),
    *("timezone", "locale", "preferred_time"),
)


@exports.get("/export")
@endpoint(
    Scope.USERS_READ,
    query=UserExportQuery,
    answers={200: UserAnswer},
    answer_types=(NDJSON, CSV),
    errors=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE),
)
def export_users() -> Response:
    """All users that are meant, one a line: NDJSON, or CSV with a header, as `Accept` has it."""
    query = read_query(UserExportQuery)
    check_day(query)
    media_type = chosen_form((NDJSON, CSV))
    lines = (_as_csv if media_type == CSV else _as_ndjson)(tenant_id(), query.wanted)
    ending = "csv" if media_type == CSV else "ndjson"
    return Response(
        stream_with_context(lines),
        content_type="text/csv; charset=utf-8" if media_type == CSV else NDJSON,
        headers={"Content-Disposition": f'attachment; filename="users.{ending}"'},
    )


def _as_ndjson(tenant: int, wanted: UserFilter) -> Iterator[bytes]:
    for chunk in _chunks(tenant, wanted):
        yield b"".join(orjson.dumps(values_as_json(user.values), option=_LINE) for user in chunk)


def _as_csv(tenant: int, wanted: UserFilter) -> Iterator[bytes]:
    with services().reading() as connection:
        names = user_queries.date_names(connection, tenant)
    columns = [*_FIELDS, *(f"date:{name}" for name in names), "attributes"]
    yield _csv_rows([columns])
    for chunk in _chunks(tenant, wanted):
        yield _csv_rows([_cells(user, names) for user in chunk])


def _chunks(tenant: int, wanted: UserFilter) -> Iterator[Sequence[StoredUser]]:
    after: int | None = 0
    while after is not None:
        with services().reading() as connection:
            page = user_queries.page(
                connection, tenant, wanted, after=after, most=user_queries.EXPORTED_AT_ONCE
            )
        yield page.users
        after = page.next


def _cells(user: StoredUser, names: Sequence[str]) -> list[str]:
    values = values_as_json(user.values)
    dates = user.values.dates
    if not dates.keys() <= set(names):
        raise RuntimeError("a date has been given a name since the header was sent")
    return [
        *(values[name] or "" for name in _FIELDS),
        *(dates[name].isoformat() if name in dates else "" for name in names),
        orjson.dumps(user.values.attributes).decode() if user.values.attributes else "",
    ]


def _csv_rows(rows: Sequence[Sequence[Any]]) -> bytes:
    """RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
