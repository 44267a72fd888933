"""Who uses a data folder: at most one `daybreak up`, and commands that share one embedded server.

Both are locks of the kernel (flock) on files in the folder, so a killed process leaves none behind. The folder also
keeps a key that was made up for it, where the settings name none.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from deploy.embedded.cluster import DataFolder, open_private
from scheduler.errors import ConfigurationError
from scheduler.settings import Settings

_KEY_FILE: Final = "secret.key"
_KEY_BYTES: Final = 32


def own_secret_key(data_dir: Path) -> SecretStr:
    """The folder's own key, made up at random the first time. Raises ConfigurationError if it is another user's."""

    def made(key: str) -> str:
        # None yet, or cut short by a full disk.
        return key if len(key) >= 2 * _KEY_BYTES else secrets.token_hex(_KEY_BYTES)

    return SecretStr(kept_text(data_dir, _KEY_FILE, made))


def kept_text(data_dir: Path, name: str, made: Callable[[str], str]) -> str:
    """A line of text in a file that its owner alone can read. `made` turns what it holds into what it is to hold."""
    with _open(data_dir, name) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        held = os.pread(descriptor, 1000, 0).decode("ascii", "replace").strip()
        text = made(held)
        if text != held:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
            os.fsync(descriptor)
        return text


def with_secret_key(settings: Settings, *, is_whole_system: bool = False) -> Settings:
    """The settings with a secret key where callers of the API must prove who they are.

    Without one of theirs it is the data folder's own. That is made up for a whole system, and where the folder holds
    the database as well; else other processes on the database would not know of it.
    """
    is_needed = settings.secret_key is None and settings.api_authentication == "required"
    is_ours = is_whole_system or settings.database_url is None or (settings.data_dir / _KEY_FILE).exists()
    if not (is_needed and is_ours):
        return settings
    return settings.model_copy(update={"secret_key": own_secret_key(settings.data_dir)})


@contextmanager
def sole_system(data_dir: Path) -> Iterator[None]:
    """Be the one system that runs on the folder. Raises ConfigurationError while another does."""
    with _open(data_dir, "daybreak.lock") as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise ConfigurationError(
                f"Daybreak runs already on the data folder {data_dir} (process {holder}): stop it first, or "
                "choose another folder (DAYBREAK_DATA_DIR)"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield


class ServerUse:
    """A process's use of the folder's embedded server, together with others until it is alone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def share(self) -> None:
        """Use the server from now on; waits while somebody is about to stop it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def become_sole(self, on_wait: Callable[[], None]) -> None:
        """Wait until nobody else uses the server; `on_wait` is called first if somebody does."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)


@contextmanager
def server_use(data_dir: Path) -> Iterator[ServerUse]:
    """A use of the folder's server that is still to begin; it ends with the context."""
    with _open(data_dir, "postgresql.users.lock") as descriptor:
        yield ServerUse(descriptor)


@contextmanager
def _open(data_dir: Path, name: str) -> Iterator[int]:
    """A descriptor of a file in the folder, not for children. Raises ConfigurationError if it is another user's."""
    folder = DataFolder(data_dir)
    try:
        descriptor = open_private(folder.path / name, os.O_RDWR)
    except PermissionError:
        raise ConfigurationError(
            f"the data folder {folder.path} belongs to another user: run as that user, or choose another "
            "folder (DAYBREAK_DATA_DIR)"
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
