"""Brings the embedded PostgreSQL server up, or finds the one that runs already.

It listens on the loopback address alone and asks everyone for a password, since other users of the machine
can connect there too. It ends with the process that started it, even a killed one (Linux).
Limits: Linux and macOS; one server a folder.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loguru import logger

from deploy.embedded.access import HOST, Access
from deploy.embedded.account import Account, RunAs, choose_account
from deploy.embedded.binaries import Binaries, find_binaries
from deploy.embedded.cluster import DataFolder
from deploy.embedded.memory import shared_megabytes
from deploy.embedded.server import POLL_SECONDS, EmbeddedServer
from scheduler.errors import ConfigurationError, DatabaseUnavailable

_START_SECONDS = 300  # a server that was killed first replays up to max_wal_size of its log
_PORT_ATTEMPTS = 5


class Durability(StrEnum):
    """What must survive: `full` a power cut, `throwaway` nothing but a crash of the server alone."""

    full = "full"
    throwaway = "throwaway"


# For a machine with two cores and a gigabyte or two, shared with the scheduler, the worker and the API.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "cluster_name": "daybreak",
    "max_connections": "100",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    # Segments of the log that are written over need not be filled with zeros first, which holds up all commits.
    "min_wal_size": "1GB",
    # Planning millions writes each page of the log's index in full after each checkpoint: fewer of those.
    "max_wal_size": "4GB",
    "wal_buffers": "16MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    # Our statements are short or bound by writing: what these two cost to set up is never earned back.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    # Until a new table has been analysed, its statements are planned as if it held next to nothing.
    "autovacuum_naptime": "15s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A failed statement is its client's to report, and its text holds names and addresses: not for this log.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
    # Iterations slow down the guessing of weak passwords; ours are 256 random bits, and the default of 4,096
    # costs each connection 4 ms.
    "scram_iterations": "1",
}

_THROWAWAY: Mapping[str, str] = {
    # Dropping a table or a database looks through all shared buffers, and tests do little else.
    "shared_buffers": "256MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


def start_embedded(
    data_dir: Path,
    *,
    port: int | None = None,
    durability: Durability = Durability.full,
    settings: Mapping[str, str] | None = None,
    run_as: RunAs | None = None,
) -> EmbeddedServer:
    """Serve the data in `data_dir`, which is created if need be, and return once it answers.

    A server that runs on it already is used as it is. `port` is a free one unless given; `settings` are
    PostgreSQL's own and win over ours; `run_as` forces an account (see `choose_account`). To be called from
    the main thread: Linux ties the server's life to the thread that starts it.
    Errors: ConfigurationError where something must be set differently, DatabaseUnavailable where it does not
    start.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the server would end with this thread: start it from the main thread")
    folder = DataFolder(data_dir)
    pause = threading.Event()
    for _ in range(int(_START_SECONDS / POLL_SECONDS)):
        lock = folder.try_lock()
        if lock is not None:
            return _Start(folder, lock, port, durability, settings or {}, run_as).run()
        attached = _attach(folder, port, durability)
        if attached is not None:
            return attached
        pause.wait(POLL_SECONDS)
    raise DatabaseUnavailable(f"a server holds {folder.path} but does not answer; see {folder.log_path}")


