"""Occasions and their watermarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date, datetime, time
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from scheduler.domain.local_time import GapPolicy, OverlapPolicy
from scheduler.domain.occasion import (
    AdHocRule,
    Channel,
    FixedRule,
    LeapDayPolicy,
    MessageText,
    Occasion,
    OccasionKind,
    OnceRule,
    Priority,
    RecurrenceRule,
    Rule,
    SameDayPolicy,
    YearlyRule,
)
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.retry import RetryPolicy
from scheduler.store.direct import Answer, Call, Direct

_COLUMNS: Final = """
    id, tenant_id, key, name, kind, rule, local_times, honours_preferred_time,
    CAST(channels AS text[]) AS channels, priority, subject, body, gap, overlap, leap_day, same_day, lateness_limit,
    retry_max_attempts, retry_base_seconds, retry_cap_seconds, active, version, planned_through, html, translations,
    group_key, quiet_hours, paused_at, archived_at, replan_from, ahead_through"""

_INSERT: Final = text("""
INSERT INTO occasions
    (tenant_id, key, name, kind, rule, local_times, honours_preferred_time, channels, priority, subject, body, gap,
     overlap, leap_day, same_day, lateness_limit, retry_max_attempts, retry_base_seconds, retry_cap_seconds, active,
     version, planned_through, html, translations, group_key, quiet_hours, created_at, updated_at)
VALUES
    (:tenant_id, :key, :name, :kind, CAST(:rule AS jsonb), CAST(:local_times AS time[]), :honours_preferred_time,
     CAST(:channels AS channel[]), CAST(:priority AS priority), :subject, :body, :gap, :overlap, :leap_day, :same_day,
     :lateness_limit, :retry_max_attempts, :retry_base_seconds, :retry_cap_seconds, :active, 1, NULL, :html,
     CAST(:translations AS jsonb), :group_key, :quiet_hours, :now, :now)
RETURNING id""")

_UPDATE: Final = text("""
UPDATE occasions
SET name = :name, kind = :kind, rule = CAST(:rule AS jsonb), local_times = CAST(:local_times AS time[]),
    honours_preferred_time = :honours_preferred_time, channels = CAST(:channels AS channel[]),
    priority = CAST(:priority AS priority), subject = :subject, body = :body, gap = :gap, overlap = :overlap,
    leap_day = :leap_day, same_day = :same_day, lateness_limit = :lateness_limit,
    retry_max_attempts = :retry_max_attempts, retry_base_seconds = :retry_base_seconds,
    retry_cap_seconds = :retry_cap_seconds, active = :active, version = version + 1, updated_at = :now,
    html = :html, translations = CAST(:translations AS jsonb), group_key = :group_key, quiet_hours = :quiet_hours,
    paused_at = CASE WHEN :active THEN paused_at END, archived_at = :archived_at,
    replan_from = CASE WHEN :replans THEN coalesce(replan_from, :now) ELSE replan_from END,
    replan_after = CASE WHEN :replans THEN 0 ELSE replan_after END,
    planned_through = CASE WHEN occasions.active THEN planned_through ELSE :now END
