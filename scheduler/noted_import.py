"""Imports that the audit log knows of: an entry when the first people are about to be written, and one at the end.

The first is there whatever becomes of the process; without the second, the import was killed midway. Each is one entry
however many users are written. An import that comes to no user that may be written has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import date
from threading import Lock
from typing import cast

from scheduler.domain.access import Actor
from scheduler.domain.field_error import FieldError
from scheduler.domain.user import UserInput
from scheduler.importing import Events, ImportForm, ImportProgress, ImportSummary, import_events
from scheduler.registry import Registry, WrittenUsers


def import_noted(
    registry: Registry, tenant_id: int, lines: Iterable[bytes], form: ImportForm, *, actor: Actor
) -> Events:
    """As `import_events`, with entries in the audit log."""
    written, summary = ImportProgress(0, 0, 0), ImportSummary()
    noted = _Noted(registry, tenant_id, actor)
    events = import_events(noted, tenant_id, lines, form)
    try:
        with closing(events):
            while True:
                event = next(events)
                if isinstance(event, ImportProgress):
                    written = event
                yield event
    except StopIteration as end:
        summary = cast("ImportSummary", end.value)
    except BaseException:
        noted.end({"written": written.read - written.rejected, "rejected": written.rejected, "broken_off": 1})
        raise
    noted.end({"created": summary.created, "updated": summary.updated, "rejected": summary.rejected})
    return summary


class _Noted:
    """The register as one import sees it, by whom."""

    def __init__(self, registry: Registry, tenant_id: int, actor: Actor) -> None:
        self._registry = registry
        self._tenant_id = tenant_id
        self._actor = actor
        self._lock = Lock()
        self._has_begun = False

    def problems(self, user: UserInput) -> list[FieldError]:
        """See `Registry`."""
        return self._registry.problems(user)

    def past(self) -> date:
        """See `Registry`."""
        return self._registry.past()

    def erased(self, tenant_id: int, batch: Sequence[UserInput]) -> frozenset[str]:
        """See `Registry`."""
        return self._registry.erased(tenant_id, batch)

    def upsert(self, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        """As `Registry` does, once it is noted that the import has begun."""
        with self._lock:
            if not self._has_begun:
                self._note({"begun": 1})
                self._has_begun = True
        return self._registry.upsert(tenant_id, batch)

    def end(self, counts: Mapping[str, int]) -> None:
        """Note what came of it, if it has begun."""
        if self._has_begun:
            self._note(counts)

    def _note(self, counts: Mapping[str, int]) -> None:
        self._registry.note_import(self._tenant_id, counts, actor=self._actor)
