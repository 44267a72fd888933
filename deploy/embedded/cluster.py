"""The folder that holds an embedded server's data, and what lies beside it.

    postgresql/                    the data (a PostgreSQL "cluster"), private to the account that serves it
    postgresql.credentials.json    the passwords, readable by the folder's owner alone
    postgresql.lock                held (flock) by every process of a running server, released by the kernel
    postgresql.log                 what the server had to say; the one before it in postgresql.log.1

All of it assumes one kernel: the lock tells nothing of servers on other machines that share a network folder.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from loguru import logger

from deploy.embedded.account import Account
from deploy.embedded.binaries import MAJOR_VERSION, Binaries
from deploy.embedded.log_segments import fill_ahead
from scheduler.errors import ConfigurationError, DatabaseUnavailable

_CLUSTER = "postgresql"
ADMINISTRATOR = "postgres"

_LOG_KEPT_BYTES = 10_000_000
_POSTMASTER_STATUS_LINE = 7  # from 0; see "postmaster.pid" in PostgreSQL's src/include/utils/pidfile.h
_POSTMASTER_PORT_LINE = 3


@dataclass(frozen=True, slots=True)
class Credentials:
    """Passwords of the two roles: the one that administers the server, and the one the application is."""

    administrator: str = field(repr=False)
    application: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What a server's main process says about itself in `postmaster.pid`."""

    pid: int
    port: int
    ready: bool


def holds_data(path: Path) -> bool:
    """Whether a data folder may hold a database; only looks, and makes nothing."""
    try:
        return (path / _CLUSTER / "PG_VERSION").is_file()
    except PermissionError:
        return True