WHERE id = :id AND version = :version""")

# What is sent ad hoc is kept as an occasion of its own, of which there may be very many.
_LIST: Final = text(
    f"SELECT {_COLUMNS} FROM occasions WHERE tenant_id = :tenant_id AND kind <> 'ad_hoc' ORDER BY id"
)
_READ: Final = text(f"SELECT {_COLUMNS} FROM occasions WHERE tenant_id = :tenant_id AND key = :key")
_BY_ID: Final = text(f"SELECT {_COLUMNS} FROM occasions WHERE id = ANY(CAST(:ids AS integer[]))")
_READ_BY_ID: Final = Direct(_BY_ID)
_ACTIVE: Final = text(f"SELECT {_COLUMNS} FROM occasions WHERE active ORDER BY id")
_ACTIVE_OF: Final = text(
    f"SELECT {_COLUMNS} FROM occasions WHERE active AND tenant_id = :tenant_id ORDER BY id"
)

_PAUSE: Final = text("""
UPDATE occasions SET paused_at = :paused_at, version = version + 1, updated_at = :now WHERE id = :id""")

# Whoever pauses or resumes it waits until the transaction ends.
_IS_PAUSED: Final = text("SELECT paused_at IS NOT NULL FROM occasions WHERE id = :id FOR SHARE")

_BEING_REPLANNED: Final = text(
    "SELECT tenant_id, id FROM occasions WHERE replan_from IS NOT NULL ORDER BY id"
)

_NEXT_TO_REPLAN: Final = text(
    f"SELECT {_COLUMNS}, replan_after FROM occasions WHERE id = :id AND replan_from IS NOT NULL FOR UPDATE"
)

_REPLANNED_THROUGH: Final = text("UPDATE occasions SET replan_after = :user_id WHERE id = :id")

_END_REPLANNING: Final = text("UPDATE occasions SET replan_from = NULL, replan_after = NULL WHERE id = :id")

_PAGE: Final = text(f"""
SELECT {_COLUMNS} FROM occasions
WHERE tenant_id = :tenant_id AND kind <> 'ad_hoc' AND id > :after
  AND (CAST(:active AS boolean) IS NULL OR active = :active)
  AND (CAST(:archived AS boolean) IS NULL OR archived_at IS NOT NULL = :archived)
  AND (CAST(:kind AS text) IS NULL OR kind = :kind)
  AND (CAST(:channel AS channel) IS NULL OR CAST(:channel AS channel) = ANY(channels))
ORDER BY id LIMIT :most""")

_HAS_PLANNED: Final = text("SELECT EXISTS (SELECT FROM batches WHERE occasion_id = :id)")

_DELETE: Final = text("DELETE FROM occasions WHERE id = :id")


def add(connection: Connection, occasion: Occasion, *, now: datetime) -> Occasion:
    """Store a new occasion (its `id` is ignored) and return it with the id it was given."""
    occasion_id = connection.execute(_INSERT, _parameters(occasion) | {"now": now}).scalar_one()
    return replace(occasion, id=occasion_id, version=1, planned_through=None)


def change(connection: Connection, occasion: Occasion, *, now: datetime, replans: bool = False) -> bool:
    """Store an edited occasion; False where somebody edited `occasion.version` first.

    The watermark of one that was not active moves to `now`: that was not downtime, and nothing of it is made up.
    `replans`: everyone is to be replanned as of `now`, or as of an earlier edit that is not replanned yet. One
    that is not active does not pause.
    """
    parameters = _parameters(occasion) | {
        "id": occasion.id,
        "version": occasion.version,
        "archived_at": occasion.archived_at,
        "replans": replans,
        "now": now,
    }
    return connection.execute(_UPDATE, parameters).rowcount == 1


def list_all(connection: Connection, tenant_id: int) -> list[Occasion]:
    """A tenant's occasions, oldest first, without what was sent ad hoc."""
    return [_occasion(row) for row in connection.execute(_LIST, {"tenant_id": tenant_id})]


def find(connection: Connection, tenant_id: int, key: str) -> Occasion | None:
    """A tenant's occasion by its key."""
    row = connection.execute(_READ, {"tenant_id": tenant_id, "key": key}).one_or_none()
    return None if row is None else _occasion(row)


def by_id(connection: Connection, occasion_ids: Sequence[int]) -> dict[int, Occasion]:
    """Occasions of any tenant by id; unknown ids are left out."""
    return {row.id: _occasion(row) for row in connection.execute(_BY_ID, {"ids": list(occasion_ids)})}


class OccasionReader:
    """Reads occasions as they are now; one that is as it was the last time is not made anew. Used by one thread."""

    def __init__(self) -> None:
        self._row: Any = None
        self._last: Occasion | None = None

    def read(self, answer: Answer, occasion_id: int) -> Occasion:
        """The occasion that `reading` has found. Raises LookupError where there is none."""
        if not answer.rows:
            raise LookupError(f"there is no occasion {occasion_id}")
        (row,) = answer.rows
        if self._last is None or row != self._row:
            self._row, self._last = row, _occasion(row)
        return self._last


