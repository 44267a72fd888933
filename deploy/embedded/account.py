"""As whom the embedded server runs, because PostgreSQL refuses to run as root.

No folder's mode is ever changed to let it in, no system user is created: where the chosen account cannot
reach something, the caller is told.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from loguru import logger

from deploy.embedded import launch
from scheduler.errors import ConfigurationError


class RunAs(StrEnum):
    """The three ways of not being root, in the order of preference."""

    invoker = "invoker"
    namespace = "namespace"
    user = "user"


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server's processes are; `uid` and `gid` are what they see themselves as."""

    run_as: RunAs
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        """User and group ids that its files have, as seen from outside."""
        if self.run_as is RunAs.user:
            return self.uid, self.gid
        return os.geteuid(), os.getegid()

    def run(self, program: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program as this account to its end; its output is captured."""
        return subprocess.run(
            self._command(program),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env=_environment(),
            check=False,
        )

    def can_run(self, program: Sequence[str | Path]) -> bool:
        """Whether the program can be started as this account, and ends well."""
        return self.run(program).returncode == 0

    def can_enter(self, folder: Path) -> bool:
        """Whether this account reaches the folder through all its parents."""
        return self.can_run(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder])

    def start(
        self, program: Sequence[str | Path], *, log: IO[bytes], inherited: int
    ) -> subprocess.Popen[bytes]:
        """Start a program as this account, in a session of its own, and return while it runs.

        A terminal's Ctrl-C reaches a whole process group: the server must not be in it, or it would be gone
        before those who still have something to write. `inherited` is a file descriptor it keeps open.
        """
        return subprocess.Popen(
            self._command(program),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            pass_fds=[inherited],
            start_new_session=True,
        )

    def _command(self, program: Sequence[str | Path]) -> list[str]:
        launcher = [sys.executable, "-I", "-S", launch.__file__]
        identity = [self.run_as.value, str(os.getpid()), str(self.uid), str(self.gid)]
        return [*launcher, *identity, *map(str, program)]


def choose_account(cluster: Path, wanted: RunAs | None = None) -> Account:
    """Decide as whom to serve the data in `cluster` (which need not exist yet).

    `wanted` overrides the choice. In a folder that belongs to somebody else, root serves the data as them, so
    that the owner can go on using it. Errors: ConfigurationError where no account would do.
    """
    if wanted is not None:
        return _account(wanted)
    if os.geteuid() != 0:
        # initdb insists on a name for its user; a container may run as a number that has none.
        return _account(RunAs.invoker if _has_name(os.geteuid()) else RunAs.namespace)
    owner = (cluster if cluster.exists() else cluster.parent).stat()
    if owner.st_uid != 0:
        return Account(RunAs.user, owner.st_uid, owner.st_gid)
    namespace = _account(RunAs.namespace)
    if namespace.can_run(["/bin/sh", "-c", ":"]):
        return namespace
    logger.info("embedded_postgresql_namespace_refused")
    return _account(RunAs.user)


def _account(run_as: RunAs) -> Account:
    if run_as is RunAs.invoker:
        return Account(run_as, os.geteuid(), os.getegid())
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "the embedded PostgreSQL needs the system's account 'nobody', which does not exist; "
            "run as an ordinary user or set DAYBREAK_DATABASE_URL to a server of your own"
        ) from None
    return Account(run_as, nobody.pw_uid, nobody.pw_gid)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Nothing of ours: it holds secrets the server does not need, and PG… variables that would change it."""
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
    if "LD_LIBRARY_PATH" in os.environ:  # the launcher is Python, which may need it
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment
