"""Read the message log for people: a page of it, or one message with what failed on its way.

A page follows the primary key, partition by partition, so that it costs what it shows, wherever it
begins and however long the log is. Only users narrow what is read; the other filters are applied
to what is read, at most `ROWS_EXAMINED` rows of a partition and `PARTITIONS_EXAMINED` partitions at a
time. So a page with rare matches may be short, even empty, and still name a position to go on from:
only a page without one is the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Row, TextClause, text

from scheduler.domain.message import MessageKey, MessageState
from scheduler.domain.occasion import Channel

ROWS_EXAMINED: Final = 10_000
PARTITIONS_EXAMINED: Final = 12

# How far the local date of a message may lie from its send time: zones, and quiet hours that put it off repeatedly.
_DATES_BEHIND: Final = timedelta(days=31)
_DATES_AHEAD: Final = timedelta(days=1)

_KEY: Final = "user_id, local_date, occasion_id, slot, channel"

_COLUMNS: Final = f"""{_KEY}, state, send_at, accepted_at, attempt, timezone, date_rule, time_rule, year, reason,
    user_version, batch_id"""

_OF_KEY: Final = """
    tenant_id = :tenant_id AND user_id = :user_id AND local_date = :local_date AND occasion_id = :occasion_id
    AND slot = :slot AND channel = CAST(:channel AS channel)"""

# The catalogue knows which local dates each partition holds: from the first up to and without the second.
_PARTITIONS: Final = text(r"""
SELECT CAST(bounds[1] AS date) AS starts, CAST(bounds[2] AS date) AS ends
FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid
CROSS JOIN LATERAL regexp_match(
    pg_get_expr(child.relpartbound, child.oid), 'FROM \(''([-0-9]+)''\) TO \(''([-0-9]+)''\)') AS bounds
WHERE inhparent = 'message_log'::regclass
ORDER BY starts""")

_ONE: Final = text(f"SELECT {_COLUMNS} FROM message_log WHERE {_OF_KEY}")

_ATTEMPTS: Final = text(f"""
SELECT attempt, failed_at, provider, kind, category, detail, batch_id FROM delivery_attempts
WHERE {_OF_KEY} ORDER BY id""")

_DEAD_LETTER: Final = text(f"""
SELECT id, attempt, died_at, category, detail, discarded_at, discard_reason FROM dead_letters WHERE {_OF_KEY}""")

_LARGEST_USER_ID: Final = 2**63 - 1
_LARGEST_OCCASION_ID: Final = 2**31 - 1
_LARGEST_SLOT: Final = 2**15 - 1

_CONDITIONS: Final[Mapping[str, str]] = {
    "occasion_id": "occasion_id = :occasion_id",
    "channel": "channel = CAST(:channel AS channel)",
    "state": "state = CAST(:state AS message_state)",
    "reason": "reason = :reason",
    "send_from": "send_at >= :send_from",
    "send_until": "send_at < :send_until",
    "local_date_first": "local_date >= :local_date_first",
    "local_date_last": "local_date <= :local_date_last",
}


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the log has it."""

    key: MessageKey
    state: MessageState
    send_at: datetime
    accepted_at: datetime | None
    attempt: int
    timezone: str
    date_rule: str
    time_rule: str
    year: int | None
    reason: str | None
    user_version: int
    batch_id: int | None


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """An attempt that failed."""

    attempt: int
    failed_at: datetime
    provider: str
    kind: str
    category: str
    detail: str
    batch_id: int


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """Why a message is not tried again by itself, and whether that is for good."""

    id: int
    attempt: int
    died_at: datetime
    category: str
    detail: str
    discarded_at: datetime | None
    discard_reason: str | None


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """A message, the attempts that failed in their order, and its dead letter if it has one."""

    message: StoredMessage
    attempts: Sequence[StoredAttempt]
    dead_letter: StoredDeadLetter | None


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages to show; None: any. Both local dates are included, `send_until` is not.

    `user_ids`: of these users, if `user_id` does not name one; some thousand at most.
    `reason`: why it ended, such as `too_late`, or the category of its dead letter, such as `http_503`.
    """

    user_id: int | None = None
    user_ids: Sequence[int] | None = None
    occasion_id: int | None = None
    channel: Channel | None = None
    state: MessageState | None = None
    reason: str | None = None
    send_from: datetime | None = None
    send_until: datetime | None = None
    local_date_first: date | None = None
    local_date_last: date | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: after the message `after` of the partition that starts at `starts`, or at its start."""

    starts: date
    after: MessageKey | None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages, and where the next page begins; None: there is none."""

    messages: Sequence[StoredMessage]
    next: Position | None


def page(
    connection: Connection, tenant_id: int, wanted: MessageFilter, *, position: Position | None, most: int
) -> MessagePage:
    """Up to `most` messages from `position` on; it may hold fewer although there are more."""
    found: list[StoredMessage] = []
    partitions = _partitions(connection, wanted, position)
    for starts, ends in partitions[:PARTITIONS_EXAMINED]:
        after = position.after if position is not None and position.starts == starts else None
        read = _read(connection, tenant_id, wanted, starts, ends, after, most - len(found) + 1)
        found += read.messages
        if len(found) > most:
            return MessagePage(found[:most], Position(starts, found[most - 1].key))
        if read.next is not None:
            return MessagePage(found, read.next)
    beyond = partitions[PARTITIONS_EXAMINED:]
    return MessagePage(found, Position(beyond[0][0], None) if beyond else None)


def find(connection: Connection, tenant_id: int, key: MessageKey) -> MessageHistory | None:
    """One message with its history."""
    if key.user_id > _LARGEST_USER_ID or key.occasion_id > _LARGEST_OCCASION_ID or key.slot > _LARGEST_SLOT:
        return None
    parameters = {
        "tenant_id": tenant_id,
        "user_id": key.user_id,
        "local_date": key.local_date,
        "occasion_id": key.occasion_id,
        "slot": key.slot,
        "channel": key.channel.value,
    }
    row = connection.execute(_ONE, parameters).one_or_none()
    if row is None:
        return None
    dead = connection.execute(_DEAD_LETTER, parameters).one_or_none()
    return MessageHistory(
        _message(row),
        [StoredAttempt(*attempt) for attempt in connection.execute(_ATTEMPTS, parameters)],
        None if dead is None else StoredDeadLetter(*dead),
    )


def _partitions(
    connection: Connection, wanted: MessageFilter, position: Position | None
) -> list[tuple[date, date]]:
    """The partitions that may hold what is wanted, in order, from the position's on."""
    first, last = wanted.local_date_first or date.min, wanted.local_date_last or date.max
    if wanted.send_from is not None:
        first = max(first, (wanted.send_from - _DATES_BEHIND).date())
    if wanted.send_until is not None:
        last = min(last, (wanted.send_until + _DATES_AHEAD).date())
    return [
        (row.starts, row.ends)
        for row in connection.execute(_PARTITIONS)
        if row.ends > first and row.starts <= last and (position is None or row.starts >= position.starts)
    ]


