"""Write the chunks of a file while the next are read: some at once, each in a transaction.

Two rows for one person are written in the order of the file: a chunk with somebody who is being written waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput
from scheduler.importing.chunks import Chunk, RejectedRow
from scheduler.registry import WrittenUsers
from scheduler.store.planning import Replanned

WRITERS: Final = 2
"""More than one keeps the database busy while another waits for the disk; more than two gained nothing."""

_CHUNKS_UNDER_WAY: Final = WRITERS + 1
"""One waits for whoever is done first."""

ERASED: Final = FieldError(
    "/external_id", "is of somebody who was erased; an administrator must allow it first"
)


class Write(Protocol):
    """Writes users, whose external ids differ, in one transaction."""

    def __call__(self, users: Sequence[UserInput], /) -> WrittenUsers:
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


class Writing:
    """Hands chunks to the writers, and counts what came of them."""

    def __init__(
        self,
        write: Write,
        executor: ThreadPoolExecutor,
        tell: Callable[[RejectedRow | ImportProgress], None],
    ) -> None:
        self._write = write
        self._executor = executor
        self._tell = tell
        self._summary = ImportSummary()
        self._under_way: deque[tuple[Chunk, Future[WrittenUsers]]] = deque()

    def add(self, chunk: Chunk) -> None:
        """Have a chunk written, and tell of its rows that are not right."""
        for row in chunk.rejected:
            self._reject(row)
        if not chunk.users:
            return
        external_ids = frozenset(chunk.users.external_ids)
        while len(self._under_way) >= _CHUNKS_UNDER_WAY or not all(
            external_ids.isdisjoint(other.users.external_ids) for other, _ in self._under_way
        ):
            self._end()
        self._under_way.append((chunk, self._executor.submit(self._write, chunk.users)))

    def finish(self) -> ImportSummary:
        """Wait for what is being written; returns what the whole import did."""
        while self._under_way:
            self._end()
        return self._summary

    def _reject(self, row: RejectedRow) -> None:
        self._summary += ImportSummary(rejected=1)
        self._tell(row)

    def _end(self) -> None:
        """Wait for the chunk that was begun first, and count it."""
        chunk, future = self._under_way.popleft()
        written = future.result()
        for row in erased_among(chunk, written.erased):
            self._reject(row)
        self._summary += ImportSummary(
            created=written.created,
            updated=written.updated + chunk.repeated,
            unchanged=written.unchanged,
            without_address=chunk.without_address,
            replanned=written.replanned,
        )
        self._tell(ImportProgress(chunk.ends, self._summary.read, self._summary.rejected))


def erased_among(chunk: Chunk, erased: frozenset[str]) -> Iterator[RejectedRow]:
    """The rows of a chunk whose owners were erased."""
    if erased:
        for line, external_id in zip(chunk.lines, chunk.users.external_ids, strict=True):
            if external_id in erased:
                yield RejectedRow(line, [ERASED], external_id)
