"""`daybreak users import`: people from a file into the database, with their plan."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from deploy.commands.files import Rejections, file_name, progress_bar, rejected_path
from deploy.commands.session import COMMAND, begin_command, say
from deploy.data_folder import with_secret_key
from deploy.database import engine_on, usable_database
from scheduler.clock import SystemClock
from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput
from scheduler.importing import (
    ImportForm,
    ImportProgress,
    ImportSummary,
    RejectedRow,
    check_users,
    follow,
    read_lines,
)
from scheduler.noted_import import import_noted
from scheduler.service import registry_for
from scheduler.settings import Settings

_DEFAULT_TENANT: Final = 1
_OBJECTS_BETWEEN_COLLECTIONS: Final = 200_000
_NDJSON_ENDINGS: Final = (".ndjson", ".jsonl")
_COLUMNS: Final = ("line", "external_id", "reasons")


@click.group()
def users() -> None:
    """Import people."""


@users.command("import")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in ImportForm]),
    help="What the file is; otherwise NDJSON if it is named .ndjson or .jsonl, else CSV.",
)
@click.option(
    "--rejected",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to list rejected rows, as CSV; otherwise FILE.rejected.csv.",
)
@click.option("--all-or-nothing", is_flag=True, help="Write nothing unless every row is right.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def import_file(
    context: click.Context,
    file: BinaryIO,
    form: str | None,
    rejected: Path | None,
    all_or_nothing: bool,
    as_json: bool,
) -> None:
    """Add or replace the people in FILE (CSV or NDJSON; - is standard input) and plan their messages.

    People are known by their external_id: to import a file again changes nothing, and an import that was cut
    short is made whole that way. A CSV needs a header with external_id, first_name and timezone; it may have
    last_name, email, phone, push_token, webhook_url, locale, preferred_time, birth_date, anniversary_date, date:NAME
    and attributes (a JSON object).

    Rows that are not right are listed with their line and all reasons in FILE.rejected.csv; the others are
    kept. With --all-or-nothing they are not: every row is looked at before any is written. (A database that fails
    midway leaves what was written by then; the same import again makes it whole.) Exit code 0 if all rows were
    taken, 1 if some were rejected, 65 if the file cannot be read at all.
    """
    settings = with_secret_key(begin_command())
    chosen = ImportForm(form) if form else _form_of(file_name(file))
    rejections = Rejections(rejected or rejected_path(file), _COLUMNS)
    with usable_database(settings, say) as found, rejections, _progress(file) as on_progress:
        steps = _Steps(lambda row: rejections.add(_cells(row)), on_progress)
        summary = _import(found, file, chosen, steps, all_or_nothing=all_or_nothing)
    if as_json:
        click.echo(json.dumps(_summary_fields(summary, rejections)))
    else:
        _show(summary, rejections)
    context.exit(1 if summary.rejected else 0)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Who is told of what happens."""

    on_rejected: Callable[[RejectedRow], None]
    on_progress: Callable[[ImportProgress], None]


def _import(
    settings: Settings, file: BinaryIO, form: ImportForm, steps: _Steps, *, all_or_nothing: bool
) -> ImportSummary:
    with (
        engine_on(settings, "import") as engine,
        _readable_twice(file, wanted=all_or_nothing) as readable,
        _collecting_rarely(),
    ):
        registry = registry_for(settings, engine, SystemClock())
        try:
            if all_or_nothing:
                checked = check_users(
                    registry, _DEFAULT_TENANT, read_lines(readable), form, steps.on_rejected
                )
                if checked.rejected:
                    return ImportSummary(rejected=checked.rejected, ignored_columns=checked.ignored_columns)
                readable.seek(0)
            events = import_noted(registry, _DEFAULT_TENANT, read_lines(readable), form, actor=COMMAND)
            return follow(events, steps.on_rejected, steps.on_progress)
        except InvalidInput as error:
            raise InvalidInput(FieldError(file_name(file), each.message) for each in error.errors) from None


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Have cyclic garbage looked for rarely: nobody who waits to be written is any, and all of them are looked through
    each time, which takes a third of the process's time.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _readable_twice(file: BinaryIO, *, wanted: bool) -> Iterator[BinaryIO]:
    """The file, or what comes of a pipe in a temporary file, where it is wanted twice."""
    if not wanted or file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Callable[[ImportProgress], None]]:
    """A bar on a terminal, if it is known how long the file is; nothing otherwise."""
    with progress_bar(file) as show:
        yield lambda progress: show(progress.bytes_read, progress.read)


def _form_of(name: str) -> ImportForm:
    return ImportForm.ndjson if name.endswith(_NDJSON_ENDINGS) else ImportForm.csv


def _cells(row: RejectedRow) -> tuple[str, ...]:
    return str(row.line), row.external_id or "", "; ".join(map(str, row.errors))


def _show(summary: ImportSummary, rejections: Rejections) -> None:
    click.echo(
        f"{summary.read:,} rows: {summary.created:,} created, {summary.updated:,} updated, "
        f"{summary.unchanged:,} unchanged, "
        + click.style(f"{summary.rejected:,} rejected", fg="red" if summary.rejected else None)
    )
    if summary.ignored_columns:
        click.echo(f"columns without meaning here, left out: {', '.join(summary.ignored_columns)}")
    if summary.without_address:
        click.echo(
            f"people without any address, who get what goes to their inbox: {summary.without_address:,}"
        )
    replanned = summary.replanned
    click.echo(
        f"messages: {replanned.planned:,} planned, {replanned.moved:,} moved, {replanned.kept:,} kept, "
        f"{replanned.removed:,} removed"
    )
    if summary.rejected:
        rejections.show()


def _summary_fields(summary: ImportSummary, rejections: Rejections) -> dict[str, Any]:
    return {
        "read": summary.read,
        "created": summary.created,
        "updated": summary.updated,
        "unchanged": summary.unchanged,
        "without_address": summary.without_address,
        "rejected": summary.rejected,
        "rejected_file": str(rejections.path) if summary.rejected else None,
        "replanned": asdict(summary.replanned),
        "ignored_columns": list(summary.ignored_columns),
    }
