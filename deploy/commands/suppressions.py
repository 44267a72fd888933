"""`daybreak suppressions list | add | remove | import`: the addresses that are not written to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from deploy.commands.files import Rejections, ShowProgress, file_name, progress_bar, rejected_path
from deploy.commands.session import COMMAND, begin_command, say
from deploy.commands.table import table
from deploy.database import engine_on, usable_database
from deploy.suppression_file import FileLine, read_addresses
from scheduler.clock import SystemClock
from scheduler.domain.address import address_errors
from scheduler.domain.field_error import FieldError
from scheduler.domain.occasion import Channel
from scheduler.domain.suppression import SuppressionReason
from scheduler.errors import InvalidInput
from scheduler.importing import read_lines
from scheduler.preferences import Preferences
from scheduler.store import preferences as stored_preferences
from scheduler.store.preferences import NewSuppression, Suppression

_DEFAULT_TENANT: Final = 1
_SOURCE: Final = "command line"
_CHUNK: Final = 2_000
_HEADINGS: Final = ("ID", "SINCE (UTC)", "CHANNEL", "REASON", "SOURCE", "ADDRESS")
_COLUMNS: Final = ("line", "reasons")
_CHANNELS: Final = click.Choice([channel.value for channel in Channel if channel is not Channel.IN_APP])
_REASONS: Final = click.Choice([reason.value for reason in SuppressionReason])
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_REASON: Final = click.option(
    "--reason", type=_REASONS, default=SuppressionReason.MANUAL.value, show_default=True, help="Why."
)


@click.group()
def suppressions() -> None:
    """List, add, remove and import addresses that are not written to."""


@suppressions.command("list")
@click.option("--channel", type=_CHANNELS, help="Only those of this channel.")
@click.option("--reason", type=_REASONS, help="Only those with this reason.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many at most.")
@click.option(
    "--after",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    help="Only those with an id above: the next page.",
)
@_JSON
def list_suppressions(channel: str | None, reason: str | None, limit: int, after: int, as_json: bool) -> None:
    """Show the addresses in the order in which they came. The output holds them in the clear."""
    with (
        usable_database(begin_command(), say, create=False) as settings,
        engine_on(settings, "command") as engine,
        engine.connect() as connection,
    ):
        found = stored_preferences.suppressions(
            connection,
            _DEFAULT_TENANT,
            after=after,
            most=limit + 1,
            channel=None if channel is None else Channel(channel),
            reason=None if reason is None else SuppressionReason(reason),
        )
    shown = found[:limit]
    following = shown[-1].id if len(found) > limit else None
    if as_json:
        _print_json({"suppressions": [asdict(each) for each in shown], "next_after": following})
        return
    if not shown:
        click.echo("no addresses")
        return
    click.echo(table(_HEADINGS, [_cells(each) for each in shown]))
    if following is not None:
        click.echo(f"the next page: --after {following}")


@suppressions.command()
@click.argument("channel", type=_CHANNELS)
@click.argument("address")
@_REASON
@_JSON
def add(channel: str, address: str, reason: str, as_json: bool) -> None:
    """Write to ADDRESS on CHANNEL no more. Harmless to repeat: an older entry stays as it is."""
    if errors := address_errors(Channel(channel), address):
        raise InvalidInput(FieldError("ADDRESS", each.message) for each in errors)
    with _preferences() as preferences:
        entry, is_new = preferences.suppress(
            _DEFAULT_TENANT, Channel(channel), address, SuppressionReason(reason), _SOURCE
        )
    if as_json:
        _print_json(asdict(entry) | {"is_new": is_new})
    elif is_new:
        click.echo("added")
    else:
        click.echo(f"was there already: {entry.reason}, since {entry.created_at:%Y-%m-%d}, by {entry.source}")


@suppressions.command()
@click.argument("channel", type=_CHANNELS)
@click.argument("address")
@_JSON
@click.pass_context
def remove(context: click.Context, channel: str, address: str, as_json: bool) -> None:
    """Write to ADDRESS on CHANNEL again. Exit code 1 if it was not on the list."""
    with _preferences() as preferences:
        was_there = preferences.unsuppress(_DEFAULT_TENANT, Channel(channel), address)
    if as_json:
        _print_json({"removed": was_there})
    else:
        click.echo("removed" if was_there else "was not on the list")
    context.exit(0 if was_there else 1)


@suppressions.command("import")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--channel",
    type=_CHANNELS,
    default=Channel.EMAIL.value,
    show_default=True,
    help="Whose addresses they are.",
)
@_REASON
@click.option(
    "--rejected",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to list rejected lines, as CSV; otherwise FILE.rejected.csv.",
)
@_JSON
@click.pass_context
def import_file(
    context: click.Context, file: BinaryIO, channel: str, reason: str, rejected: Path | None, as_json: bool
) -> None:
    """Add all addresses in FILE (- is standard input) to the list.

    FILE has one address a line, or is a CSV whose header names a column address, email or phone; other columns are
    left out. To import a file again changes nothing.

    Lines that are no address are listed with what is wrong in FILE.rejected.csv; the others are kept. Exit code 0
    if all lines were taken, 1 if some were rejected, 65 if the file cannot be read at all.
    """
    rejections = Rejections(rejected or rejected_path(file), _COLUMNS)
    with _preferences(create=True) as preferences, rejections, progress_bar(file) as show:
        importing = _Import(preferences, Channel(channel), SuppressionReason(reason), rejections, show)
        try:
            importing.run(read_addresses(read_lines(file), Channel(channel)))
        except InvalidInput as error:
            raise InvalidInput(FieldError(file_name(file), each.message) for each in error.errors) from None
    counts = importing.counts
    if as_json:
        place = str(rejections.path) if counts.rejected else None
        _print_json(asdict(counts) | {"rejected_file": place})
    else:
        click.echo(
            f"{counts.read:,} addresses: {counts.added:,} added, {counts.known:,} known already, "
            + click.style(f"{counts.rejected:,} rejected", fg="red" if counts.rejected else None)
        )
        if counts.rejected:
            rejections.show()
    context.exit(1 if counts.rejected else 0)


@dataclass(slots=True)
class _Counts:
    """What an import did, in lines."""

    read: int = 0
    added: int = 0
    known: int = 0
    rejected: int = 0


class _Import:
    """Writes addresses a chunk at a time, each in a transaction of its own."""

    def __init__(
        self,
        preferences: Preferences,
        channel: Channel,
        reason: SuppressionReason,
        rejections: Rejections,
        show: ShowProgress,
    ) -> None:
        self.counts = _Counts()
        self._preferences = preferences
        self._channel = channel
        self._reason = reason
        self._rejections = rejections
        self._show = show
        self._chunk: list[NewSuppression] = []

    def run(self, lines: Iterator[FileLine]) -> None:
        """Take all lines; what came before an error is kept."""
        bytes_read = 0
        for line in lines:
            bytes_read = line.bytes_read
            self.counts.read += 1
            if line.errors:
                self.counts.rejected += 1
                self._rejections.add((str(line.number), "; ".join(map(str, line.errors))))
            else:
                self._chunk.append(NewSuppression(self._channel, line.address, self._reason))
            if len(self._chunk) == _CHUNK:
                self._write(bytes_read)
        self._write(bytes_read)

    def _write(self, bytes_read: int) -> None:
        added = self._preferences.suppress_all(_DEFAULT_TENANT, self._chunk, _SOURCE)
        self.counts.added += added
        self.counts.known += len(self._chunk) - added
        self._chunk = []
        self._show(bytes_read, self.counts.read)


@contextmanager
def _preferences(*, create: bool = False) -> Iterator[Preferences]:
    with (
        usable_database(begin_command(), say, create=create) as settings,
        engine_on(settings, "command") as engine,
    ):
        yield Preferences(engine, SystemClock(), COMMAND)


def _cells(entry: Suppression) -> tuple[str, ...]:
    since = f"{entry.created_at:%Y-%m-%d %H:%M}"
    return str(entry.id), since, entry.channel, entry.reason, entry.source, entry.address


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, default=str))
