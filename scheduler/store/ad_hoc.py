"""Messages that were asked for once: written for the users chosen then, listed and counted.

Each request is an occasion of kind `ad_hoc`, so that identity, batches, texts, retries and rules of contact are those
of any message. Who gets it is decided once, by the statement that writes the messages: who is added or begins to
match later gets nothing. What an edit of a user does to them stands in `ad_hoc_edits`.

Limits: how many messages of a large send are in which state is known from the counters of its batches, which know
nothing of what was taken back or reported later; one of up to `COUNTED_BY_MESSAGE` is counted message by message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from scheduler.domain.calendar import Moment
from scheduler.domain.message import MessageKey, MessageState
from scheduler.domain.occasion import Occasion
from scheduler.store import occasions
from scheduler.store.message_keys import key_of
from scheduler.store.planning import (
    REACHABLE,
    OccasionMoment,
    Planned,
    moment_parameters,
    plan_statement,
)

COUNTED_BY_MESSAGE: Final = 20_000
"""Up to here the messages of a send are counted one by one."""

_CONDITIONS: Final[Mapping[str, str]] = {
    "user_ids": "u.id = ANY(CAST(:user_ids AS bigint[]))",
    "timezone": "u.timezone = :wanted_timezone",
    "date_name": """u.id IN (
        SELECT d.user_id FROM user_dates d WHERE d.tenant_id = :tenant_id AND d.name = :wanted_date
          AND (cardinality(CAST(:wanted_days AS smallint[])) = 0
               OR d.month_day = ANY(CAST(:wanted_days AS smallint[]))))""",
    "attributes": "u.attributes @> CAST(:wanted_attributes AS jsonb)",
}

_KNOWN: Final = text("""
SELECT id, external_id FROM users
WHERE tenant_id = :tenant_id
  AND (id = ANY(CAST(:user_ids AS bigint[])) OR external_id = ANY(CAST(:external_ids AS text[])))""")

_NOTE: Final = text("UPDATE occasions SET rule = rule || CAST(:facts AS jsonb) WHERE id = :id")

_PAGE: Final = text("""
SELECT id, created_at, rule FROM occasions
WHERE tenant_id = :tenant_id AND kind = 'ad_hoc' AND id < CAST(:before AS bigint) ORDER BY id DESC LIMIT :most""")

_FIND: Final = text("""
SELECT id, created_at, rule FROM occasions WHERE tenant_id = :tenant_id AND kind = 'ad_hoc' AND id = :id""")

# A message that was moved or put off has several tickets: it is counted once.
_TICKETED: Final = """
    SELECT DISTINCT l.user_id, l.local_date, l.slot, l.channel, l.state
    FROM batches b
    JOIN message_log l ON l.user_id = ANY(b.user_ids) AND l.local_date = b.local_date
        AND l.occasion_id = b.occasion_id AND l.slot = b.slot AND l.channel = b.channel
    WHERE b.occasion_id = :id AND b.attempt = 0 AND l.local_date BETWEEN :date_first AND :date_last"""

_STATES: Final = text(f"""
SELECT CAST(state AS text) AS state, count(*) AS messages FROM ({_TICKETED}) AS sent GROUP BY state""")

_COUNTERS: Final = text("""
SELECT coalesce(sum(sent_count), 0) AS sent, coalesce(sum(dead_count), 0) AS dead,
       coalesce(sum(expired_count), 0) AS expired, coalesce(sum(cancelled_count), 0) AS cancelled
FROM batches WHERE occasion_id = :id""")

_KEYS: Final = text("""
SELECT DISTINCT user_id, b.occasion_id, b.local_date, b.slot, CAST(b.channel AS text) AS channel
FROM batches b CROSS JOIN LATERAL unnest(b.user_ids) AS user_id
WHERE b.occasion_id = :id AND b.attempt = 0 ORDER BY user_id, channel LIMIT :most""")


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a send is for: the users of whom all that is given holds; None: any."""

    user_ids: Sequence[int] | None = None
    timezone: str | None = None
    date_name: str | None = None
    month_days: Sequence[int] = ()
    """Which days (MMDD) the named date may have; none: any."""
    attributes: Mapping[str, Any] | None = None

    @property
    def description(self) -> dict[str, Any]:
        """For people to read later; who is meant and the values of attributes are not kept."""
        return {
            "users": None if self.user_ids is None else len(self.user_ids),
            "timezone": self.timezone,
            "date": self.date_name,
            "month_days": list(self.month_days),
            "attributes": sorted(self.attributes or ()),
        }


@dataclass(frozen=True, slots=True)
class SendFacts:
    """What a request to send came to. `skipped` and `unreachable` count messages that were not written.

    `skipped`: the local time does not exist, or was past, where the user lives; `unreachable`: no address.
    """

    users: int
    messages: int
    skipped: int
    unreachable: int
    first_date: date | None
    last_date: date | None
    audience: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredSend:
    """A request to send, as kept."""

    occasion: Occasion
    created_at: datetime
    facts: SendFacts


@dataclass(frozen=True, slots=True)
class SendCounts:
    """Messages of a send by state; not `exact`: by the counters of its batches, all else as `scheduled`."""

    states: Mapping[str, int]
    exact: bool


def known_users(
    connection: Connection, tenant_id: int, user_ids: Sequence[int], external_ids: Sequence[str]
) -> dict[int, str]:
    """The users of these ids or external ids that there are: external ids by id."""
    parameters = {"tenant_id": tenant_id, "user_ids": list(user_ids), "external_ids": list(external_ids)}
    return {row.id: row.external_id for row in connection.execute(_KNOWN, parameters)}


