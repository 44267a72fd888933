"""The audit log: who did what, when, from where. Read it page by page, or take it all out as NDJSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

import orjson
from flask import Blueprint, Response, stream_with_context

from api.answers import json_answer
from api.endpoint import endpoint
from api.models.audit import AuditEntryAnswer, AuditExportQuery, AuditListAnswer, AuditListQuery
from api.queries import id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.store import audit
from scheduler.store.audit import AuditEntry, AuditFilter

audit_log = Blueprint("audit_log", __name__, url_prefix="/api/v1/audit-log")

NDJSON: Final = "application/x-ndjson"

_CURSOR_KIND: Final = "audit"
_ENTRIES_AT_ONCE: Final = 1_000
_LINE: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


@audit_log.get("")
@endpoint(
    Scope.AUDIT_READ, query=AuditListQuery, answers={200: AuditListAnswer}, errors=(HTTPStatus.BAD_REQUEST,)
)
def list_entries() -> Response:
    """A page of the audit log, the newest entry first."""
    query = read_query(AuditListQuery)
    before = id_from_cursor(_CURSOR_KIND, query.cursor)
    with services().reading() as connection:
        found = audit.page(connection, tenant_id(), _filter(query), before=before, most=query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    next_cursor = to_cursor(_CURSOR_KIND, str(shown[-1].id)) if more else None
    return json_answer({"entries": [asdict(entry) for entry in shown], "next_cursor": next_cursor})


@audit_log.get("/export")
@endpoint(
    Scope.AUDIT_READ,
    query=AuditExportQuery,
    answers={200: AuditEntryAnswer},
    answer_types=(NDJSON,),
    errors=(HTTPStatus.BAD_REQUEST,),
)
def export_entries() -> Response:
    """All entries that are meant, the newest first, one a line; sent while they are read."""
    wanted = _filter(read_query(AuditExportQuery))
    lines = stream_with_context(_lines(tenant_id(), wanted))
    return Response(
        lines, content_type=NDJSON, headers={"Content-Disposition": 'attachment; filename="audit-log.ndjson"'}
    )


def _lines(tenant: int, wanted: AuditFilter) -> Iterator[bytes]:
    """Chunk by chunk, no connection held while the caller takes one in."""
    for chunk in _chunks(tenant, wanted):
        yield b"".join(orjson.dumps(asdict(entry), option=_LINE) for entry in chunk)


def _chunks(tenant: int, wanted: AuditFilter) -> Iterator[list[AuditEntry]]:
    before = None
    while True:
        with services().reading() as connection:
            chunk = audit.page(connection, tenant, wanted, before=before, most=_ENTRIES_AT_ONCE)
        yield chunk
        if len(chunk) < _ENTRIES_AT_ONCE:
            return
        before = chunk[-1].id


def _filter(query: AuditExportQuery) -> AuditFilter:
    given: dict[str, Any] = {name: getattr(query, name) for name in AuditExportQuery.model_fields}
    return AuditFilter(**given)
