"""`daybreak users import`: people from a file into the database, with their plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from deploy.commands.files import Rejections, file_name, progress_bar, rejected_path
from deploy.commands.session import begin_command, say
from deploy.database import engine_on, usable_database
from scheduler.clock import SystemClock
from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput
from scheduler.importing import (
    ImportForm,
    ImportProgress,
    ImportSummary,
    RejectedRow,
    import_users,
    read_lines,
)
from scheduler.registry import Registry
from scheduler.service import planner_for
from scheduler.settings import Settings

_DEFAULT_TENANT: Final = 1
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
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def import_file(
    context: click.Context, file: BinaryIO, form: str | None, rejected: Path | None, as_json: bool
) -> None:
    """Add or replace the people in FILE (CSV or NDJSON; - is standard input) and plan their messages.

    People are known by their external_id: to import a file again changes nothing, and an import that was cut
    short is made whole that way. A CSV needs a header with external_id, first_name and timezone; it may have
    last_name, email, phone, locale, preferred_time, birth_date, anniversary_date and date:NAME.

    Rows that are not right are listed with their line and all reasons in FILE.rejected.csv; the others are
    kept. Exit code 0 if all rows were taken, 1 if some were rejected, 65 if the file cannot be read at all.
    """
    settings = begin_command()
    chosen = ImportForm(form) if form else _form_of(file_name(file))
    rejections = Rejections(rejected or rejected_path(file), _COLUMNS)
    with usable_database(settings, say) as found, rejections, _progress(file) as on_progress:
        summary = _import(found, file, chosen, lambda row: rejections.add(_cells(row)), on_progress)
    if as_json:
        click.echo(json.dumps(_summary_fields(summary, rejections)))
    else:
        _show(summary, rejections)
    context.exit(1 if summary.rejected else 0)


def _import(
    settings: Settings,
    file: BinaryIO,
    form: ImportForm,
    on_rejected: Callable[[RejectedRow], None],
    on_progress: Callable[[ImportProgress], None],
) -> ImportSummary:
    clock = SystemClock()
    with engine_on(settings, "import") as engine:
        registry = Registry(engine, planner_for(settings, engine), clock)
        try:
            return import_users(registry, _DEFAULT_TENANT, read_lines(file), form, on_rejected, on_progress)
        except InvalidInput as error:
            raise InvalidInput(FieldError(file_name(file), each.message) for each in error.errors) from None


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
        + click.style(f"{summary.rejected:,} rejected", fg="red" if summary.rejected else None)
    )
    if summary.ignored_columns:
        click.echo(f"columns without meaning here, left out: {', '.join(summary.ignored_columns)}")
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
        "rejected": summary.rejected,
        "rejected_file": str(rejections.path) if summary.rejected else None,
        "replanned": asdict(summary.replanned),
        "ignored_columns": list(summary.ignored_columns),
    }
