"""`daybreak demo`: everything that `daybreak up` runs, with made-up people whose hour is about to strike.

Greetings go the same way as any: written by the registry, planned, enqueued, delivered by a worker. Nothing is
sent early or at once; what is made up is who celebrates when. Started again on the same data it adds people as
soon as little is to come, never the same twice, and so it goes on for as long as it runs.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import click
from loguru import logger
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from deploy.celebrations import OPENING, TOP_UP, Person, Stretch, celebrating, fitting
from deploy.data_folder import own_secret_key
from deploy.database import engine_on, patiently
from deploy.first_key import DEVELOPMENT_FILE, development_key
from deploy.people import make_people
from deploy.supervisor import System, local_address, run_system
from scheduler.clock import Clock, SystemClock
from scheduler.domain.user import UserInput
from scheduler.registry import Registry
from scheduler.service import planner_for
from scheduler.settings import Settings, load_settings
from scheduler.store import overview, users
from scheduler.store.overview import SentMessage

_TENANT_ID: Final = 1
_PEOPLE: Final = 1_000
_AT_NINE: Final = 450
_SEED: Final = 20_270_301

_LOOK_SECONDS: Final = 0.5
_MOST_SHOWN_AT_ONCE: Final = 500
_ENOUGH_AHEAD: Final = 15
_AHEAD: Final = timedelta(minutes=10)
_TOP_UP_PAUSE: Final = timedelta(minutes=1)


@click.command()
@click.option(
    "--people",
    default=_PEOPLE,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many to make up.",
)
def command(people: int) -> None:
    """Run everything with made-up people around the world, and show their messages going out.

    Keeps its data apart, in the folder `demo` of the data folder, unless DAYBREAK_DATA_DIR names one.
    """
    clock = SystemClock()

    def show(system: System) -> None:
        with engine_on(system.settings, "demo") as engine:
            Demonstration(system, engine, clock, people).run()

    sys.exit(run_system(with_links(demo_settings(load_settings())), on_ready=show))


def demo_settings(settings: Settings) -> Settings:
    """The settings with a folder and, where the usual port is taken, a port of the demonstration's own."""
    changes: dict[str, object] = {}
    if settings.source_of("data_dir") == "default":
        changes["data_dir"] = settings.data_dir / "demo"
    if settings.source_of("log_level") == "default":
        changes["log_level"] = "WARNING"  # what goes out is shown instead
    if settings.source_of("api_port") == "default" and _is_taken(settings.api_host, settings.api_port):
        changes["api_port"] = _free_port(settings.api_host)
    return settings.model_copy(update=changes)


def with_links(settings: Settings) -> Settings:
    """The settings with what links to unsubscribe need: an address on this machine, a key of the data folder's own."""
    changes: dict[str, object] = {}
    if settings.public_url is None:
        changes["public_url"] = local_address(settings)
    if settings.secret_key is None:
        changes["secret_key"] = own_secret_key(settings.data_dir)
    return settings.model_copy(update=changes)


class Demonstration:
    """Adds people to a running system and says what it sends, until the end is asked for."""

    def __init__(self, system: System, engine: Engine, clock: Clock, people: int) -> None:
        self._system = system
        self._engine = engine
        self._clock = clock
        self._people = people
        self._registry = Registry(engine, planner_for(system.settings, engine), clock)
        self._began = clock.now()
        self._shown: set[str] = set()
        self._top_up_at = self._began

    def run(self) -> None:
        """Show and add until the end; a database that is away for a while is waited for."""
        patiently(self._open, self._system.stopping)
        while not self._system.stopping.wait(_LOOK_SECONDS):
            try:
                self._show_sent()
                self._top_up()
            except DBAPIError as error:
                logger.bind(cause=type(error.orig).__name__).warning("demo_lost_the_database")

    def _open(self) -> None:
        with self._engine.connect() as connection:
            known = users.count(connection, _TENANT_ID)
        if not known:
            self._add(self._people, OPENING, at_nine=round(self._people * _AT_NINE / _PEOPLE))
        else:
            self._top_up()
        key = development_key(self._system.settings, self._engine, self._clock)
        for line in invitation(self._system, key):
            self._system.say(line)

    def _top_up(self) -> None:
        """Add people where little is to come; looked at once a minute."""
        now = self._clock.now()
        if now < self._top_up_at:
            return
        self._top_up_at = now + _TOP_UP_PAUSE
        with self._engine.connect() as connection:
            coming = overview.next_to_come(connection, _TENANT_ID, most=_MOST_SHOWN_AT_ONCE)
        if sum(each.messages for each in coming if each.due_at < now + _AHEAD) < _ENOUGH_AHEAD:
            self._add(fitting(TOP_UP), TOP_UP, at_nine=0)

    def _add(self, count: int, stretches: Sequence[Stretch], *, at_nine: int) -> None:
        """Add people; their external ids hold the minute, so that no later ones can have them too."""
        now = self._clock.now()
        people = make_people(count, _seed(now), prefix=f"demo-{now:%Y%m%dT%H%M}")
        written = self._registry.upsert(
            _TENANT_ID,
            [
                _user(person)
                for person in celebrating(list(people), stretches, at_nine=at_nine, now=now, seed=_seed(now))
            ],
        )
        planned = written.replanned.planned
        self._system.say(
            f"{written.created:,} made-up people added, {planned:,} of them to be greeted in the coming days"
        )

    def _show_sent(self) -> None:
        with self._engine.connect() as connection:
            sent = overview.newest_sent(connection, _TENANT_ID, most=_MOST_SHOWN_AT_ONCE)
        for message in reversed(sent):
            if message.accepted_at >= self._began and message.key.text not in self._shown:
                self._system.say(_line(message))
        self._shown = {message.key.text for message in sent}


def invitation(system: System, key: str | None) -> Sequence[str]:
    """Where to look, and with which key: where the output is a log, only in which file that is."""
    folder = system.settings.data_dir
    is_shown = key is not None and system.settings.log_format == "human"
    said = key if is_shown else f"in {folder / DEVELOPMENT_FILE}"
    return (
        "",
        f"  Watch the world wake up: {system.address}/{f'#key={key}' if is_shown else ''}",
        f"  API key for development: {'none is needed' if key is None else said}",
        f"  Other commands see these people with DAYBREAK_DATA_DIR={folder}",
        "",
    )


def _line(message: SentMessage) -> str:
    late = message.lateness.total_seconds()
    return (
        f"{message.local_time:%H:%M} in {message.timezone:<32} {message.greeting}, {message.person or 'somebody'}"
        f"  ({message.key.channel}, {late:.1f} s after it fell due)"
    )


def _user(person: Person) -> UserInput:
    return UserInput.model_validate(dict(person))


def _seed(now: datetime) -> int:
    """The same people for the same minute, others for every other."""
    return _SEED + int(now.timestamp()) // 60


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