class DataFolder:
    """One data folder. Creating the object creates the folder, not what is in it.

    Errors: ConfigurationError where the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        # Others may pass through, not look: the server's account must reach its part, owner or not.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.path.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {self.path} cannot be made "
                f"({error.strerror}): choose another (DAYBREAK_DATA_DIR)"
            ) from None
        self.cluster = self.path / _CLUSTER
        self.log_path = self.path / "postgresql.log"

    def try_lock(self) -> int | None:
        """A file descriptor that holds the folder's lock, or None while somebody else does.

        It is handed down to the server, so the lock is held exactly as long as any process of it
        lives, however these end. Errors: ConfigurationError where the folder is another user's.
        """
        try:
            descriptor = open_private(self.path / "postgresql.lock", os.O_RDWR)
        except PermissionError:
            raise self._not_ours() from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def exists(self) -> bool:
        """Whether it holds data, of a version this server reads. Errors: ConfigurationError if of another."""
        try:
            version = (self.cluster / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return False
        except PermissionError:
            raise self._not_ours() from None
        if version != str(MAJOR_VERSION):
            raise ConfigurationError(
                f"the data in {self.cluster} was written by PostgreSQL {version}, this is {MAJOR_VERSION}: "
                f"dump it with version {version} and load it into a new folder (DAYBREAK_DATA_DIR)"
            )
        return True

    def create(self, account: Account, binaries: Binaries, *, durable: bool) -> None:
        """Make an empty cluster. It appears complete or not at all. Errors: DatabaseUnavailable."""
        unfinished = self.path / "postgresql.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        os.chown(unfinished, *account.owner)
        password_file = unfinished / "password"
        _write_private(password_file, self.credentials(create=True).administrator)
        arguments = _initdb_arguments(unfinished / "data", password_file, durable=durable)
        created = account.run([binaries.initdb, *arguments])
        if created.returncode != 0:
            complaint = " ".join(created.stderr.split())
            raise DatabaseUnavailable(f"PostgreSQL's initdb failed in {self.path}: {complaint}")
        if durable:
            _fill_log_ahead(unfinished / "data" / "pg_wal")
        (unfinished / "data").rename(self.cluster)
        shutil.rmtree(unfinished)
        logger.bind(folder=str(self.path)).info("embedded_postgresql_created")

    def hand_over(self, account: Account) -> None:
        """Make the cluster's files the account's own, where they are not."""
        if self.cluster.stat().st_uid == account.owner[0]:
            return
        if os.geteuid() != 0:
            raise self._not_ours()
        for path in (self.cluster, *self.cluster.rglob("*")):
            os.chown(path, *account.owner, follow_symlinks=False)

    def credentials(self, *, create: bool = False) -> Credentials:
        """The passwords; made up at random if asked to. Errors: ConfigurationError if they cannot be read."""
        path = self.path / "postgresql.credentials.json"
        if create and not path.exists():
            made = Credentials(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
            _write_private(path, json.dumps(asdict(made)))
        try:
            return Credentials(**json.loads(path.read_text()))
        except PermissionError:
            raise self._not_ours() from None
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{path}, which holds the embedded PostgreSQL's passwords, cannot be used ({error}): "
                "restore it, or choose another folder (DAYBREAK_DATA_DIR)"
            ) from None

    def postmaster(self) -> Postmaster | None:
        """The server's own entry, or None where there is none or it is still being written."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            status = lines[_POSTMASTER_STATUS_LINE].strip() if len(lines) > _POSTMASTER_STATUS_LINE else ""
            return Postmaster(int(lines[0]), int(lines[_POSTMASTER_PORT_LINE]), status == "ready")
        except (OSError, IndexError, ValueError):
            return None

    def forget_dead_server(self) -> None:
        """Remove the entry a killed server left; to be called with the lock held.

        PostgreSQL itself refuses to start while *any* process has the recorded number, which after a
        container's restart is the rule. Errors: ConfigurationError where a server that somebody started by
        other means serves it.
        """
        entry = self.cluster / "postmaster.pid"
        if not entry.exists() or not Path("/proc/self").exists():
            return
        postmaster = self.postmaster()
        if postmaster is not None and _works_in(postmaster.pid, self.cluster):
            raise ConfigurationError(
                f"process {postmaster.pid}, not started by Daybreak, serves {self.cluster}: stop it first"
            )
        entry.unlink()
        logger.bind(folder=str(self.path)).info("embedded_postgresql_stale_entry_removed")

    def open_log(self) -> IO[bytes]:
        """The log file to append to; a large one is put aside first."""
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_KEPT_BYTES:
            self.log_path.replace(self.log_path.with_name("postgresql.log.1"))
        return os.fdopen(open_private(self.log_path, os.O_WRONLY | os.O_APPEND), "ab")

    def log_since(self, offset: int) -> str:
        """What was logged after that many bytes, or all if the file is shorter: it was put aside since."""
        text = self.log_path.read_bytes()
        return text[offset if offset <= len(text) else 0 :].decode(errors="replace")

    def _not_ours(self) -> ConfigurationError:
        return ConfigurationError(
            f"the data folder {self.path} belongs to another user: "
            "run as that user, or choose another folder (DAYBREAK_DATA_DIR)"
        )


def _fill_log_ahead(log: Path) -> None:
    try:
        fill_ahead(log)
    except OSError as error:
        raise DatabaseUnavailable(f"PostgreSQL's log cannot be made in {log}: {error.strerror}") from None


def _initdb_arguments(data: Path, password_file: Path, *, durable: bool) -> Sequence[str | Path]:
    careless = [] if durable else ["--no-sync", "--no-data-checksums"]
    return [
        "--pgdata", data,
        "--username", ADMINISTRATOR,
        "--pwfile", password_file,
        "--auth", "scram-sha-256",
        "--set", "scram_iterations=1",
        # The built-in provider sorts alike on every system and after every upgrade of the C library.
        "--encoding", "UTF8",
        "--locale", "C",
        "--locale-provider", "builtin",
        "--builtin-locale", "C.UTF-8",
        *careless,
    ]  # fmt: skip


def open_private(path: Path, flags: int) -> int:
    """Open a file, made if need be, that only its folder's owner can read, even where root makes it."""
    descriptor = os.open(path, flags | os.O_CREAT, 0o600)
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; it appears complete or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(open_private(unfinished, os.O_WRONLY | os.O_EXCL), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _works_in(pid: int, folder: Path) -> bool:
    """Whether a process has its working directory there, as every server process has in its cluster."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False
