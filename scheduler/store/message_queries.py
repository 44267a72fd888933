"""Read the message log for people: a page of it, or one message with its attempts.

A page follows the primary key, partition by partition, so that it costs what it shows, wherever it
begins and however long the log is. Only users narrow what is read, and that messages are dead, since each of
those has a dead letter; no index may name the state, as it changes in delivery. The other filters are applied
to what is read, `ROWS_EXAMINED` rows at a time, for a page at most `READS_CUT_SHORT` times as many, and
`PARTITIONS_EXAMINED` partitions. So a page with rare matches may be short, even empty, and still name a
position to go on from: only a page without one is the last.
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
from scheduler.store import message_attempts
from scheduler.store.message_attempts import StoredAttempt, Tried

ROWS_EXAMINED: Final = 10_000
READS_CUT_SHORT: Final = 10
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
    """A message, the attempts at it in their order, and its dead letter if it has one."""

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
    cut_short = 0
    for starts, ends in partitions[:PARTITIONS_EXAMINED]:
        here = position if position is not None and position.starts == starts else Position(starts, None)
        while True:
            wanting = most - len(found) + 1
            read = _read(connection, tenant_id, wanted, starts, ends, here.after, wanting)
            found += read.messages
            if len(found) > most:
                # One more than fits: where that is all of this read, the next page begins where it began.
                last = Position(starts, found[most - 1].key) if len(read.messages) > 1 else here
                return MessagePage(found[:most], last)
            if read.next is None:
                break
            here = read.next
            cut_short += 1
            if cut_short == READS_CUT_SHORT:
                return MessagePage(found, here)
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
    message = _message(row)
    tried = Tried(key, message.state, message.accepted_at, message.attempt, message.batch_id)
    return MessageHistory(
        message,
        message_attempts.of_message(connection, tenant_id, tried),
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
    source = _letters_statement if users is None and wanted.state is MessageState.DEAD else _scan_statement
    return source(tuple(given), users is not None, after is not None), parameters


@cache
def _scan_statement(filters: tuple[str, ...], of_users: bool, continues: bool) -> TextClause:
    narrowed = " AND user_id = ANY(CAST(:user_ids AS bigint[]))" if of_users else ""
    return text(f"""
SELECT {_COLUMNS}, ordinal, matches
FROM (
    SELECT *, {_matches(filters)} AS matches
    FROM (
        SELECT *, row_number() OVER (ORDER BY {_KEY}) AS ordinal
        FROM message_log
        WHERE local_date >= :starts AND local_date < :ends{narrowed}{_behind(continues)}
        ORDER BY {_KEY} LIMIT :examined
    ) AS examined
) AS compared
WHERE matches OR ordinal = :examined
LIMIT :most""")


@cache
def _letters_statement(filters: tuple[str, ...], _of_users: bool, continues: bool) -> TextClause:
    """The same by way of the dead letters, in the same order; those of other partitions are examined as well."""
    return text(f"""
SELECT {_COLUMNS}, ordinal, matches
FROM (
    SELECT {_KEY}, row_number() OVER (ORDER BY {_KEY}) AS ordinal
    FROM dead_letters
    WHERE tenant_id = :tenant_id{_behind(continues)}
    ORDER BY {_KEY} LIMIT :examined
) AS examined
LEFT JOIN LATERAL (
    SELECT l.*, {_matches(filters)} AS matches FROM message_log l
    WHERE l.user_id = examined.user_id AND l.local_date = examined.local_date
      AND l.occasion_id = examined.occasion_id AND l.slot = examined.slot AND l.channel = examined.channel
      AND l.local_date >= :starts AND l.local_date < :ends
    LIMIT 1
) AS log USING ({_KEY})
WHERE matches OR ordinal = :examined
ORDER BY ordinal LIMIT :most""")


def _matches(filters: Sequence[str]) -> str:
    return " AND ".join(["tenant_id = :tenant_id", *(_CONDITIONS[name] for name in filters)])


def _behind(continues: bool) -> str:
    """The condition that a page continues behind a key."""
    if not continues:
        return ""
    return f""" AND ({_KEY}) > (CAST(:after_user_id AS bigint), CAST(:after_local_date AS date),
              CAST(:after_occasion_id AS integer), CAST(:after_slot AS smallint), CAST(:after_channel AS channel))"""


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
