"""The occasions of a process's tenants, as last read: a write to a user asks only what has changed of them.

An occasion of a known version is what it was but for its watermark, which every look reads anew, under the planning
lock as before; or a statement compares it there with the one last read (`UNCHANGED`), by which something was decided
beforehand. A transaction that edits occasions must not ask here: what it has written may be rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.occasion import Occasion
from scheduler.store import occasions
from scheduler.store.direct import Direct

_WATERMARKS: Final = text("""
SELECT id, version, planned_through, ahead_through
FROM occasions WHERE tenant_id = :tenant_id AND kind <> 'ad_hoc' ORDER BY id""")

_UNCHANGED: Final = text("""
SELECT 1 / CAST(coalesce(
    array_agg(id ORDER BY id) = CAST(:ids AS integer[])
    AND array_agg(version ORDER BY id) = CAST(:versions AS integer[])
    AND array_agg(planned_through ORDER BY id) = CAST(:planned_through AS timestamptz[])
    AND array_agg(ahead_through ORDER BY id) = CAST(:ahead_through AS timestamptz[]),
    false) AS integer) AS is_unchanged
FROM occasions WHERE tenant_id = :tenant_id AND kind <> 'ad_hoc'""")

WATERMARKS: Final = Direct(_WATERMARKS)
"""What there is to know of a tenant's occasions each time: to be read while planning is shared."""

UNCHANGED: Final = Direct(_UNCHANGED)
"""Fails, by a division by zero, unless a tenant's occasions are those of `unchanged`: while planning is shared."""


def unchanged(tenant_id: int, known: Sequence[Occasion]) -> dict[str, Any]:
    """What `UNCHANGED` is given; `known` as of `KnownOccasions.last_known`."""
    return {
        "tenant_id": tenant_id,
        "ids": [occasion.id for occasion in known],
        "versions": [occasion.version for occasion in known],
        "planned_through": [occasion.planned_through for occasion in known],
        "ahead_through": [occasion.ahead_through for occasion in known],
    }


class KnownOccasions:
    """The occasions of one database."""

    def __init__(self) -> None:
        # Replaced as a whole, so that threads may share it without a lock.
        self._by_tenant: dict[int, dict[int, Occasion]] = {}

    def all_of(
        self, connection: Connection, tenant_id: int, watermarks: Sequence[Any] | None = None
    ) -> list[Occasion]:
        """A tenant's occasions, oldest first, without what was sent ad hoc; the caller shares planning.

        `watermarks` are the rows of `WATERMARKS`, where the caller has read them already.
        """
        if watermarks is None:
            watermarks = WATERMARKS.rows(connection, {"tenant_id": tenant_id})
        known = self._by_tenant.get(tenant_id, {})
        if any(row.id not in known or known[row.id].version != row.version for row in watermarks):
            read = occasions.list_all(connection, tenant_id)
            self._by_tenant[tenant_id] = {occasion.id: occasion for occasion in read}
            return read
        found = [_as_of(row, known[row.id]) for row in watermarks]
        self._by_tenant[tenant_id] = {occasion.id: occasion for occasion in found}
        return found

    def last_known(self, tenant_id: int) -> list[Occasion]:
        """A tenant's occasions as they last were, oldest first; none: nothing is known."""
        return list(self._by_tenant.get(tenant_id, {}).values())

    def forget(self, tenant_id: int) -> None:
        """Something of what is known of a tenant's occasions is no more."""
        self._by_tenant.pop(tenant_id, None)


def _as_of(watermark: Any, known: Occasion) -> Occasion:
    """An occasion as last read, with its watermarks as they are now."""
    read = watermark.planned_through, watermark.ahead_through
    if read == (known.planned_through, known.ahead_through):
        return known
    return replace(known, planned_through=watermark.planned_through, ahead_through=watermark.ahead_through)
