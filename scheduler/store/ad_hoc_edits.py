"""What was sent ad hoc to users who are edited: nothing is taken from them, and what goes by their clock moves.

Each message says for which version of its user it was written. Edits look for those of older versions, and so does
a worker that claims one: what was being written while its user was edited is found then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.calendar import Moment, ad_hoc_moments
from scheduler.domain.local_time import TimeRule
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import AdHocRule
from scheduler.store import occasions
from scheduler.store.message_keys import key_of
from scheduler.store.planning import BATCHES, MESSAGE_KEY, Replanned

# What is not of the planned occasions is ad hoc. Edits lock their users first, then messages, as everybody does.
_OUTDATED: Final = text("""
SELECT l.user_id, l.local_date, l.occasion_id, l.slot, CAST(l.channel AS text) AS channel, l.send_at,
       CAST(l.time_rule AS text) AS time_rule, l.timezone AS planned_timezone, u.timezone, u.version
FROM message_log l JOIN users u ON u.id = l.user_id
WHERE l.user_id = ANY(CAST(:user_ids AS bigint[])) AND l.local_date >= :date_first
  AND l.occasion_id <> ALL(CAST(:planned_ids AS integer[])) AND l.state = 'scheduled' AND l.user_version <> u.version
FOR UPDATE OF l""")

_FOLLOW: Final = text(f"""
WITH edited AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
        CAST(:slots AS smallint[]), CAST(:channels AS channel[]), CAST(:send_ats AS timestamptz[]),
        CAST(:time_rules AS time_rule[]), CAST(:timezones AS text[]), CAST(:versions AS integer[]),
        CAST(:moved AS boolean[])
    ) AS edited (user_id, local_date, occasion_id, slot, channel, send_at, time_rule, timezone, version, moved)
),
written AS (
    INSERT INTO message_log AS l (
        user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version, date_rule, time_rule,
        slot, attempt, year, timezone)
    SELECT user_id, send_at, occasion_id, local_date, channel, :tenant_id, 'scheduled', version, 'exact', time_rule,
           slot, 0, NULL, timezone
    FROM edited ORDER BY send_at, local_date, slot, channel, user_id
    ON CONFLICT {MESSAGE_KEY} DO UPDATE
    SET send_at = excluded.send_at, user_version = excluded.user_version, time_rule = excluded.time_rule,
        timezone = excluded.timezone
    WHERE l.state = 'scheduled'
    RETURNING l.tenant_id, l.occasion_id, l.local_date, l.slot, l.channel, l.send_at, l.user_id
),
fresh AS (
    SELECT w.* FROM written w JOIN edited e USING {MESSAGE_KEY} WHERE e.moved
),
{BATCHES}
SELECT w.user_id, count(*) FILTER (WHERE e.moved) AS moved, count(*) FILTER (WHERE NOT e.moved) AS kept
FROM written w JOIN edited e USING {MESSAGE_KEY}
GROUP BY w.user_id""")


@dataclass(frozen=True, slots=True)
class _Outdated:
    """A scheduled message that was written for its user as they were before an edit; where they live now."""

    key: MessageKey
    send_at: datetime
    time_rule: str
    planned_timezone: str
    timezone: str
    version: int


def follow(
    connection: Connection,
    tenant_id: int,
    user_ids: Sequence[int],
    planned_ids: Sequence[int],
    *,
    date_first: date,
    now: datetime,
    batch_size: int,
) -> dict[int, Replanned]:
    """Move what was sent ad hoc to users who were edited, where it falls due by their clock and they moved.

    `planned_ids` are all other occasions of their tenant. What is past in the new zone falls due at `now`, what was
    due already stays so. Looked at is what has a local date from `date_first` on. Returns what changed, by user.
    """
    found = _outdated(connection, user_ids, planned_ids, date_first)
    if not found:
        return {}
    resolved = _resolved(connection, found)
    dues = [_due(each, resolved.get((each.key.occasion_id, each.timezone)), now) for each in found]
    rows = connection.execute(
        _FOLLOW,
        {
            "tenant_id": tenant_id,
            "user_ids": [each.key.user_id for each in found],
            "local_dates": [each.key.local_date for each in found],
            "occasion_ids": [each.key.occasion_id for each in found],
            "slots": [each.key.slot for each in found],
            "channels": [each.key.channel.value for each in found],
            "send_ats": [send_at for send_at, _ in dues],
            "time_rules": [time_rule for _, time_rule in dues],
            "timezones": [each.timezone for each in found],
            "versions": [each.version for each in found],
            "moved": [send_at != each.send_at for each, (send_at, _) in zip(found, dues, strict=True)],
            "batch_size": batch_size,
            "now": now,
        },
    )
    return {row.user_id: Replanned(moved=row.moved, kept=row.kept) for row in rows}


def _outdated(
    connection: Connection, user_ids: Sequence[int], planned_ids: Sequence[int], date_first: date
) -> list[_Outdated]:
    """Lock and read what is older than its user."""
    parameters = {"user_ids": list(user_ids), "planned_ids": list(planned_ids), "date_first": date_first}
    return [
        _Outdated(
            key_of(row),
            row.send_at,
            row.time_rule,
            row.planned_timezone,
            row.timezone,
            row.version,
        )
        for row in connection.execute(_OUTDATED, parameters)
    ]


def _resolved(connection: Connection, found: Sequence[_Outdated]) -> dict[tuple[int, str], Moment]:
    """By occasion and zone: when it falls due there, for what goes by the users' clocks."""
    zones: dict[int, set[str]] = defaultdict(set)
    for each in found:
        if each.timezone != each.planned_timezone:
            zones[each.key.occasion_id].add(each.timezone)
    moved = occasions.by_id(connection, sorted(zones)) if zones else {}
    return {
        (occasion.id, moment.timezone): moment
        for occasion in moved.values()
        if isinstance(occasion.rule, AdHocRule) and occasion.rule.is_local
        for moment in ad_hoc_moments(occasion, occasion.rule, sorted(zones[occasion.id]))
    }


def _due(message: _Outdated, moment: Moment | None, now: datetime) -> tuple[datetime, str]:
    """When a message falls due after the edit, and by which rule; as before where `moment` is None."""
    if moment is None or message.send_at <= now >= moment.send_at:
        return message.send_at, message.time_rule
    if moment.send_at > now:
        return moment.send_at, moment.time_rule.value
    return now, TimeRule.SAME_DAY.value