def _read(
    connection: Connection,
    tenant_id: int,
    wanted: MessageFilter,
    starts: date,
    ends: date,
    after: MessageKey | None,
    most: int,
) -> MessagePage:
    """Up to `most` matches of one partition; `next` where the reading ended before the partition did."""
    statement, parameters = _scan(tenant_id, wanted, after)
    parameters |= {"starts": starts, "ends": ends, "most": most, "examined": ROWS_EXAMINED}
    rows = connection.execute(statement, parameters).all()
    messages = [_message(row) for row in rows if row.matches]
    cut_short = bool(rows) and rows[-1].ordinal == ROWS_EXAMINED
    return MessagePage(messages, Position(starts, _key(rows[-1])) if cut_short else None)


def _scan(
    tenant_id: int, wanted: MessageFilter, after: MessageKey | None
) -> tuple[TextClause, dict[str, Any]]:
    """The statement that reads a partition for this filter, and what it is given."""
    given = {name: value for name in _CONDITIONS if (value := getattr(wanted, name)) is not None}
    parameters = given | {"tenant_id": tenant_id}
    users = [wanted.user_id] if wanted.user_id is not None else wanted.user_ids
    if users is not None:
        parameters["user_ids"] = list(users)
    if after is not None:
        parameters |= {
            "after_user_id": after.user_id,
            "after_local_date": after.local_date,
            "after_occasion_id": after.occasion_id,
            "after_slot": after.slot,
            "after_channel": after.channel.value,
        }
    return _scan_statement(tuple(given), users is not None, after is not None), parameters


@cache
def _scan_statement(filters: tuple[str, ...], of_users: bool, continues: bool) -> TextClause:
    matches = " AND ".join(["tenant_id = :tenant_id", *(_CONDITIONS[name] for name in filters)])
    narrowed = " AND user_id = ANY(CAST(:user_ids AS bigint[]))" if of_users else ""
    if continues:
        narrowed += f""" AND ({_KEY}) > (CAST(:after_user_id AS bigint), CAST(:after_local_date AS date),
              CAST(:after_occasion_id AS integer), CAST(:after_slot AS smallint), CAST(:after_channel AS channel))"""
    return text(f"""
SELECT {_COLUMNS}, ordinal, matches
FROM (
    SELECT *, {matches} AS matches
    FROM (
        SELECT *, row_number() OVER (ORDER BY {_KEY}) AS ordinal
        FROM message_log
        WHERE local_date >= :starts AND local_date < :ends{narrowed}
        ORDER BY {_KEY} LIMIT :examined
    ) AS examined
) AS compared
WHERE matches OR ordinal = :examined
LIMIT :most""")


def _key(row: Row[Any]) -> MessageKey:
    return MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel))


def _message(row: Row[Any]) -> StoredMessage:
    return StoredMessage(
        key=_key(row),
        state=MessageState(row.state),
        send_at=row.send_at,
        accepted_at=row.accepted_at,
        attempt=row.attempt,
        timezone=row.timezone,
        date_rule=row.date_rule,
        time_rule=row.time_rule,
        year=row.year,
        reason=row.reason,
        user_version=row.user_version,
        batch_id=row.batch_id,
    )
