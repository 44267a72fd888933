"""From a file's rows to users: check them all, or write those that are right."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from scheduler.domain.user import UserInput
from scheduler.importing.chunks import RejectedRow
from scheduler.importing.columns import Checks
from scheduler.importing.lines import Source
from scheduler.importing.reading import ImportForm, chunks_of
from scheduler.importing.writing import WRITERS, ImportProgress, ImportSummary, Writing, erased_among
from scheduler.registry import WrittenUsers
from scheduler.threads import threads

Event = RejectedRow | ImportProgress
Events = Generator[Event, None, ImportSummary]
"""What happens in an import, as it happens; its value is what the import did."""


class UserRegister(Checks, Protocol):
    """What an import asks of a `Registry`."""

    def erased(self, tenant_id: int, batch: Sequence[UserInput]) -> frozenset[str]:
        """The external ids of those who were erased."""

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """Add or replace users, with their plan, in one transaction."""


def import_events(registry: UserRegister, tenant_id: int, lines: Iterable[bytes], form: ImportForm) -> Events:
    """Add or replace all people in `lines`, which end with their line breaks (see `read_lines`).

    Tells each row that is not taken, some thousands at once, in the order of the file but for those who were erased,
    who are found when their chunk is written; and, after each chunk that is written, how far it is. Returns what it
    did. Whoever closes it early ends the import after the chunks under way. A row that is not UTF-8, too long or
    wrongly quoted is rejected like one whose values are wrong. Raises InvalidInput, before anything is written, for a
    file that cannot be read at all: no header, required columns missing, another encoding, another form.
    """
    source = Source(lines)
    told: list[Event] = []
    with threads(WRITERS, "import") as executor:
        writing = Writing(lambda users: registry.upsert(tenant_id, users), executor, told.append)
        for chunk in chunks_of(source, form, registry):
            writing.add(chunk)
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
    summary = ImportSummary()
    for chunk in chunks_of(source, form, registry):
        erased = registry.erased(tenant_id, chunk.users)
        rejected = [*chunk.rejected, *erased_among(chunk, erased)]
        for row in sorted(rejected, key=lambda row: row.line):
            on_rejected(row)
        summary += ImportSummary(
            unchanged=len(chunk.lines) + chunk.repeated + len(chunk.rejected) - len(rejected),
            rejected=len(rejected),
            without_address=chunk.without_address,
        )
    return replace(summary, ignored_columns=source.ignored_columns)
