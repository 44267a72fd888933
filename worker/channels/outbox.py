"""A provider that keeps the messages: one line of NDJSON per message, appended to a file.

For development and simulation, where nobody must really be written to. Several processes may append to one
file: a batch is one append under a lock, so lines never mix, and it is there whole or not at all. The file
may be rotated away or deleted at any time; the next batch starts a new one. It holds personal data: only
its owner may read it.

It knows no idempotency keys: a message tried again becomes a second line with the same `id`.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Final

import orjson

from scheduler.clock import Clock
from worker.channels.port import (
    Accepted,
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
)

LOCK_ATTEMPTS: Final = 500
LOCK_PAUSE_SECONDS: Final = 0.01

# What only a person can put right: every message would fail the same way.
_MISCONFIGURED: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


class OutboxProvider:
    """Appends each message to the file `path`, whose folder it makes where it is missing.

    A line holds `id`, `channel`, `address`, `subject`, `text`, `accepted_at` (RFC 3339, UTC) and the fields
    of the message; of two equal names the message's own wins. With `fsync` a batch counts as accepted once
    it is on stable storage, else once the operating system has it.
    """

    def __init__(self, path: Path, clock: Clock, *, fsync: bool = True, name: str = "outbox") -> None:
        self.name = name
        self._path = path
        self._clock = clock
        self._fsync = fsync
        self._file: int | None = None

    def pauses_until(self) -> datetime | None:
        """It takes messages at any time."""
        return None

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Append the messages, all or none of them; one outcome each, in their order.

        Errors of the file system are outcomes: retryable, or the provider's where the path cannot work at
        all.
        """
        began_at = self._clock.monotonic()
        now = self._clock.now()
        outcomes: list[Outcome] = []
        lines: list[bytes] = []
        for message in messages:
            if control.start_no_more():
                outcomes.append(NotAttempted())
                continue
            try:
                lines.append(_line(message, now))
                outcomes.append(Accepted(now))
            except TypeError:
                outcomes.append(_not_unicode(now))
        if not lines:
            return outcomes
        written = self._write(lines, now)
        for _ in lines:
            control.note(written, began_at)
        return [written if isinstance(outcome, Accepted) else outcome for outcome in outcomes]

    def close(self) -> None:
        """Close the file. The next delivery would open it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, lines: Sequence[bytes], now: datetime) -> Accepted | Failed:
        """What became of each of the lines."""
        try:
            self._append(b"".join(lines))
        except OSError as error:
            return _failed(error, now)
        return Accepted(now)

    def _append(self, lines: bytes) -> None:
        file = self._locked_file()
        try:
            size = os.fstat(file).st_size
            try:
                _write_all(file, _mend_torn_line(file, size) + lines)
                if self._fsync:
                    os.fsync(file)
            except OSError:
                # Whoever reads this file must find a whole batch or none of it.
                os.ftruncate(file, size)
                raise
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _locked_file(self) -> int:
        """The file that stands at the path now, locked; it may have been rotated since the last batch."""
        for _ in range(LOCK_ATTEMPTS):
            if self._file is None:
                self._file = _open(self._path)
            if not _try_lock(self._file):
                Event().wait(LOCK_PAUSE_SECONDS)
            elif _stands_at(self._path, self._file):
                return self._file
            else:
                self.close()
        raise OSError(errno.EAGAIN, "another process holds the lock of the file")


def _line(message: OutgoingMessage, now: datetime) -> bytes:
    own = {
        "id": message.id,
        "channel": message.channel,
        "address": message.address,
        "subject": message.subject,
        "text": message.text,
        "accepted_at": now,
    }
    return orjson.dumps({**own, **message.fields, **own}, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EISDIR, "not a regular file")
    return file


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stands_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _mend_torn_line(file: int, size: int) -> bytes:
    """What must be written first: a line end where a writer died in the middle of a line."""
    return b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _failed(error: OSError, now: datetime) -> Failed:
    kind = FailureKind.PROVIDER if error.errno in _MISCONFIGURED else FailureKind.RETRYABLE
    category = errno.errorcode.get(error.errno or 0, "error").lower()
    return Failed(kind, f"outbox_{category}", error.strerror or "the file could not be written", None, now)


def _not_unicode(now: datetime) -> Failed:
    return Failed(
        FailureKind.PERMANENT, "not_unicode", "the message holds what cannot be written as UTF-8", None, now
    )
