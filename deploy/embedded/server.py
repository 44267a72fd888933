"""A running embedded PostgreSQL server: its databases, and its end."""

import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from loguru import logger
from psycopg import sql

from deploy.embedded.access import APPLICATION, Access
from deploy.embedded.cluster import DataFolder
from scheduler.errors import DatabaseUnavailable

POLL_SECONDS = 0.01


@dataclass(slots=True)
class EmbeddedServer:
    """A running server. As a context manager it is stopped at the end."""

    pid: int
    access: Access
    _folder: DataFolder = field(repr=False)
    _process: subprocess.Popen[bytes] | None = field(repr=False)

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the application's database, with the password of the application's role."""
        return self.access.url()

    @property
    def port(self) -> int:
        """Where it listens, on the loopback address."""
        return self.access.port

    @property
    def log_path(self) -> Path:
        """The file with what the server has to say."""
        return self._folder.log_path

    @property
    def attached(self) -> bool:
        """Whether the server was running already."""
        return self._process is None

    def is_running(self) -> bool:
        """Whether it runs; of a server that was running already, whether it answers."""
        if self._process is not None:
            return self._process.poll() is None
        postmaster = self._folder.postmaster()
        return (
            postmaster is not None
            and postmaster.pid == self.pid
            and self.access.setting("server_version") is not None
        )

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """End all sessions and the server; a second call, or one on an attached server, does nothing.

        Fast shutdown first, which leaves the data clean; after `timeout_seconds` an immediate one, after
        which the next start replays the log; 5 s later it is killed. Errors: DatabaseUnavailable if even that
        fails.
        """
        if self._process is None or self._process.poll() is not None:
            return
        patience = {signal.SIGINT: timeout_seconds, signal.SIGQUIT: 5.0, signal.SIGKILL: 5.0}
        for number, seconds in patience.items():
            self._process.send_signal(number)
            if _exits_within(self._process, seconds):
                logger.bind(pid=self.pid, by=number.name).info("embedded_postgresql_stopped")
                return
        raise DatabaseUnavailable(f"the embedded PostgreSQL, process {self.pid}, cannot be stopped")

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database that the application's role owns, and return its URL.

        `template` names a database to copy, to which nobody may be connected. Errors: psycopg.Error.
        """
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(
            sql.Identifier(name), sql.Identifier(APPLICATION)
        )
        if template is not None:
            # By file, not through the log: a third of the time for a small database where the disk is idle.
            statement += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
        with self.access.administrate() as connection:
            connection.execute(statement)
        return self.access.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end the sessions that use it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with self.access.administrate() as connection:
            connection.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _exits_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ends in time. Counts its pauses: a frozen clock must not make it wait for ever."""
    pause = threading.Event()
    for _ in range(int(seconds / POLL_SECONDS)):
        if process.poll() is not None:
            return True
        pause.wait(POLL_SECONDS)
    return process.poll() is not None
