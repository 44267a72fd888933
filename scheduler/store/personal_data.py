"""All that is stored of one person, table by table, as the tables have it: a new column is told without a change here.

Only `audit_log` is read elsewhere. Rows are told whole but for their tenant; instants are in RFC 3339, in UTC. Messages
have their ids beside, and their attempts as the API shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, TextClause, text

from scheduler.domain.message import MessageState
from scheduler.domain.occasion import Channel
from scheduler.store import message_attempts
from scheduler.store.message_attempts import Tried
from scheduler.store.message_keys import key_of

_SAME_MESSAGE: Final = """
    t.user_id = l.user_id AND t.local_date = l.local_date AND t.occasion_id = l.occasion_id AND t.slot = l.slot
    AND t.channel = l.channel"""

_MESSAGES: Final = text(f"""
SELECT l.user_id, l.local_date, l.occasion_id, l.slot, CAST(l.channel AS text) AS channel,
    CAST(l.state AS text) AS state, l.accepted_at, l.attempt, l.batch_id,
    to_jsonb(l) - 'tenant_id' || jsonb_build_object(
    'occasion', o.key,
    'delivery_events', coalesce((
        SELECT jsonb_agg(to_jsonb(t) - 'tenant_id' ORDER BY t.id)
        FROM delivery_events t WHERE {_SAME_MESSAGE}), '[]')) AS told
FROM message_log l LEFT JOIN occasions o ON o.id = l.occasion_id
WHERE l.user_id = :user_id AND l.tenant_id = :tenant_id
ORDER BY l.local_date, l.occasion_id, l.slot, l.channel""")


def _rows_of(table: str) -> TextClause:
    return text(f"""
SELECT to_jsonb(t) - 'tenant_id' FROM {table} t
WHERE t.user_id = :user_id AND t.tenant_id = :tenant_id ORDER BY to_jsonb(t) ->> 'created_at', to_jsonb(t) ->> 'id'""")


_TABLES: Final[Mapping[str, TextClause]] = {
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
    found = {"messages": _messages(connection, tenant_id, user_id)}
    for name, statement in _TABLES.items():
        found[name] = _told(connection.execute(statement, parameters).scalars())
    found["sends"] = _told(connection.execute(_SENDS_TO_ONE, parameters).scalars())
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
    return _told(connection.execute(_SUPPRESSIONS, parameters).scalars())


def _messages(connection: Connection, tenant_id: int, user_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(_MESSAGES, {"tenant_id": tenant_id, "user_id": user_id}).all()
    tried = [_tried(row) for row in rows]
    attempts = message_attempts.of_user(connection, tenant_id, user_id, tried)
    told = _told(row.told for row in rows)
    for message, each in zip(told, tried, strict=True):
        message["delivery_events"] = _told(message["delivery_events"])
        message |= {"id": each.key.text, "attempts": [asdict(attempt) for attempt in attempts[each.key]]}
    return told


def _tried(row: Row[Any]) -> Tried:
    return Tried(key_of(row), MessageState(row.state), row.accepted_at, row.attempt, row.batch_id)


def _told(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their instants as such, to be written as all others are: PostgreSQL has another way in JSON."""
    return [{name: _value(name, value) for name, value in row.items()} for row in rows]


def _value(name: str, value: Any) -> Any:
    is_instant = name.endswith("_at") or name in ("planned_through", "ahead_through", "replan_from")
    if is_instant and isinstance(value, str) and value.endswith("+00:00"):
        return datetime.fromisoformat(value)
    return value
