"""Texts written for the first release say the same after the migration to Jinja2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import Engine, text

from deploy.embedded import EmbeddedServer
from scheduler.domain.message import TEXT_FIELDS
from scheduler.store.database import create_database_engine
from scheduler.store.migrate import _configuration, upgrade
from tests.fixtures.texts import reader, say
from worker.templates import compile_template

SOURCES = [
    "Hey, {first_name} {last_name}, it's your birthday!",
    "{first_name}: {external_id}, {occasion} on {local_date}",
    "{last_name} {first_name}",
    "100{{% off}} {{#}} {{{{ {{name}} }}}}",
    "{{{first_name}}}",
    "}}{first_name}{{",
    "{first_name}}}",
    "a\nb\n",
    "",
]


@pytest.fixture
def first_release(database_server: EmbeddedServer) -> Iterator[Engine]:
    """A database of the first release."""
    engine = create_database_engine(
        database_server.create_database("test_first_release"), pool_size=2, application_name="daybreak-tests"
    )
    configuration = _configuration()
    with engine.connect() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
        connection.commit()
    yield engine
    engine.dispose()
    database_server.drop_database("test_first_release")


def test_migrated_texts_say_what_they_said(first_release: Engine) -> None:
    values = reader("Ann", "Lee")
    fields = {name: str(values[name]) for name in TEXT_FIELDS}
    said = []
    for source in SOURCES:
        with first_release.begin() as connection:
            connection.execute(
                text(
                    """
INSERT INTO occasions SELECT (o).* FROM (
    SELECT jsonb_populate_record(o, jsonb_build_object(
        'id', (SELECT max(id) + 1 FROM occasions), 'key', 'other' || (SELECT max(id) FROM occasions),
        'body', CAST(:body AS text))) AS o
    FROM occasions o WHERE key = 'birthday') AS copied"""
                ),
                {"body": source},
            )
        said.append(compile_template(source, TEXT_FIELDS).render(fields))
    upgrade(first_release)
    with first_release.connect() as connection:
        migrated = connection.execute(
            text("SELECT body FROM occasions WHERE key LIKE 'other%' ORDER BY id")
        ).scalars()
        assert [say(source, values) for source in migrated] == said
