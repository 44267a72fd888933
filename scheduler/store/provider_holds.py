"""Which providers operators have put on hold: nothing is given to them, by any worker, until they are resumed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

# Who holds it first is kept; the reason may be put better.
_HOLD: Final = text("""
INSERT INTO provider_holds AS held (provider, held_at, held_by, reason)
VALUES (:provider, :now, :held_by, :reason)
ON CONFLICT (provider) DO UPDATE SET reason = excluded.reason
RETURNING held.provider, held.held_at, held.held_by, held.reason""")

_RESUME: Final = text("""
DELETE FROM provider_holds WHERE provider = :provider RETURNING provider, held_at, held_by, reason""")

_ALL: Final = text("SELECT provider, held_at, held_by, reason FROM provider_holds ORDER BY provider")


@dataclass(frozen=True, slots=True)
class ProviderHold:
    """That a provider is given nothing, since when, by whom and why."""

    provider: str
    held_at: datetime
    held_by: str
    reason: str


def hold(connection: Connection, provider: str, *, held_by: str, reason: str, now: datetime) -> ProviderHold:
    """Put a provider on hold, or give another reason for the hold it is on already."""
    parameters = {"provider": provider, "held_by": held_by, "reason": reason, "now": now}
    return ProviderHold(*connection.execute(_HOLD, parameters).one())


def resume(connection: Connection, provider: str) -> ProviderHold | None:
    """End a hold; what it was, or None where there was none."""
    row = connection.execute(_RESUME, {"provider": provider}).one_or_none()
    return None if row is None else ProviderHold(*row)


def all_holds(connection: Connection) -> dict[str, ProviderHold]:
    """The holds there are, by provider."""
    return {row.provider: ProviderHold(*row) for row in connection.execute(_ALL)}
