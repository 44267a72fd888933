"""`daybreak simulate`: what would go out between two instants, found by sending it on a simulated clock."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Final, cast

import click
from sqlalchemy import Engine

from deploy.commands.session import begin_command, say
from deploy.embedded import throwaway_server
from deploy.simulate.ledger import LedgerProvider
from deploy.simulate.parameters import DowntimeParameter, InstantParameter, LatenessLimitParameter
from deploy.simulate.report import Summary, Tally, sent_messages, summarize
from deploy.simulate.simulation import Downtime, Simulation
from scheduler.clock import SettableClock, SystemClock
from scheduler.domain.field_error import FieldError
from scheduler.errors import InvalidInput
from scheduler.importing import ImportForm, ImportSummary, RejectedRow, import_users, read_lines
from scheduler.settings import Settings
from scheduler.store import outcomes
from scheduler.store.database import create_database_engine
from scheduler.store.migrate import upgrade

WARM_UP: Final = timedelta(hours=1)
"""How long before the window the people are added and everything starts.

They are the population as it stood, not newcomers: added at the window's very beginning, those whose hour
had struck already on their local date would be greeted at once, at a wrong hour. So that happens before the
window, of which alone is told.
"""

_TENANT: Final = 1
_POOL_SIZE: Final = 3
_NDJSON_ENDINGS: Final = (".ndjson", ".jsonl")
_REJECTED_SHOWN: Final = 5

OnProgress = Callable[[datetime], object]


@dataclass(frozen=True, slots=True)
class Window:
    """The instants a simulation is about: messages due from `starts` up to and without `ends`."""

    starts: datetime
    ends: datetime


@click.command("simulate")
@click.option(
    "--people",
    type=click.File("rb"),
    required=True,
    help="File of people as `daybreak users import` takes it: NDJSON if named .ndjson or .jsonl, else CSV.",
)
@click.option(
    "--from", "starts", type=InstantParameter(), required=True, help="First instant, with its zone."
)
@click.option("--until", "ends", type=InstantParameter(), required=True, help="The instant after the last.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    default="-",
    help="NDJSON file with a line for each accepted message; standard output unless given.",
)
@click.option(
    "--downtime",
    "downtimes",
    type=DowntimeParameter(),
    multiple=True,
    help="Nothing runs from one instant until another (or for a duration). May be given more than once.",
)
@click.option(
    "--lateness-limit",
    type=LatenessLimitParameter(),
    help="How late a message may go out (PT48H); the setting DAYBREAK_LATENESS_LIMIT unless given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    people: BinaryIO,
    starts: datetime,
    ends: datetime,
    output: str,
    downtimes: tuple[Downtime, ...],
    lateness_limit: timedelta | None,
    as_json: bool,
) -> None:
    """Send what falls due between two instants to the people of a file, on a simulated clock.

    The real planner, jobs, broker and worker run against a throw-away database; nobody is written to. Writes
    a line for each message in order of acceptance, then a summary: to standard output, or to standard error
    where the lines go there. What is late because of a downtime is followed beyond --until to its end.
    """
    if ends <= starts:
        raise click.UsageError("--until must lie after --from")
    settings = _apart(begin_command(), lateness_limit)
    window = Window(starts, ends)
    with _opened(output) as lines, _database() as engine, _progress(window) as on_progress:
        summary = _simulate(engine, settings, people, window, downtimes, lines, on_progress)
    _print_summary(summary, as_json, aside=output == "-")


def _apart(settings: Settings, lateness_limit: timedelta | None) -> Settings:
    """The settings without a database or broker, whatever is set up: a simulation stays away from them."""
    changes: dict[str, object] = {"database_url": None, "broker_url": None}
    if lateness_limit is not None:
        changes["lateness_limit"] = lateness_limit
    return settings.model_copy(update=changes)


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """The file to write to, before anything is simulated for nothing."""
    try:
        with click.open_file(output, "wb") as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        raise click.FileError(output, error.strerror) from error


@contextmanager
def _database() -> Iterator[Engine]:
    with throwaway_server() as server:
        engine = create_database_engine(
            server.url, pool_size=_POOL_SIZE, application_name="daybreak-simulate"
        )
        try:
            upgrade(engine)
            yield engine
        finally:
            engine.dispose()


@contextmanager
def _progress(window: Window) -> Iterator[OnProgress]:
    """A bar on standard error, if that is a terminal."""
    length_seconds = int((window.ends - window.starts).total_seconds())
    with click.progressbar(
        length=length_seconds, label="simulating", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def show(instant: datetime) -> None:
            done_seconds = int((instant - window.starts).total_seconds())
            bar.update(min(length_seconds, max(0, done_seconds)) - bar.pos)

        yield show


def _simulate(
    engine: Engine,
    settings: Settings,
    people: BinaryIO,
    window: Window,
    downtimes: Sequence[Downtime],
    output: BinaryIO,
    on_progress: OnProgress,
) -> Summary:
    stopwatch = SystemClock()
    began_seconds = stopwatch.monotonic()
    clock = SettableClock(window.starts - WARM_UP)
    ledger = LedgerProvider(clock)
    simulation = Simulation(engine, clock, settings, ledger, downtimes=downtimes)
    imported = _import(simulation, people)
    simulation.run(window.ends, on_progress)
    simulation.finish(window.ends)
    tally = Tally()
    for message in sent_messages(engine, ledger.acceptances, window.starts, window.ends):
        tally.count(message)
        output.write(message.as_line())
    output.flush()
    with engine.connect() as connection:
        states = outcomes.tally(connection, window.starts, window.ends)
    return summarize(
        states,
        tally,
        people=imported.created,
        rejected=imported.rejected,
        took_seconds=stopwatch.monotonic() - began_seconds,
    )


def _import(simulation: Simulation, people: BinaryIO) -> ImportSummary:
    rejected: list[RejectedRow] = []
    form = ImportForm.ndjson if people.name.endswith(_NDJSON_ENDINGS) else ImportForm.csv
    try:
        imported = import_users(simulation.registry, _TENANT, read_lines(people), form, rejected.append)
    except InvalidInput as error:
        raise InvalidInput(FieldError(people.name, each.message) for each in error.errors) from None
    for row in rejected[:_REJECTED_SHOWN]:
        say(f"{people.name}, line {row.line} is left out: {'; '.join(map(str, row.errors))}")
    if len(rejected) > _REJECTED_SHOWN:
        say(f"{people.name}: {len(rejected) - _REJECTED_SHOWN} more rows are left out")
    return imported


def _print_summary(summary: Summary, as_json: bool, *, aside: bool) -> None:
    click.echo(json.dumps(asdict(summary)) if as_json else summary.as_text(), err=aside)
