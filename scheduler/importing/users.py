"""From a file's rows to users: check them all, or write those that are right."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Final, Protocol

from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput
from scheduler.importing.reading import Candidate, ImportForm, RejectedRow, Source, rows_of
from scheduler.importing.writing import (
    ERASED,
    ImportProgress,
    ImportSummary,
    Writing,
    has_address,
    writers,
)
from scheduler.registry import WrittenUsers

Event = RejectedRow | ImportProgress
Events = Generator[Event, None, ImportSummary]
"""What happens in an import, as it happens; its value is what the import did."""

_CHECKED_AT_ONCE: Final = 2_000


class UserRegister(Protocol):
    """What an import asks of a `Registry`."""

    def problems(self, user: UserInput) -> list[FieldError]:
        """What is wrong with a user that only today's date tells."""

    def erased(self, tenant_id: int, batch: Sequence[UserInput]) -> frozenset[str]:
        """The external ids of those who were erased."""

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """Add or replace users, with their plan, in one transaction."""


def import_events(registry: UserRegister, tenant_id: int, lines: Iterable[bytes], form: ImportForm) -> Events:
    """Add or replace all people in `lines`, which end with their line breaks (see `read_lines`).

    Tells each row that is not taken, in the order of the file but for those who were erased, who are found when their
    chunk is written; and, after each chunk that is written, how far it is. Returns what it did. Whoever closes it
    early ends the import after the chunks under way. A row that is not UTF-8, too long or wrongly quoted is rejected
    like one whose values are wrong. Raises InvalidInput, before anything is written, for a file that cannot be read at
    all: no header, required columns missing, another encoding, another form.
    """
    source = Source(lines)
    told: list[Event] = []
    with writers() as executors:
        writing = Writing(lambda users: registry.upsert(tenant_id, users), executors, told.append)
        for outcome in _checked(registry, source, form):
            if isinstance(outcome, RejectedRow):
                writing.reject(outcome)
            else:
                writing.add(outcome, source.bytes_read)
            if told:
                yield from told
                told.clear()
        summary = writing.finish()
        yield from told
        return replace(summary, ignored_columns=source.ignored_columns)


def import_users(
    registry: UserRegister,
    tenant_id: int,
    lines: Iterable[bytes],
    form: ImportForm,
    on_rejected: Callable[[RejectedRow], None],
    on_progress: Callable[[ImportProgress], None] = lambda _: None,
) -> ImportSummary:
    """As `import_events`, which it tells as they happen."""
    return follow(import_events(registry, tenant_id, lines, form), on_rejected, on_progress)


def follow(
    events: Events,
    on_rejected: Callable[[RejectedRow], None],
    on_progress: Callable[[ImportProgress], None] = lambda _: None,
) -> ImportSummary:
    """Let an import run to its end; returns what it did."""
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                summary: ImportSummary = end.value
                return summary
            if isinstance(event, RejectedRow):
                on_rejected(event)
            else:
                on_progress(event)


def check_users(
    registry: UserRegister,
    tenant_id: int,
    lines: Iterable[bytes],
    form: ImportForm,
    on_rejected: Callable[[RejectedRow], None],
) -> ImportSummary:
    """As `import_users`, without writing: how many rows it would not take, and `on_rejected` which.

    The rows that it would take are counted as `unchanged`. It is right as of now: whoever is erased between this and
    the import is rejected then.
    """
    source = Source(lines)
    rows = _checked(registry, source, form)
    summary = ImportSummary()
    while chunk := list(islice(rows, _CHECKED_AT_ONCE)):
        candidates = [each for each in chunk if isinstance(each, Candidate)]
        erased = registry.erased(tenant_id, [each.user for each in candidates])
        rejected = [refused for each in chunk if (refused := _refused(each, erased)) is not None]
        for row in rejected:
            on_rejected(row)
        summary += ImportSummary(
            unchanged=len(chunk) - len(rejected),
            rejected=len(rejected),
            without_address=sum(not has_address(each.user) for each in candidates),
        )
    return replace(summary, ignored_columns=source.ignored_columns)


def _checked(registry: UserRegister, source: Source, form: ImportForm) -> Iterator[Candidate | RejectedRow]:
    for row in rows_of(source, form):
        if isinstance(row, Candidate) and (problems := registry.problems(row.user)):
            yield RejectedRow(row.line, problems, row.user.external_id)
        else:
            yield row


def _refused(row: Candidate | RejectedRow, erased: frozenset[str]) -> RejectedRow | None:
    if isinstance(row, RejectedRow):
        return row
    if row.user.external_id in erased:
        return RejectedRow(row.line, [ERASED], row.user.external_id)
    return None
