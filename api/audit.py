"""The audit log: who did what, when, from where. Read it page by page, or take it all out as NDJSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from http import HTTPStatus
from typing import Any, Final

import orjson
from flask import Blueprint, Response, stream_with_context

from api.answers import json_answer
from api.endpoint import endpoint
from api.models.audit import AuditEntryAnswer, AuditExportQuery, AuditListAnswer, AuditListQuery
from api.negotiation import chosen_form
from api.queries import id_from_cursor, read_query, to_cursor
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.store import audit
from scheduler.store.audit import AuditEntry, AuditFilter

audit_log = Blueprint("audit_log", __name__, url_prefix="/api/v1/audit-log")

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"

_CURSOR_KIND: Final = "audit"
_ENTRIES_AT_ONCE: Final = 1_000
_LINE: Final = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
_COLUMNS: Final = tuple(field.name for field in fields(AuditEntry))
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


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
    answer_types=(NDJSON, CSV),
    errors=(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE),
)
def export_entries() -> Response:
    """All entries that are meant, the newest first, one a line, sent while they are read: NDJSON, or CSV with a
    header, as `Accept` has it. What a spreadsheet would take for a formula begins with an apostrophe there.
    """
    wanted = _filter(read_query(AuditExportQuery))
    is_csv = chosen_form((NDJSON, CSV)) == CSV
    lines = (_as_csv if is_csv else _as_ndjson)(tenant_id(), wanted)
    return Response(
        stream_with_context(lines),
        content_type="text/csv; charset=utf-8" if is_csv else NDJSON,
        headers={"Content-Disposition": f'attachment; filename="audit-log.{"csv" if is_csv else "ndjson"}"'},
    )


def _as_ndjson(tenant: int, wanted: AuditFilter) -> Iterator[bytes]:
    for chunk in _chunks(tenant, wanted):
        yield b"".join(orjson.dumps(asdict(entry), option=_LINE) for entry in chunk)


def _as_csv(tenant: int, wanted: AuditFilter) -> Iterator[bytes]:
    yield _csv_rows([_COLUMNS])
    for chunk in _chunks(tenant, wanted):
        yield _csv_rows([[_cell(value) for value in asdict(entry).values()] for entry in chunk])


def _csv_rows(rows: Sequence[Sequence[str]]) -> bytes:
    """RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    """A value as JSON has it, but text without its quotation marks."""
    if value is None:
        return ""
    shown = (
        value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_UTC_Z).decode().strip('"')
    )
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _chunks(tenant: int, wanted: AuditFilter) -> Iterator[list[AuditEntry]]:
    """No connection is held while the caller takes a chunk in."""
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