def reading(occasion_id: int) -> Call:
    """What finds an occasion of any tenant, to be sent in company; see `OccasionReader`."""
    return Call(_READ_BY_ID, {"ids": [occasion_id]}, is_named=True)


def active(connection: Connection, tenant_id: int | None = None) -> list[Occasion]:
    """The occasions that send, of one tenant or of all."""
    if tenant_id is None:
        rows = connection.execute(_ACTIVE)
    else:
        rows = connection.execute(_ACTIVE_OF, {"tenant_id": tenant_id})
    return [_occasion(row) for row in rows]


def set_paused(
    connection: Connection, occasion_id: int, paused_at: datetime | None, *, now: datetime
) -> None:
    """Begin or end (None) a pause. The caller has excluded planning, and holds or releases its batches after it."""
    connection.execute(_PAUSE, {"id": occasion_id, "paused_at": paused_at, "now": now})


def is_paused(connection: Connection, occasion_id: int) -> bool:
    """Whether it pauses, and goes on to do so, or not to, until the transaction ends."""
    return bool(connection.execute(_IS_PAUSED, {"id": occasion_id}).scalar_one_or_none())


def being_replanned(connection: Connection) -> list[tuple[int, int]]:
    """Tenant and id of each occasion whose newest edit has not been replanned for everyone."""
    return [(row.tenant_id, row.id) for row in connection.execute(_BEING_REPLANNED)]


def next_to_replan(connection: Connection, occasion_id: int) -> tuple[Occasion, datetime, int] | None:
    """An occasion being replanned, as of when, and the id of the last user it is replanned for; None: it is done.

    Locked until the transaction ends.
    """
    row = connection.execute(_NEXT_TO_REPLAN, {"id": occasion_id}).one_or_none()
    return None if row is None else (_occasion(row), row.replan_from, row.replan_after)


def replanned_through(connection: Connection, occasion_id: int, user_id: int | None) -> None:
    """Note for whom an occasion is replanned: for users up to this id, or for everyone (None)."""
    if user_id is None:
        connection.execute(_END_REPLANNING, {"id": occasion_id})
    else:
        connection.execute(_REPLANNED_THROUGH, {"id": occasion_id, "user_id": user_id})


def page(
    connection: Connection,
    tenant_id: int,
    *,
    after: int,
    most: int,
    active: bool | None = None,
    archived: bool | None = None,
    kind: OccasionKind | None = None,
    channel: Channel | None = None,
) -> list[Occasion]:
    """Up to `most` occasions in order of id, from the first one after the id `after`; None: any."""
    parameters = {
        "tenant_id": tenant_id,
        "after": after,
        "most": most,
        "active": active,
        "archived": archived,
        "kind": None if kind is None else kind.value,
        "channel": None if channel is None else channel.value,
    }
    return [_occasion(row) for row in connection.execute(_PAGE, parameters)]


def has_planned(connection: Connection, occasion_id: int) -> bool:
    """Whether anything was ever planned of it, sent or not."""
    return bool(connection.execute(_HAS_PLANNED, {"id": occasion_id}).scalar_one())


def remove(connection: Connection, occasion_id: int) -> None:
    """Delete an occasion that has never planned anything. The caller has excluded planning."""
    connection.execute(_DELETE, {"id": occasion_id})


