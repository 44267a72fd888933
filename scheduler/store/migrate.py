"""Bring a database to the schema this release was written for, or say how far it is from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine


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
    configuration = _configuration()
    with engine.connect() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")
        connection.commit()
    return status(engine)


def status(engine: Engine) -> SchemaStatus:
    """How the database's schema compares with this release."""
    newest = ScriptDirectory.from_config(_configuration()).get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return SchemaStatus(current=current, newest=str(newest))


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(resources.files("migrations")))
    return configuration
