"""Who must not be written to: addresses (suppressions), and users by channel and occasion (unsubscribes).

Suppressions belong to an address, whoever has it: it is kept as `normal_address` writes it. Unsubscribes belong
to a user's id and stay when the user is deleted: somebody imported again under their external id has their old
id back, and must not be written to for that. Each write is one statement, harmless to repeat, and says whether
it changed anything. Both are looked at when a message is claimed, so nothing is replanned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from scheduler.domain.address import normal_address
from scheduler.domain.occasion import Channel
from scheduler.domain.suppression import SuppressionReason

_EVERY_OCCASION: Final = 0  # a NULL would defeat the key

_SUPPRESS: Final = text("""
INSERT INTO suppressions (tenant_id, channel, address, reason, source, created_at)
SELECT :tenant_id, CAST(new.channel AS channel), new.address, new.reason, :source, :now
FROM unnest(CAST(:channels AS text[]), CAST(:addresses AS text[]), CAST(:reasons AS text[]))
    AS new (channel, address, reason)
ORDER BY new.channel, new.address
ON CONFLICT (tenant_id, channel, address) DO NOTHING""")

_UNSUPPRESS: Final = text("""
DELETE FROM suppressions
WHERE tenant_id = :tenant_id AND channel = CAST(:channel AS channel) AND address = :address""")

_SUPPRESSION_COLUMNS: Final = "id, CAST(channel AS text) AS channel, address, reason, source, created_at"

_UNSUPPRESS_BY_ID: Final = text(f"""
DELETE FROM suppressions WHERE tenant_id = :tenant_id AND id = :id RETURNING {_SUPPRESSION_COLUMNS}""")

_SUPPRESSION: Final = text(f"""
SELECT {_SUPPRESSION_COLUMNS} FROM suppressions
WHERE tenant_id = :tenant_id AND channel = CAST(:channel AS channel) AND address = :address""")

_SUPPRESSIONS: Final = text(f"""
SELECT {_SUPPRESSION_COLUMNS} FROM suppressions
WHERE tenant_id = :tenant_id AND id > :after
  AND (CAST(:channel AS channel) IS NULL OR channel = CAST(:channel AS channel))
  AND (CAST(:reason AS text) IS NULL OR reason = CAST(:reason AS text))
ORDER BY id LIMIT :most""")

_UNSUBSCRIBE: Final = text("""
INSERT INTO unsubscribes (user_id, channel, occasion_id, tenant_id, source, created_at)
VALUES (:user_id, CAST(:channel AS channel), :occasion_id, :tenant_id, :source, :now)
ON CONFLICT (user_id, channel, occasion_id) DO NOTHING""")

_RESUBSCRIBE: Final = text("""
DELETE FROM unsubscribes
WHERE user_id = :user_id AND channel = CAST(:channel AS channel) AND occasion_id = :occasion_id
  AND tenant_id = :tenant_id""")

# An occasion of another tenant has no name here.
_UNSUBSCRIBES: Final = text("""
SELECT CAST(u.channel AS text) AS channel, nullif(u.occasion_id, 0) AS occasion_id, o.key AS occasion, u.source,
       u.created_at
FROM unsubscribes u LEFT JOIN occasions o ON o.id = u.occasion_id AND o.tenant_id = u.tenant_id
WHERE u.user_id = :user_id AND u.tenant_id = :tenant_id
ORDER BY u.channel, u.occasion_id""")


@dataclass(frozen=True, slots=True)
class NewSuppression:
    """An address to put on the list."""

    channel: Channel
    address: str
    reason: SuppressionReason


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that is not written to on a channel; `source` says who put it there."""

    id: int
    channel: Channel
    address: str
    reason: SuppressionReason
    source: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """What a user wants no more of: a channel, or one occasion on it (`occasion_id` None: all of the channel).

    `occasion` is that occasion's key; None also where the occasion is gone.
    """

    channel: Channel
    occasion_id: int | None
    occasion: str | None
    source: str
    created_at: datetime


def suppress(
    connection: Connection,
    tenant_id: int,
    channel: Channel,
    address: str,
    reason: SuppressionReason,
    source: str,
    now: datetime,
) -> bool:
    """Write to `address` no more; False where it was on the list already, whose reason then stays."""
    return bool(suppress_all(connection, tenant_id, [NewSuppression(channel, address, reason)], source, now))


