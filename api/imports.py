"""Import users from a CSV or NDJSON body: memory does not grow with it.

`mode=good_rows` (default): rows are written some thousands at a time while the body arrives; those that break rules
are left out and told. Where the body or the database breaks off, what was written stays written; an import repeated
on the same external ids changes nothing twice.

`mode=all`: the body is kept in a temporary file (`TMPDIR`) and every row is looked at first. Unless all are right,
nothing is written and the answer is 422. Then they are written as above: a database that fails midway leaves the rows
before it written, and the same import again makes it whole.

With `Accept: application/x-ndjson` the answer is a line for each rejected row, one for each few thousand rows that
are done, and at the end one that sums up; an answer without that line has broken off. So progress needs no state that
a restart could lose, and whoever sees it end early is who can repeat it. A body that is answered so is kept in a
temporary file first: a client that does not read while it writes would otherwise wait for us, and we for it.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

import orjson
from flask import Blueprint, Response, request, stream_with_context

from api.access import current_actor
from api.answers import json_answer
from api.bodies import JSON, check_complete, check_media_type
from api.endpoint import endpoint
from api.models.users import ImportAnswer, ImportQuery
from api.negotiation import chosen_form
from api.problems import Problem, Refused, problem_of
from api.queries import read_query
from api.services import services
from api.tenancy import tenant_id
from api.users import replanned_as_json
from scheduler.domain.access import Actor, Scope
from scheduler.importing import (
    Event,
    Events,
    ImportForm,
    ImportSummary,
    RejectedRow,
    check_users,
    follow,
    read_lines,
)
from scheduler.noted_import import import_noted
from scheduler.registry import Registry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

imports = Blueprint("imports", __name__, url_prefix="/api/v1/users")

MOST_IMPORT_BYTES: Final = 1_073_741_824
"""Largest body of an import."""

REJECTED_ROWS_SHOWN: Final = 100

NDJSON: Final = "application/x-ndjson"

_FORMS: Final = {"text/csv": ImportForm.csv, NDJSON: ImportForm.ndjson}
_BYTES_AT_ONCE: Final = 65_536
_BYTES_IN_MEMORY: Final = 1_048_576
# Neither compressed nor held back by a proxy: who asks for lines wants them as they come.
_AS_THEY_COME: Final = {"Cache-Control": "no-transform", "X-Accel-Buffering": "no"}


@imports.post("/import")
@endpoint(
    Scope.USERS_WRITE,
    query=ImportQuery,
    body_types=tuple(_FORMS),
    answers={200: ImportAnswer},
    answer_types=(JSON, NDJSON),
    errors=(HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def import_from_body() -> Response:
    """Add or replace users by external id.

    `mode` says what becomes of the good rows where others break rules. As JSON the first hundred rejected rows are
    told, as NDJSON all of them, and the progress.
    """
    mode = read_query(ImportQuery).mode
    form = _FORMS[check_media_type(_FORMS)]
    answered_as = chosen_form((JSON, NDJSON))
    request.max_content_length = MOST_IMPORT_BYTES
    body: BinaryIO = io.BufferedReader(_WholeBody(request.stream), _BYTES_AT_ONCE)
    with ExitStack() as files:
        if mode == "all" or answered_as == NDJSON:
            body = _kept(body, files)
        work = _Import(services().registry, tenant_id(), current_actor(), form, mode, body)
        if answered_as == JSON:
            return _at_once(work)
        response = _in_lines(work, files)
        response.call_on_close(files.pop_all().close)
        return response


@dataclass(frozen=True, slots=True)
class _Import:
    """An import that is asked for."""

    registry: Registry
    tenant: int
    actor: Actor
    form: ImportForm
    mode: str
    body: BinaryIO

    def check(self, on_rejected: Callable[[RejectedRow], None]) -> ImportSummary | None:
        """Where every row must be right: what is wrong. None: nothing is, or it need not be known beforehand."""
        if self.mode != "all":
            return None
        checked = check_users(self.registry, self.tenant, read_lines(self.body), self.form, on_rejected)
        self.body.seek(0)
        return checked if checked.rejected else None

    def events(self) -> Events:
        """Carry it out."""
        return import_noted(self.registry, self.tenant, read_lines(self.body), self.form, actor=self.actor)


def _at_once(work: _Import) -> Response:
    """The answer when all is done."""
    shown: list[RejectedRow] = []

    def keep_first(row: RejectedRow) -> None:
        if len(shown) < REJECTED_ROWS_SHOWN:
            shown.append(row)

    refused = work.check(keep_first)
    if refused is not None:
        raise Refused(_not_all_right(refused, shown))
    summary = follow(work.events(), keep_first)
    rows = [_rejected_as_json(row) for row in shown]
    return json_answer({**_summary_as_json(work.mode, summary), "rejected_rows": rows})


def _in_lines(work: _Import, files: ExitStack) -> Response:
    """The answer while it is done; where nothing is done, a problem as ever or, with all its rows, 422."""
    told = _temporary(files)

    def keep(row: RejectedRow) -> None:
        told.write(_event_as_line(row))

    refused = work.check(keep)
    if refused is not None:
        told.write(_line({"problem": problem_of(Refused(_not_all_right(refused, [])))}))
        told.seek(0)
        return _lines(iter(lambda: told.read(_BYTES_AT_ONCE), b""), HTTPStatus.UNPROCESSABLE_ENTITY)
    lines = _lines_of(work)
    # Up to here it may turn out that the file cannot be read at all, or that the database does not answer.
    first = next(lines)
    return _lines(stream_with_context(_joined(first, lines)), HTTPStatus.OK)


def _lines_of(work: _Import) -> Iterator[bytes]:
    """What happens in an import, a line each, and its sum at the end. Raises before the first line only."""
    has_begun = False
    try:
        with closing(work.events()) as events:
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    yield _line({"summary": _summary_as_json(work.mode, end.value)})
                    return
                yield _event_as_line(event)
                has_begun = True
    except Exception as error:
        if not has_begun:
            raise
        yield _line({"problem": problem_of(error)})


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _lines(lines: Iterator[bytes], status: HTTPStatus) -> Response:
    return Response(lines, status, _AS_THEY_COME, content_type=NDJSON)


def _temporary(files: ExitStack) -> BinaryIO:
    """A file that nobody else can open, in memory while it is small; it lasts as long as `files`."""
    return cast("BinaryIO", files.enter_context(tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)))


def _kept(body: BinaryIO, files: ExitStack) -> BinaryIO:
    """The body in a temporary file, whole: it can be read twice."""
    file = _temporary(files)
    shutil.copyfileobj(body, file, _BYTES_AT_ONCE)
    file.seek(0)
    return file


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


def _not_all_right(checked: ImportSummary, shown: list[RejectedRow]) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Not every row is right",
        f"{checked.rejected} of {checked.read} rows break rules; nothing was written",
        "/problems/import-refused",
        {
            "read": checked.read,
            "rejected": checked.rejected,
            "rejected_rows": [_rejected_as_json(row) for row in shown],
        },
    )


def _summary_as_json(mode: str, summary: ImportSummary) -> dict[str, Any]:
    return {
        "mode": mode,
        "read": summary.read,
        "created": summary.created,
        "updated": summary.updated,
        "unchanged": summary.unchanged,
        "rejected": summary.rejected,
        "without_address": summary.without_address,
        "replanned": replanned_as_json(summary.replanned),
        "ignored_columns": list(summary.ignored_columns),
    }


def _event_as_line(event: Event) -> bytes:
    if isinstance(event, RejectedRow):
        return _line({"rejected": _rejected_as_json(event)})
    progress = {"bytes_read": event.bytes_read, "read": event.read, "rejected": event.rejected}
    return _line({"progress": progress})


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _rejected_as_json(row: RejectedRow) -> dict[str, Any]:
    return {
        "line": row.line,
        "external_id": row.external_id,
        "errors": [{"pointer": error.pointer, "detail": error.message} for error in row.errors],
    }
