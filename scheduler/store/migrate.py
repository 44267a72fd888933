"""Bring a database to the schema this release was written for, or say how far it is from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config

_CURRENT: Final = text("SELECT version_num FROM alembic_version")


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The database's revision (None: empty) beside the newest one this release has."""

    current: str | None
    newest: str

    @property
    def up_to_date(self) -> bool:
        """Whether this release can run on the database."""
        return self.current == self.newest


def upgrade(engine: Engine) -> SchemaStatus:
    """Apply every migration that is missing, in one transaction under a lock; harmless to repeat."""
    from alembic import command

    configuration = _configuration()
    with engine.connect() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")
        connection.commit()
    return status(engine)


def status(engine: Engine) -> SchemaStatus:
    """How the database's schema compares with this release.

    Asked by each command and by every check of readiness, so it does without Alembic, whose import takes
    longer than many a command: migrations are numbered in the names of their files.
    """
    with engine.connect() as connection:
        return SchemaStatus(current=_current(connection), newest=_newest())


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(_CURRENT).scalar_one_or_none()
    return revision


def _newest() -> str:
    names = [entry.name for entry in resources.files("migrations").joinpath("versions").iterdir()]
    return max(name.partition("_")[0] for name in names if name[0].isdigit())


def _configuration() -> Config:
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(resources.files("migrations")))
    return configuration
