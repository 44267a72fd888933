"""Collect users into chunks and write them, while the next are read: some chunks at once, each in a transaction.

Who goes to which writer follows from the external id, so of two rows for one person the later is written last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol
from zlib import crc32

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput
from scheduler.importing.reading import Candidate, RejectedRow
from scheduler.registry import WrittenUsers
from scheduler.store.planning import Replanned

WRITERS: Final = 2
"""More than one keeps the database busy while another waits for the disk; more than two gained nothing."""

_USERS_PER_CHUNK: Final = 4_000
"""What a transaction costs in itself is a small part of it by then; more would only hold more in memory."""

_BYTES_PER_CHUNK: Final = 4_194_304

ERASED: Final = FieldError(
    "/external_id", "is of somebody who was erased; an administrator must allow it first"
)


class Write(Protocol):
    """Writes users, whose external ids differ, in one transaction."""

    def __call__(self, users: list[UserInput], /) -> WrittenUsers:
        """Write them."""


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How many rows are done, rejected ones among them, and how many bytes of the file they were, at the least."""

    bytes_read: int
    read: int
    rejected: int


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import did, in rows, and what it changed in the message log."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    without_address: int = 0
    """Of the rows taken: those of people who have nothing but their inbox."""
    replanned: Replanned = field(default_factory=Replanned)
    ignored_columns: tuple[str, ...] = ()
    """Columns of a CSV that say nothing to Daybreak."""

    @property
    def read(self) -> int:
        """All rows that were read."""
        return self.created + self.updated + self.unchanged + self.rejected

    def __add__(self, other: ImportSummary) -> ImportSummary:
        """Both together."""
        return ImportSummary(
            created=self.created + other.created,
            updated=self.updated + other.updated,
            unchanged=self.unchanged + other.unchanged,
            rejected=self.rejected + other.rejected,
            without_address=self.without_address + other.without_address,
            replanned=self.replanned + other.replanned,
            ignored_columns=self.ignored_columns or other.ignored_columns,
        )


def has_address(user: UserInput) -> bool:
    """Whether anything but their inbox can be sent to."""
    return not (
        user.email is None and user.phone is None and user.push_token is None and user.webhook_url is None
    )


class Writing:
    """Hands users to the writers, and counts what came of them."""

    def __init__(
        self,
        write: Write,
        executors: list[ThreadPoolExecutor],
        tell: Callable[[RejectedRow | ImportProgress], None],
    ) -> None:
        self._tell = tell
        self._summary = ImportSummary()
        self._ends = 0
        self._lanes = [_Lane(write, executor) for executor in executors]

    def add(self, candidate: Candidate, bytes_read: int) -> None:
        """Take a user; `bytes_read` is where in the file they end."""
        lane = self._lanes[crc32(candidate.user.external_id.encode()) % len(self._lanes)]
        lane.chunk.add(candidate, bytes_read)
        if lane.chunk.is_full():
            self._end(lane)
            lane.begin()

    def reject(self, row: RejectedRow) -> None:
        """A row more is not taken."""
        self._summary += ImportSummary(rejected=1)
        self._tell(row)

    def finish(self) -> ImportSummary:
        """Write what is left; returns what the whole import did."""
        for lane in self._lanes:
            self._end(lane)
            lane.begin()
        for lane in self._lanes:
            self._end(lane)
        return self._summary

    def _end(self, lane: _Lane) -> None:
        """Wait for the chunk that a lane is writing, and count it."""
        if lane.under_way is None:
            return
        chunk, future = lane.under_way
        lane.under_way = None
        written = future.result()
        for candidate in chunk.of(written.erased):
            self.reject(RejectedRow(candidate.line, [ERASED], candidate.user.external_id))
        self._summary += ImportSummary(
            created=written.created,
            updated=written.updated + chunk.repeated,
            unchanged=written.unchanged,
            without_address=chunk.without_address,
            replanned=written.replanned,
        )
        self._ends = max(self._ends, chunk.ends)
        done = min((each.begins for each in self._lanes if each.has_more()), default=self._ends)
        self._tell(ImportProgress(done, self._summary.read, self._summary.rejected))


@contextmanager
def writers() -> Iterator[list[ThreadPoolExecutor]]:
    """Threads to write in, one for each lane; what they are at comes to its end."""
    executors = [ThreadPoolExecutor(max_workers=1, thread_name_prefix="import") for _ in range(WRITERS)]
    try:
        yield executors
    finally:
        for executor in executors:
            executor.shutdown()


class _Lane:
    """The chunk that is being collected for one writer, and the one that it writes."""

    def __init__(self, write: Write, executor: ThreadPoolExecutor) -> None:
        self._write = write
        self._executor = executor
        self.chunk = _Chunk()
        self.under_way: tuple[_Chunk, Future[WrittenUsers]] | None = None

    def has_more(self) -> bool:
        """Whether anything is to be written yet."""
        return self.under_way is not None or not self.chunk.is_empty()

    @property
    def begins(self) -> int:
        """From where on in the file it has users to write."""
        return (self.chunk if self.under_way is None else self.under_way[0]).begins

    def begin(self) -> None:
        """Have the collected chunk written."""
        if self.chunk.is_empty():
            return
        self.under_way = self.chunk, self._executor.submit(self._write, self.chunk.users())
        self.chunk = _Chunk(self.chunk.ends)


class _Chunk:
    """Users to be written together, each external id once: the later row counts."""

    def __init__(self, begins: int = 0) -> None:
        self.begins = begins
        self.ends = begins
        self.repeated = 0
        self.without_address = 0
        self._candidates: dict[str, Candidate] = {}

    def add(self, candidate: Candidate, bytes_read: int) -> None:
        """Take a user, in place of an earlier one with their external id."""
        user = candidate.user
        self.repeated += user.external_id in self._candidates
        self.without_address += not has_address(user)
        self._candidates[user.external_id] = candidate
        self.ends = bytes_read

    def is_full(self) -> bool:
        """Whether it is worth a transaction, or as much as is to be held in memory."""
        return len(self._candidates) >= _USERS_PER_CHUNK or self.ends - self.begins >= _BYTES_PER_CHUNK

    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._candidates

    def users(self) -> list[UserInput]:
        """The users."""
        return [candidate.user for candidate in self._candidates.values()]

    def of(self, external_ids: frozenset[str]) -> list[Candidate]:
        """Those of these external ids."""
        return [self._candidates[external_id] for external_id in sorted(external_ids)]
