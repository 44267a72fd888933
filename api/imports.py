"""Import users from a CSV or NDJSON body, while it arrives: memory does not grow with the file.

Rows are written some thousands at a time. Where the body breaks off, what was written stays written;
an import repeated on the same external ids changes nothing twice.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, Final

from flask import Blueprint, Response, request

from api.answers import json_answer
from api.bodies import check_complete, check_media_type
from api.queries import NoQuery, read_query
from api.services import services
from api.tenancy import tenant_id
from api.users import replanned_as_json
from scheduler.importing import ImportForm, RejectedRow, import_users, read_lines

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

imports = Blueprint("imports", __name__, url_prefix="/api/v1/users")

MOST_IMPORT_BYTES: Final = 1_073_741_824
"""Largest body of an import."""

REJECTED_ROWS_SHOWN: Final = 100

_FORMS: Final = {"text/csv": ImportForm.csv, "application/x-ndjson": ImportForm.ndjson}
_BYTES_AT_ONCE: Final = 65_536


@imports.post("/import")
def import_from_body() -> Response:
    """Add or replace users by external id; rows that break rules are left out and listed."""
    read_query(NoQuery)
    form = _FORMS[check_media_type(_FORMS)]
    request.max_content_length = MOST_IMPORT_BYTES
    body = io.BufferedReader(_WholeBody(request.stream), _BYTES_AT_ONCE)
    shown: list[RejectedRow] = []

    def keep_first(row: RejectedRow) -> None:
        if len(shown) < REJECTED_ROWS_SHOWN:
            shown.append(row)

    summary = import_users(services().registry, tenant_id(), read_lines(body), form, keep_first)
    return json_answer(
        {
            "read": summary.read,
            "created": summary.created,
            "updated": summary.updated,
            "rejected": summary.rejected,
            "rejected_rows": [_rejected_as_json(row) for row in shown],
            "replanned": replanned_as_json(summary.replanned),
            "ignored_columns": list(summary.ignored_columns),
        }
    )


class _WholeBody(io.RawIOBase):
    """A body that raises ClientDisconnected where it breaks off: half a line may look like a whole one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        if not data:
            check_complete(self._received)
        view[: len(data)] = data
        self._received += len(data)
        return len(data)


def _rejected_as_json(row: RejectedRow) -> dict[str, Any]:
    return {
        "line": row.line,
        "external_id": row.external_id,
        "errors": [{"pointer": error.pointer, "detail": error.message} for error in row.errors],
    }
