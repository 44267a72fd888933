"""How many messages a second a provider is given, by all processes together: one row for each provider.

A reservation of n messages moves the instant from which the provider is free by n / rate (the generic cell rate
algorithm, ITU-T I.371 appendix I, with whole slices as its cells). Reservations wait for each other only while
their row is locked: a statement each. Instants are those of the callers' clocks, so processes whose clocks differ
shift each other's slices by as much.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

_CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""At most, between the machines that workers run on."""

_RESERVE: Final = text("""
INSERT INTO provider_rates AS rate (provider, next_free_at)
VALUES (:provider, CAST(:now AS timestamptz) + CAST(:takes AS interval))
ON CONFLICT (provider) DO UPDATE
SET next_free_at = CAST(:takes AS interval)
    + CASE WHEN rate.next_free_at > CAST(:absurd AS timestamptz) THEN CAST(:now AS timestamptz)
           ELSE greatest(rate.next_free_at, CAST(:now AS timestamptz)) END
WHERE rate.next_free_at <= CAST(:latest AS timestamptz) OR rate.next_free_at > CAST(:absurd AS timestamptz)
RETURNING next_free_at - CAST(:takes AS interval)""")

_NEXT_FREE: Final = text("SELECT next_free_at FROM provider_rates WHERE provider = :provider")


def reserve(
    connection: Connection, provider: str, *, takes: timedelta, latest: datetime, now: datetime
) -> datetime | None:
    """Reserve the provider for `takes`, from an instant between `now` and `latest` which is returned.

    None where it is taken for longer than until `latest`: nothing is reserved then. Taken until long after what
    anybody may reserve, it is free: a clock was set back.
    """
    absurd = latest + takes + _CLOCKS_DIFFER
    parameters = {"provider": provider, "takes": takes, "latest": latest, "now": now, "absurd": absurd}
    starts_at: datetime | None = connection.execute(_RESERVE, parameters).scalar_one_or_none()
    return starts_at


def next_free_at(connection: Connection, provider: str) -> datetime | None:
    """When the provider is free again; None: nothing was ever reserved."""
    free_at: datetime | None = connection.execute(_NEXT_FREE, {"provider": provider}).scalar_one_or_none()
    return free_at
