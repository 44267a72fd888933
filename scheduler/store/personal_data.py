"""All that is stored of one person, table by table, as the tables have it: a new column is told without a change here.

Only `audit_log` is read elsewhere. Rows are told whole but for their tenant; instants are in RFC 3339.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from scheduler.domain.occasion import Channel

_SAME_MESSAGE: Final = """
    t.user_id = l.user_id AND t.local_date = l.local_date AND t.occasion_id = l.occasion_id AND t.slot = l.slot
    AND t.channel = l.channel"""

_MESSAGES: Final = text(f"""
SELECT to_jsonb(l) - 'tenant_id' || jsonb_build_object(
    'occasion', o.key,
    'attempts', coalesce((
        SELECT jsonb_agg(to_jsonb(t) - 'tenant_id' ORDER BY t.id)
        FROM delivery_attempts t WHERE {_SAME_MESSAGE}), '[]'),
    'delivery_events', coalesce((
        SELECT jsonb_agg(to_jsonb(t) - 'tenant_id' ORDER BY t.id)
        FROM delivery_events t WHERE {_SAME_MESSAGE}), '[]'))
FROM message_log l LEFT JOIN occasions o ON o.id = l.occasion_id
WHERE l.user_id = :user_id AND l.tenant_id = :tenant_id
ORDER BY l.local_date, l.occasion_id, l.slot, l.channel""")


def _rows_of(table: str) -> TextClause:
    return text(f"""
SELECT to_jsonb(t) - 'tenant_id' FROM {table} t
WHERE t.user_id = :user_id AND t.tenant_id = :tenant_id ORDER BY to_jsonb(t) ->> 'created_at', to_jsonb(t) ->> 'id'""")


_TABLES: Final[Mapping[str, TextClause]] = {
    "messages": _MESSAGES,
    "inbox": _rows_of("inbox_messages"),
    "dead_letters": _rows_of("dead_letters"),
    "unsubscribes": _rows_of("unsubscribes"),
    # Of an erased person there is none.
    "deleted": _rows_of("deleted_users"),
}

_SENDS_TO_ONE: Final = text("""
SELECT to_jsonb(o) - 'tenant_id' FROM occasions o
WHERE o.tenant_id = :tenant_id AND o.kind = 'ad_hoc' AND o.rule ->> 'users' = '1'
  AND o.id IN (SELECT occasion_id FROM message_log WHERE user_id = :user_id)
ORDER BY o.id""")

_SUPPRESSIONS: Final = text("""
SELECT to_jsonb(s) - 'tenant_id'
FROM unnest(CAST(:channels AS channel[]), CAST(:addresses AS text[])) AS wanted (channel, address)
JOIN suppressions s ON s.tenant_id = :tenant_id AND s.channel = wanted.channel AND s.address = wanted.address
ORDER BY s.id""")


def of_user(connection: Connection, tenant_id: int, user_id: int) -> dict[str, list[dict[str, Any]]]:
    """What the tables hold of a user beside the user: messages with their attempts and reports, and all else."""
    parameters = {"tenant_id": tenant_id, "user_id": user_id}
    found = {
        name: list(connection.execute(statement, parameters).scalars()) for name, statement in _TABLES.items()
    }
    found["sends"] = list(connection.execute(_SENDS_TO_ONE, parameters).scalars())
    return found


def suppressions_of(
    connection: Connection, tenant_id: int, addresses: Collection[tuple[Channel, str]]
) -> list[dict[str, Any]]:
    """The entries of the suppression list for these addresses."""
    parameters = {
        "tenant_id": tenant_id,
        "channels": [channel.value for channel, _ in addresses],
        "addresses": [address for _, address in addresses],
    }
    return list(connection.execute(_SUPPRESSIONS, parameters).scalars())
