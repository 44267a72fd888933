"""What of a file is written together, and how much that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput
from scheduler.domain.user_columns import UserColumns

USERS_PER_CHUNK: Final = 4_000
"""What a transaction costs in itself is a small part of it by then; more would only hold more in memory."""

BYTES_PER_CHUNK: Final = 4_194_304


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that was not taken: its first line in the file (from 1), all that is wrong, and whose it is if known."""

    line: int
    errors: list[FieldError]
    external_id: str | None


class Candidate(NamedTuple):
    """A user whose form is right, and the line they come from."""

    line: int
    user: UserInput


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a file, one after the other: users, the lines they come from, and the rows that are not right.

    `ends` is where in the file, in bytes, they end. `repeated` rows are not among the users: a later one has the
    same external id, and counts. They are among those `without_address` if they have none.
    """

    users: UserColumns
    lines: Sequence[int]
    rejected: Sequence[RejectedRow]
    ends: int
    without_address: int
    repeated: int = 0

    def each_once(self) -> Chunk:
        """The same with each external id once."""
        external_ids = self.users.external_ids
        last = {external_id: place for place, external_id in enumerate(external_ids)}
        if len(last) == len(external_ids):
            return self
        keep = [last[external_id] == place for place, external_id in enumerate(external_ids)]
        return replace(
            self,
            users=self.users.kept(keep),
            lines=[line for line, is_kept in zip(self.lines, keep, strict=True) if is_kept],
            repeated=len(external_ids) - len(last),
        )


def chunk_of(rows: Iterable[Candidate | RejectedRow], ends: int) -> Chunk:
    """A chunk of rows that were read one by one."""
    taken: list[Candidate] = []
    rejected: list[RejectedRow] = []
    for row in rows:
        if isinstance(row, RejectedRow):
            rejected.append(row)
        else:
            taken.append(row)
    users = UserColumns.of([each.user for each in taken])
    return Chunk(users, [each.line for each in taken], rejected, ends, users.without_address).each_once()
