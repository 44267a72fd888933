"""The database a command works on: the one the settings name, or else the embedded one of the data folder.

An embedded server that runs (`daybreak up`, or another command) is shared; otherwise it is started for the
command and stopped after it. Its schema is brought up to date, a database of somebody else's is only checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Final

from loguru import logger
from pydantic import SecretStr
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from deploy.data_folder import server_use
from deploy.embedded import EmbeddedServer, start_embedded
from deploy.embedded.cluster import holds_data
from scheduler.errors import ConfigurationError, DatabaseUnavailable
from scheduler.service import engine_for
from scheduler.settings import Settings
from scheduler.store import migrate
from scheduler.store.migrate import SchemaStatus

Say = Callable[[str], None]
"""Tells the user something in one line."""

_AGAIN_SECONDS: Final = 0.5


@contextmanager
def usable_database(settings: Settings, say: Say, *, create: bool = True) -> Iterator[Settings]:
    """The settings with the address of a database that answers and has this release's schema.

    Raises ConfigurationError where the schema is another, DatabaseUnavailable where nothing answers.
    """
    with some_database(settings, say, create=create) as found:
        if settings.database_url is None:
            upgrade_schema(found, say)
        else:
            require_schema(schema_status(found))
        yield found


@contextmanager
def some_database(settings: Settings, say: Say, *, create: bool = True) -> Iterator[Settings]:
    """The settings with the address of a database, whatever its schema.

    Without `create` a data folder that holds none is a ConfigurationError: who only looks makes nothing.
    """
    if settings.database_url is not None:
        yield settings
    elif not create and not holds_data(settings.data_dir):
        raise ConfigurationError(
            f"DAYBREAK_DATA_DIR: {settings.data_dir} holds no database yet; `daybreak up` makes one, and "
            "DAYBREAK_DATABASE_URL names one elsewhere"
        )
    else:
        with _embedded(settings.data_dir, say) as server:
            yield with_database(settings, server)


def with_database(settings: Settings, server: EmbeddedServer) -> Settings:
    """The settings with the embedded server's address."""
    return settings.model_copy(update={"database_url": SecretStr(server.url)})


@contextmanager
def engine_on(settings: Settings, role: str, *, least_connections: int = 1) -> Iterator[Engine]:
    """As `engine_for`, let go at the end; what cannot be reached is DatabaseUnavailable."""
    engine = engine_for(settings, role, least_connections=least_connections)
    try:
        yield engine
    except OperationalError as error:
        raise DatabaseUnavailable(_unreachable(settings, error)) from error
    finally:
        engine.dispose()


def patiently(work: Callable[[], None], stopping: Event) -> None:
    """Do `work`, which must be repeatable; anew where the database does not answer, until `stopping` is set."""
    while not stopping.is_set():
        try:
            work()
            return
        except (DatabaseUnavailable, OperationalError, InterfaceError, InternalError) as error:
            logger.bind(cause=type(error).__name__).warning("database_waited_for")
            stopping.wait(_AGAIN_SECONDS)


def schema_status(settings: Settings) -> SchemaStatus:
    """How the database's schema compares with this release. Raises DatabaseUnavailable."""
    with engine_on(settings, "command") as engine:
        return migrate.status(engine)


def upgrade_schema(settings: Settings, say: Say) -> SchemaStatus:
    """Bring the database to this release's schema, and say so if it was not. Raises as `usable_database`."""
    with engine_on(settings, "command") as engine:
        before = migrate.status(engine)
        _refuse_newer(before)
        if before.up_to_date:
            return before
        say(f"bringing the database's schema from {before.current or 'nothing'} to {before.newest}")
        return migrate.upgrade(engine)


def require_schema(status: SchemaStatus) -> None:
    """Raise ConfigurationError unless this release can run on the schema."""
    _refuse_newer(status)
    if not status.up_to_date:
        raise ConfigurationError(
            f"the database's schema is at {status.current or 'nothing'}, this release needs {status.newest}: "
            "run `daybreak db upgrade`"
        )


def _refuse_newer(status: SchemaStatus) -> None:
    # Revisions are numbered with four digits, so they sort as text.
    if status.current is not None and status.current > status.newest:
        raise ConfigurationError(
            f"the database's schema is at {status.current}, this release knows only {status.newest}: "
            "a newer Daybreak has used it; run that one"
        )


@contextmanager
def _embedded(data_dir: Path, say: Say) -> Iterator[EmbeddedServer]:
    with server_use(data_dir) as use:
        use.share()
        server = start_embedded(data_dir)
        try:
            yield server
        finally:
            if not server.attached:
                use.become_sole(lambda: say("waiting for another daybreak command that uses the database"))
                server.stop()


def _url(settings: Settings) -> str:
    if settings.database_url is None:
        raise AssertionError("a database was to be found first")
    return settings.database_url.get_secret_value()


def _unreachable(settings: Settings, error: OperationalError) -> str:
    url = make_url(_url(settings))
    reason = str(error.orig).partition("\n")[0]
    return (
        f"the database {url.database!r} at {url.host}:{url.port or 5432} cannot be used: {reason}; "
        "start it, correct DAYBREAK_DATABASE_URL, or unset that to use the embedded one"
    )
