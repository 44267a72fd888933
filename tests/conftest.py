"""Fixtures for all tests: a real PostgreSQL with a database for each test, a clock that is told the time."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from deploy.embedded import EmbeddedServer, throwaway_server
from scheduler.clock import SettableClock
from scheduler.store.database import create_database_engine
from tests.fixtures.databases import DatabaseCopies, fast_folder


@pytest.fixture(scope="session")
def database_server() -> Iterator[EmbeddedServer]:
    """A throwaway server; each pytest-xdist worker has its own (0.5 s), so that none waits for another."""
    # Less for each copied database to look through when it is dropped.
    settings = {"max_wal_size": "256MB", "shared_buffers": "64MB"}
    with throwaway_server(parent=fast_folder(), settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def database_copies(database_server: EmbeddedServer) -> Iterator[DatabaseCopies]:
    """Makes migrated databases, for a test that needs more than one."""
    with closing(DatabaseCopies(database_server)) as copies:
        yield copies


@pytest.fixture
def database_url(database_copies: DatabaseCopies) -> Iterator[str]:
    """A migrated, otherwise empty database for one test, as the application's role."""
    with database_copies.copy() as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The product's own engine on the test's database, with room for the threads of a concurrent test."""
    engine = create_database_engine(database_url, pool_size=10, application_name="daybreak-tests")
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> SettableClock:
    """Stands at noon UTC on Monday 1 March 2027 until it is told to move."""
    return SettableClock(datetime(2027, 3, 1, 12, tzinfo=UTC))