@contextmanager
def throwaway_server(
    *, parent: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[EmbeddedServer]:
    """A server on an empty folder of its own, fast and careless, gone without a trace at the end.

    The folder is made in `parent`, or where the system keeps temporary files.
    """
    # Not made by mkdtemp: that is closed to the account which a server started by root may have to run as.
    folder = (parent or Path(tempfile.gettempdir())) / f"daybreak-{secrets.token_hex(8)}"
    try:
        with start_embedded(folder, durability=Durability.throwaway, settings=settings) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Start:
    """Bringing a server up, by the holder of the folder's lock; see `start_embedded` for the fields."""

    folder: DataFolder
    lock: int
    port: int | None
    durability: Durability
    settings: Mapping[str, str]
    run_as: RunAs | None

    def run(self) -> EmbeddedServer:
        """The server, answering, with the application's role and database in place."""
        try:
            account = choose_account(self.folder.cluster, self.run_as)
            binaries = self._prepare(account)
            server = self._serve(account, binaries)
        finally:
            os.close(self.lock)  # the server has inherited it
        logger.bind(pid=server.pid, port=server.port, run_as=account.run_as.value).info(
            "embedded_postgresql_started"
        )
        return server

    def _prepare(self, account: Account) -> Binaries:
        if account.run_as is not RunAs.invoker and not account.can_enter(self.folder.path):
            raise ConfigurationError(
                "PostgreSQL does not run as root, and as anyone else it cannot reach "
                f"{self.folder.path}: set DAYBREAK_DATA_DIR to a folder open to all, such as one "
                "below /var/lib, or DAYBREAK_DATABASE_URL to a server of your own"
            )
        binaries = find_binaries(account, self.folder.path)
        if not self.folder.exists():
            self.folder.create(account, binaries, durable=self.durability is Durability.full)
        self.folder.hand_over(account)
        self.folder.forget_dead_server()
        return binaries

    def _serve(self, account: Account, binaries: Binaries) -> EmbeddedServer:
        port, complaint = 0, ""
        for _ in range(_PORT_ATTEMPTS):
            port = self.port or _free_port()
            log_start = self.folder.log_path.stat().st_size if self.folder.log_path.exists() else 0
            process = self._launch(account, binaries, port)
            try:
                if self._becomes_ready(process):
                    return self._server(process, port)
            except BaseException:
                process.kill()
                process.wait()
                raise
            complaint = self.folder.log_since(log_start)
            if self.port is not None or "could not create any TCP/IP sockets" not in complaint:
                break  # only a free port that somebody was faster to take is worth another
        raise DatabaseUnavailable(
            f"the embedded PostgreSQL did not start on port {port}: {_reason(complaint)} "
            f"(more in {self.folder.log_path})"
        )

    def _launch(self, account: Account, binaries: Binaries, port: int) -> subprocess.Popen[bytes]:
        careless = _THROWAWAY if self.durability is Durability.throwaway else {}
        settings = {
            **_SETTINGS,
            "shared_buffers": f"{shared_megabytes()}MB",
            **careless,
            **self.settings,
            "port": str(port),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.folder.open_log() as log:
            program: list[str | Path] = [binaries.postgres, "-D", self.folder.cluster, *options]
            return account.start(program, log=log, inherited=self.lock)

    def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the server takes connections; False if it ends instead."""
        pause = threading.Event()
        for _ in range(int(_START_SECONDS / POLL_SECONDS)):
            if process.poll() is not None:
                return False
            postmaster = self.folder.postmaster()
            if postmaster is not None and postmaster.pid == process.pid and postmaster.ready:
                return True
            pause.wait(POLL_SECONDS)
        raise DatabaseUnavailable(
            f"the embedded PostgreSQL was not ready after {_START_SECONDS} s; see {self.folder.log_path}"
        )

    def _server(self, process: subprocess.Popen[bytes], port: int) -> EmbeddedServer:
        access = Access(port, self.folder.credentials())
        access.ensure_application()
        return EmbeddedServer(process.pid, access, self.folder, process)


def _attach(folder: DataFolder, port: int | None, durability: Durability) -> EmbeddedServer | None:
    """The server that runs on the folder, or None if it does not answer (any more, or yet)."""
    postmaster = folder.postmaster()
    if postmaster is None or not postmaster.ready or not folder.exists():
        return None
    access = Access(postmaster.port, folder.credentials())
    fsync = access.setting("fsync")
    if fsync is None:
        return None
    if port not in (None, postmaster.port):
        raise ConfigurationError(f"the server on {folder.path} listens on port {postmaster.port}, not {port}")
    if fsync == "off" and durability is Durability.full:
        raise ConfigurationError(f"the server on {folder.path} was started as a throwaway one: stop it first")
    logger.bind(pid=postmaster.pid, port=postmaster.port).info("embedded_postgresql_attached")
    return EmbeddedServer(postmaster.pid, access, folder, None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _reason(complaint: str) -> str:
    """The line of the log that says why: the first fatal one, or else the last."""
    lines = complaint.splitlines()
    return next((line for line in lines if "FATAL" in line), lines[-1] if lines else "it said nothing")
