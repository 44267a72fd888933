"""Import made-up people, with their plan, and tell people a second and what each side spends on one of them.

    python -m tests.load.imports [--people N] [--turns N] [--through command|api]

Each person has an address and two dates, of which birthday and anniversary are planned. The import is the command's, in
this process, or one request to the real API, beside PostgreSQL with fsync on. In the end the database is compared
with what was answered. Rates depend on what else the machine does; the processor time of a person hardly does.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_urlsafe
from time import perf_counter
from typing import Final

import click
import psutil
from pydantic import SecretStr
from sqlalchemy import Engine, text

from deploy.embedded import start_embedded
from scheduler.clock import SystemClock
from scheduler.domain.access import SYSTEM
from scheduler.importing import ImportForm, follow, read_lines
from scheduler.logs import configure_logs
from scheduler.noted_import import import_noted
from scheduler.service import registry_for
from scheduler.settings import Settings
from scheduler.store import migrate
from scheduler.store.database import create_database_engine
from tests.fixtures.ports import free_port
from tests.load.api import key_headers, seconds_of, serving

_ZONES: Final = (
    "America/New_York",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Africa/Lagos",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Sydney",
)
_HEADER: Final = "external_id,first_name,last_name,email,timezone,birth_date,anniversary_date\n"
_IMPORTER: Final = "daybreak-import"


def main(arguments: Sequence[str] | None = None) -> None:
    """Import, and print a line for each turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--people", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--through", choices=("command", "api"), default="command")
    options = parser.parse_args(arguments)
    configure_logs(level="WARNING", log_format="human", service="load")
    with tempfile.TemporaryDirectory(prefix="daybreak-load-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        file = root / "people.csv"
        write_people(file, options.people)
        with start_embedded(root / "postgresql") as server:
            for turn in range(options.turns):
                url = server.create_database(f"turn_{turn}")
                with server.access.administrate() as administration:
                    # From the second turn on the log's files are there already, as with a server that has run a while.
                    administration.execute("CHECKPOINT")
                found = measure(url, root, file, options.people, through_api=options.through == "api")
                click.echo(str(found))


@dataclass(frozen=True, slots=True)
class Measured:
    """What one import took."""

    people: int
    seconds: float
    importer_seconds: float
    database_seconds: float
    planned: int

    def __str__(self) -> str:
        spent = (self.importer_seconds, self.database_seconds, self.importer_seconds + self.database_seconds)
        costs = ", ".join(f"{1_000_000 * each / self.people:.1f}" for each in spent)
        return (
            f"{self.people:,} people, {self.planned:,} messages: {self.people / self.seconds:,.0f} people a second;"
            f" processor microseconds a person (importer, its PostgreSQL sessions, both): {costs};"
            f" two processors busy: {sum(spent[:2]) / self.seconds / 2:.0%}"
        )


def write_people(file: Path, count: int) -> None:
    """A CSV of made-up people, the same ones each time."""
    chance = random.Random(5)
    with file.open("w", encoding="utf-8") as rows:
        rows.write(_HEADER)
        for number in range(count):
            month_days = [f"{chance.randint(1, 12):02}-{chance.randint(1, 28):02}" for _ in range(2)]
            rows.write(
                f"person-{number:07},Ann,Example {number},person-{number}@example.com,{chance.choice(_ZONES)},"
                f"{chance.randint(1940, 2008)}-{month_days[0]},{chance.randint(2000, 2024)}-{month_days[1]}\n"
            )


def measure(url: str, folder: Path, file: Path, people: int, *, through_api: bool) -> Measured:
    """Import a file of so many people into a database that is empty."""
    engine = create_database_engine(url, pool_size=1, application_name="daybreak-load")
    try:
        migrate.upgrade(engine)
        settings = Settings(
            database_url=SecretStr(url),
            secret_key=SecretStr(token_urlsafe(32)),
            data_dir=folder,
            api_port=free_port(),
            api_workers=1,
        )
        with (_through_api if through_api else _through_command)(settings, engine) as (importer, work):
            found = _measured(engine, importer, lambda: work(file), people)
        with engine.connect() as connection:
            for table, wanted in (
                ("users", people),
                ("user_dates", 2 * people),
                ("message_log", found.planned),
            ):
                rows = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
                if rows != wanted:
                    raise RuntimeError(f"rows of {table}: {rows}, not {wanted}")
        return found
    finally:
        engine.dispose()


Work = Callable[[Path], int]
"""Imports a file; returns how many messages it planned."""


def _measured(
    engine: Engine, importer: Sequence[psutil.Process], work: Callable[[], int], people: int
) -> Measured:
    own, database, started = sum(map(seconds_of, importer)), _database_seconds(engine), perf_counter()
    planned = work()
    seconds = perf_counter() - started
    return Measured(
        people,
        seconds,
        sum(map(seconds_of, importer)) - own,
        _database_seconds(engine) - database,
        planned,
    )


def _database_seconds(engine: Engine) -> float:
    with engine.connect() as connection:
        sessions = connection.execute(
            text(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name IN ('daybreak-api', 'daybreak-import')"
            )
        ).scalars()
        return sum(seconds_of(psutil.Process(pid)) for pid in sessions)


@contextmanager
def _through_command(settings: Settings, _: Engine) -> Iterator[tuple[Sequence[psutil.Process], Work]]:
    assert settings.database_url is not None
    engine = create_database_engine(
        settings.database_url.get_secret_value(), pool_size=4, application_name=_IMPORTER
    )
    registry = registry_for(settings, engine, SystemClock())

    def work(file: Path) -> int:
        with file.open("rb") as rows:
            events = import_noted(registry, 1, read_lines(rows), ImportForm.csv, actor=SYSTEM)
            return follow(events, lambda row: click.echo(str(row))).replanned.planned

    try:
        yield [psutil.Process()], work
    finally:
        engine.dispose()


@contextmanager
def _through_api(settings: Settings, engine: Engine) -> Iterator[tuple[Sequence[psutil.Process], Work]]:
    headers = dict(line.split(": ", 1) for line in key_headers(settings, engine))

    def work(file: Path) -> int:
        connection = HTTPConnection("127.0.0.1", settings.api_port, timeout=600)
        with file.open("rb") as rows:
            length = str(file.stat().st_size)
            connection.request(
                "POST",
                "/api/v1/users/import",
                rows,
                headers | {"Content-Type": "text/csv", "Content-Length": length},
            )
            answer = json.loads(connection.getresponse().read())
        connection.close()
        return int(answer["replanned"]["planned"])

    with serving(settings) as process:
        yield process.children(recursive=True), work


if __name__ == "__main__":
    main()