def users_by_zone(connection: Connection, tenant_id: int, audience: Audience) -> dict[str, int]:
    """How many users are meant, by the zone they live in."""
    names, parameters = _given(tenant_id, audience)
    return {row.timezone: row.users for row in connection.execute(_count_statement(names), parameters)}


def plan(
    connection: Connection,
    occasion: Occasion,
    audience: Audience,
    moments: Sequence[Moment],
    *,
    now: datetime,
    batch_size: int,
) -> Planned:
    """Write the messages that fall due at `moments`, and their batches."""
    names, parameters = _given(occasion.tenant_id, audience)
    parameters |= moment_parameters([OccasionMoment(occasion, moment) for moment in moments])
    parameters |= {
        "channels": [channel.value for channel in occasion.channels],
        "zones": sorted({moment.timezone for moment in moments}),
        "batch_size": batch_size,
        "now": now,
    }
    row = connection.execute(_plan_statement(names), parameters).one()
    return Planned(added=row.added, already_there=row.candidates - row.added, batches=row.batches)


def note(connection: Connection, occasion: Occasion, facts: SendFacts) -> None:
    """Keep what a request came to beside its rule."""
    stored = {
        "users": facts.users,
        "messages": facts.messages,
        "skipped": facts.skipped,
        "unreachable": facts.unreachable,
        "first_date": None if facts.first_date is None else facts.first_date.isoformat(),
        "last_date": None if facts.last_date is None else facts.last_date.isoformat(),
        "audience": dict(facts.audience),
    }
    connection.execute(_NOTE, {"id": occasion.id, "facts": json.dumps(stored)})


def page(connection: Connection, tenant_id: int, *, before: int, most: int) -> list[StoredSend]:
    """Up to `most` requests to send with ids under `before`, the newest first."""
    rows = connection.execute(_PAGE, {"tenant_id": tenant_id, "before": before, "most": most}).all()
    return _stored(connection, rows)


def find(connection: Connection, tenant_id: int, send_id: int) -> StoredSend | None:
    """A request to send by its id."""
    rows = connection.execute(_FIND, {"tenant_id": tenant_id, "id": send_id}).all()
    return _stored(connection, rows)[0] if rows else None


def keys(connection: Connection, send_id: int, *, most: int) -> list[MessageKey]:
    """Up to `most` messages of a send, by user."""
    rows = connection.execute(_KEYS, {"id": send_id, "most": most})
    return [key_of(row) for row in rows]


def user_ids(connection: Connection, send: StoredSend, *, most: int) -> list[int] | None:
    """Who is sent the messages, by id; None: more than `most` messages, or it is not known of all any more."""
    if send.facts.messages > most:
        return None
    found = keys(connection, send.occasion.id, most=most + 1)
    return sorted({key.user_id for key in found}) if len(found) == send.facts.messages else None


def counts(connection: Connection, send: StoredSend) -> SendCounts:
    """How many of its messages are in which state."""
    facts = send.facts
    if facts.first_date is None:
        return SendCounts({}, exact=True)
    if facts.messages <= COUNTED_BY_MESSAGE:
        parameters = {
            "id": send.occasion.id,
            "date_first": facts.first_date,
            "date_last": facts.last_date,
        }
        rows = connection.execute(_STATES, parameters)
        return SendCounts({row.state: row.messages for row in rows}, exact=True)
    row = connection.execute(_COUNTERS, {"id": send.occasion.id}).mappings().one()
    ended = {name: int(number) for name, number in row.items()}
    waiting = max(0, facts.messages - sum(ended.values()))
    found = {MessageState.SCHEDULED.value: waiting, **ended}
    return SendCounts({state: number for state, number in found.items() if number}, exact=False)


def _given(tenant_id: int, audience: Audience) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the conditions that are set, and what the statements are given."""
    names = tuple(name for name in _CONDITIONS if getattr(audience, name) is not None)
    return names, {
        "tenant_id": tenant_id,
        "user_ids": list(audience.user_ids or ()),
        "wanted_timezone": audience.timezone,
        "wanted_date": audience.date_name,
        "wanted_days": list(audience.month_days),
        "wanted_attributes": json.dumps(audience.attributes),
    }


def _meant(names: Sequence[str]) -> str:
    return " AND ".join(["u.tenant_id = :tenant_id", *(_CONDITIONS[name] for name in names)])


@cache
def _count_statement(names: tuple[str, ...]) -> TextClause:
    return text(f"SELECT u.timezone, count(*) AS users FROM users u WHERE {_meant(names)} GROUP BY 1")


@cache
def _plan_statement(names: tuple[str, ...]) -> TextClause:
    return text(
        plan_statement(f"""
    SELECT u.id AS user_id, u.version AS user_version, u.tenant_id, channel, m.*
    FROM users u
    JOIN moments m ON m.timezone = u.timezone
    CROSS JOIN unnest(CAST(:channels AS channel[])) AS channel
    WHERE {_meant(names)} AND u.timezone = ANY(CAST(:zones AS text[])) AND {REACHABLE}""")
    )


def _stored(connection: Connection, rows: Sequence[Any]) -> list[StoredSend]:
    found = occasions.by_id(connection, [row.id for row in rows])
    return [StoredSend(found[row.id], row.created_at, _facts(row.rule)) for row in rows]


def _facts(rule: Mapping[str, Any]) -> SendFacts:
    first, last = rule["first_date"], rule["last_date"]
    return SendFacts(
        users=rule["users"],
        messages=rule["messages"],
        skipped=rule["skipped"],
        unreachable=rule["unreachable"],
        first_date=None if first is None else date.fromisoformat(first),
        last_date=None if last is None else date.fromisoformat(last),
        audience=rule["audience"],
    )