def _parameters(occasion: Occasion) -> dict[str, Any]:
    kind, rule = _rule_to_row(occasion.rule)
    retry = occasion.retry
    return {
        "tenant_id": occasion.tenant_id,
        "key": occasion.key,
        "name": occasion.name,
        "kind": kind.value,
        "rule": json.dumps(rule),
        "local_times": list(occasion.local_times),
        "honours_preferred_time": occasion.honours_preferred_time,
        "channels": [channel.value for channel in occasion.channels],
        "priority": occasion.priority.value,
        "subject": occasion.subject,
        "body": occasion.body,
        "gap": occasion.gap.value,
        "overlap": occasion.overlap.value,
        "leap_day": occasion.leap_day.value,
        "same_day": occasion.same_day.value,
        "lateness_limit": occasion.lateness_limit,
        "retry_max_attempts": retry.max_attempts if retry else None,
        "retry_base_seconds": retry.base_seconds if retry else None,
        "retry_cap_seconds": retry.cap_seconds if retry else None,
        "active": occasion.active,
        "html": occasion.html,
        "translations": json.dumps({tag: asdict(said) for tag, said in occasion.translations.items()}),
        "group_key": occasion.group,
        "quiet_hours": None if occasion.quiet_hours is None else str(occasion.quiet_hours),
    }


def _rule_to_row(rule: Rule) -> tuple[OccasionKind, dict[str, Any]]:
    match rule:
        case YearlyRule(date_name, offset_days):
            return OccasionKind.YEARLY, {"date_name": date_name, "offset_days": offset_days}
        case FixedRule(month, day):
            return OccasionKind.FIXED, {"month": month, "day": day}
        case RecurrenceRule(rrule, starts_on):
            return OccasionKind.RRULE, {"rrule": rrule, "starts_on": starts_on.isoformat()}
        case OnceRule(on):
            return OccasionKind.ONCE, {"on": on.isoformat()}
        case AdHocRule(at, expires_at):
            return OccasionKind.AD_HOC, {
                "at": at.isoformat(),
                "expires_at": None if expires_at is None else expires_at.isoformat(),
            }


def _rule_from_row(kind: str, rule: dict[str, Any]) -> Rule:
    match OccasionKind(kind):
        case OccasionKind.YEARLY:
            return YearlyRule(rule["date_name"], rule["offset_days"])
        case OccasionKind.FIXED:
            return FixedRule(rule["month"], rule["day"])
        case OccasionKind.RRULE:
            return RecurrenceRule(rule["rrule"], date.fromisoformat(rule["starts_on"]))
        case OccasionKind.ONCE:
            return OnceRule(date.fromisoformat(rule["on"]))
        case OccasionKind.AD_HOC:
            expires_at = rule["expires_at"]
            return AdHocRule(
                datetime.fromisoformat(rule["at"]),
                None if expires_at is None else datetime.fromisoformat(expires_at),
            )


def _occasion(row: Row[Any]) -> Occasion:
    local_times: list[time] = row.local_times
    planned_through: datetime | None = row.planned_through
    return Occasion(
        id=row.id,
        tenant_id=row.tenant_id,
        key=row.key,
        name=row.name,
        rule=_rule_from_row(row.kind, row.rule),
        local_times=tuple(local_times),
        honours_preferred_time=row.honours_preferred_time,
        channels=tuple(Channel(channel) for channel in row.channels),
        priority=Priority(row.priority),
        subject=row.subject,
        body=row.body,
        gap=GapPolicy(row.gap),
        overlap=OverlapPolicy(row.overlap),
        leap_day=LeapDayPolicy(row.leap_day),
        same_day=SameDayPolicy(row.same_day),
        lateness_limit=row.lateness_limit,
        retry=_retry_policy(row),
        active=row.active,
        version=row.version,
        planned_through=planned_through,
        html=row.html,
        translations={tag: MessageText(**said) for tag, said in row.translations.items()},
        group=row.group_key,
        quiet_hours=None if row.quiet_hours is None else QuietHours.parse(row.quiet_hours),
        paused_at=row.paused_at,
        archived_at=row.archived_at,
        replan_from=row.replan_from,
        ahead_through=row.ahead_through,
    )


def _retry_policy(row: Row[Any]) -> RetryPolicy | None:
    if row.retry_max_attempts is None:
        return None
    return RetryPolicy(row.retry_max_attempts, row.retry_base_seconds, row.retry_cap_seconds)