def suppress_all(
    connection: Connection, tenant_id: int, new: Sequence[NewSuppression], source: str, now: datetime
) -> int:
    """As `suppress` for some thousands at once; returns how many were not on the list yet."""
    parameters = {
        "tenant_id": tenant_id,
        "channels": [each.channel.value for each in new],
        "addresses": [normal_address(each.channel, each.address) for each in new],
        "reasons": [each.reason.value for each in new],
        "source": source,
        "now": now,
    }
    return connection.execute(_SUPPRESS, parameters).rowcount


def unsuppress(connection: Connection, tenant_id: int, channel: Channel, address: str) -> bool:
    """Write to `address` again; False where it was not on the list."""
    parameters = _address_parameters(tenant_id, channel, address)
    return connection.execute(_UNSUPPRESS, parameters).rowcount == 1


def unsuppress_by_id(connection: Connection, tenant_id: int, suppression_id: int) -> Suppression | None:
    """Take an entry off the list by its id; None where there is none such."""
    parameters = {"tenant_id": tenant_id, "id": suppression_id}
    row = connection.execute(_UNSUPPRESS_BY_ID, parameters).one_or_none()
    return None if row is None else _suppression(row)


def suppression_of(
    connection: Connection, tenant_id: int, channel: Channel, address: str
) -> Suppression | None:
    """The entry of an address, if it is on the list."""
    parameters = _address_parameters(tenant_id, channel, address)
    row = connection.execute(_SUPPRESSION, parameters).one_or_none()
    return None if row is None else _suppression(row)


def suppressions(
    connection: Connection,
    tenant_id: int,
    *,
    after: int,
    most: int,
    channel: Channel | None = None,
    reason: SuppressionReason | None = None,
) -> list[Suppression]:
    """Up to `most` entries in order of id, which is that of their arrival, from the first one after `after`."""
    parameters = {
        "tenant_id": tenant_id,
        "after": after,
        "most": most,
        "channel": None if channel is None else channel.value,
        "reason": None if reason is None else reason.value,
    }
    return [_suppression(row) for row in connection.execute(_SUPPRESSIONS, parameters)]


def unsubscribe(
    connection: Connection,
    tenant_id: int,
    user_id: int,
    channel: Channel,
    occasion_id: int | None,
    source: str,
    now: datetime,
) -> bool:
    """Send a user no more of an occasion on a channel (None: of any); False where that was so already."""
    parameters = _scope_parameters(tenant_id, user_id, channel, occasion_id) | {"source": source, "now": now}
    return connection.execute(_UNSUBSCRIBE, parameters).rowcount == 1


def resubscribe(
    connection: Connection, tenant_id: int, user_id: int, channel: Channel, occasion_id: int | None
) -> bool:
    """Take one unsubscription back, of exactly this extent; False where there was none."""
    parameters = _scope_parameters(tenant_id, user_id, channel, occasion_id)
    return connection.execute(_RESUBSCRIBE, parameters).rowcount == 1


def unsubscribes(connection: Connection, tenant_id: int, user_id: int) -> list[Unsubscribe]:
    """All that a user wants no more of: at most one for each channel and occasion."""
    rows = connection.execute(_UNSUBSCRIBES, {"tenant_id": tenant_id, "user_id": user_id})
    return [
        Unsubscribe(Channel(row.channel), row.occasion_id, row.occasion, row.source, row.created_at)
        for row in rows
    ]


def _address_parameters(tenant_id: int, channel: Channel, address: str) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "channel": channel.value,
        "address": normal_address(channel, address),
    }


def _scope_parameters(
    tenant_id: int, user_id: int, channel: Channel, occasion_id: int | None
) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "channel": channel.value,
        "occasion_id": _EVERY_OCCASION if occasion_id is None else occasion_id,
    }


def _suppression(row: Row[Any]) -> Suppression:
    return Suppression(
        row.id,
        Channel(row.channel),
        row.address,
        SuppressionReason(row.reason),
        row.source,
        row.created_at,
    )
