"""Imports that the audit log knows of: one entry each, of what was written, also where the file breaks off."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import cast

from scheduler.domain.access import Actor
from scheduler.importing import Events, ImportForm, ImportProgress, ImportSummary, import_events
from scheduler.registry import Registry


def import_noted(
    registry: Registry, tenant_id: int, lines: Iterable[bytes], form: ImportForm, *, actor: Actor
) -> Events:
    """As `import_events`, with an entry in the audit log at the end. An import that wrote nothing has none."""
    written, summary = ImportProgress(0, 0, 0), ImportSummary()
    events = import_events(registry, tenant_id, lines, form)
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
        if written.read > written.rejected:
            counts = {
                "written": written.read - written.rejected,
                "rejected": written.rejected,
                "broken_off": 1,
            }
            registry.note_import(tenant_id, counts, actor=actor)
        raise
    if summary.created or summary.updated:
        counts = {"created": summary.created, "updated": summary.updated, "rejected": summary.rejected}
        registry.note_import(tenant_id, counts, actor=actor)
    return summary
