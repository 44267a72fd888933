"""Dead letters: find them, take them out for a replay, discard them.

A dead letter stands for one message that will not be tried again by itself. It is open until it is replayed,
which removes it (the attempts that failed stay), or discarded, which keeps it with the reason.

Lists and moves follow the instant of death, so the newest letters are shown first and the longest dead are replayed
first. Moves take what nobody else is moving at this moment: two operators at once share the work and do nothing twice.

A page costs what it shows, however many letters are open. Each criterion but the channel has an index in this order;
the others, where several are given, are compared with what is read, at most `LETTERS_EXAMINED` letters for a page. So a
page with rare matches may be short, even empty, and still name a place to go on from: only one without is the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, TextClause, text

from scheduler.domain.message import OUTCOME_UNKNOWN, MessageKey
from scheduler.domain.occasion import Channel

_COLUMNS: Final = """
    d.id, d.user_id, d.local_date, d.occasion_id, d.slot, CAST(d.channel AS text) AS channel, d.attempt, d.died_at,
    d.provider, d.category, d.detail, d.discarded_at, d.discard_reason"""

LETTERS_EXAMINED: Final = 10_000
"""So many letters at most are read for a page, and for each count that is shown beside it."""

_MOST_CATEGORIES: Final = 100

_CONDITIONS: Final[Mapping[str, str]] = {
    "ids": "id = ANY(CAST(:ids AS bigint[]))",
    "category": "category = :category",
    "occasion_id": "occasion_id = :occasion_id",
    "channel": "channel = CAST(:channel AS channel)",
    "user_id": "user_id = :user_id",
    "provider": "provider = :provider",
    "died_from": "died_at >= :died_from",
    "died_until": "died_at < :died_until",
}

# What an index narrows: these with whichever there is for the rest, and one of those, the likely narrowest first.
_NARROWING: Final = frozenset({"died_from", "died_until"})
_LEADING: Final = ("ids", "user_id", "occasion_id", "category", "provider")

_FIND: Final = text(f"SELECT {_COLUMNS} FROM dead_letters d WHERE tenant_id = :tenant_id AND id = :id")

_LOCK: Final = text(f"""
SELECT {_COLUMNS} FROM dead_letters d WHERE tenant_id = :tenant_id AND id = :id FOR UPDATE""")

# As the ids are given out, also to letters that are not there yet: what tenants have is not looked at.
_NEWEST: Final = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dead_letters_id_seq")

_REMOVE: Final = text("DELETE FROM dead_letters WHERE id = ANY(CAST(:ids AS bigint[]))")

_DISCARD: Final = text("""
UPDATE dead_letters SET discarded_at = :now, discard_reason = :reason
WHERE id = ANY(CAST(:ids AS bigint[])) AND discarded_at IS NULL""")

# Batches follow each other by as much time as their messages take at the chosen rate. What they carry is late
# from the instant at which they fall due: a slow replay lets nothing expire.
_ADD_BATCHES: Final = text("""
WITH grouped AS (
    SELECT r.occasion_id, r.local_date, r.slot, r.channel, r.attempt, array_agg(r.user_id ORDER BY r.user_id) AS users
    FROM unnest(CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
                CAST(:slots AS smallint[]), CAST(:channels AS channel[]), CAST(:attempts AS smallint[]))
        AS r (user_id, local_date, occasion_id, slot, channel, attempt)
    GROUP BY r.occasion_id, r.local_date, r.slot, r.channel, r.attempt
),
sliced AS (
    SELECT g.*, g.users[first : first + :batch_size - 1] AS user_ids
    FROM grouped g CROSS JOIN LATERAL generate_series(1, cardinality(g.users), :batch_size) AS first
),
placed AS (
    SELECT s.*, sum(cardinality(user_ids)) OVER (
        ORDER BY local_date, occasion_id, slot, channel, attempt, user_ids ROWS UNBOUNDED PRECEDING
    ) - cardinality(user_ids) AS earlier
    FROM sliced s
),
timed AS (
    SELECT p.*, CAST(:starts AS timestamptz)
        + CAST((:messages_before + p.earlier) / CAST(:messages_per_second AS double precision) AS double precision)
        * interval '1 second' AS due_at
    FROM placed p
)
INSERT INTO batches
    (tenant_id, occasion_id, local_date, slot, channel, priority, send_at, due_at, attempt, max_attempts, user_ids,
     state, lease_token, sent_count, retried_count, dead_count, expired_count, cancelled_count, created_at)
SELECT o.tenant_id, t.occasion_id, t.local_date, t.slot, t.channel, o.priority, t.due_at, t.due_at, t.attempt,
       least(t.attempt + coalesce(o.retry_max_attempts, :max_attempts), 32767), t.user_ids, 'pending', 0, 0, 0, 0, 0, 0,
       :now
FROM timed t JOIN occasions o ON o.id = t.occasion_id
RETURNING due_at""")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is not tried again by itself, and why. An empty provider: none was asked, or it is not known."""

    id: int
    key: MessageKey
    attempt: int
    died_at: datetime
    provider: str
    category: str
    detail: str
    discarded_at: datetime | None
    discard_reason: str | None

    @property
    def place(self) -> Place:
        """Where it is in the list."""
        return Place(self.died_at, self.id)

    @property
    def outcome_unknown(self) -> bool:
        """Whether the provider may have accepted the message after all."""
        return self.category == OUTCOME_UNKNOWN


class Place(NamedTuple):
    """A place in the list: at the letter of this instant and id."""

    died_at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Letters, and behind which place the next page begins; None: there is none."""

    letters: list[DeadLetter]
    next: Place | None


@dataclass(frozen=True, slots=True)
class DeadLetterCounts:
    """How many letters there are of each category, the most frequent first; not exact: there may be more."""

    letters: dict[str, int]
    are_exact: bool


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are meant; None: any. `died_from` is included, `died_until` is not.

    Either the open ones or the discarded ones, never both.
    """

    ids: list[int] | None = None
    category: str | None = None
    occasion_id: int | None = None
    channel: Channel | None = None
    user_id: int | None = None
    provider: str | None = None
    died_from: datetime | None = None
    died_until: datetime | None = None
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """When replayed messages fall due: from `starts` on, so many a second, after those placed before."""

    starts: datetime
    messages_per_second: float
    messages_before: int
    batch_size: int


def page(
    connection: Connection, tenant_id: int, wanted: DeadLetterFilter, *, before: Place | None, most: int
) -> DeadLetterPage:
    """Up to `most` letters, the newest first; those behind the place `before`, where that is given.

    It may hold fewer although there are more.
    """
    names, parameters = _given(tenant_id, wanted)
    statement = _page_statement(names, wanted.discarded, before is not None)
    parameters |= {"examined": LETTERS_EXAMINED, "most": most + 1}
    if before is not None:
        parameters |= {"place_died_at": before.died_at, "place_id": before.id}
    rows = connection.execute(statement, parameters).all()
    found = [_letter(row) for row in rows if row.matches]
    if len(found) > most:
        return DeadLetterPage(found[:most], found[most - 1].place)
    cut_short = bool(rows) and rows[-1].ordinal == LETTERS_EXAMINED
    return DeadLetterPage(found, _letter(rows[-1]).place if cut_short else None)


def counts(connection: Connection, tenant_id: int, wanted: DeadLetterFilter) -> dict[str, int]:
    """How many letters there are of each category, the most frequent first. It reads them all."""
    names, parameters = _given(tenant_id, wanted)
    rows = connection.execute(_count_statement(names, wanted.discarded), parameters)
    return {row.category: row.letters for row in rows}


def bounded_counts(connection: Connection, tenant_id: int, wanted: DeadLetterFilter) -> DeadLetterCounts:
    """As `counts`, of the newest `LETTERS_EXAMINED` letters alone: of each category, or where there is a criterion
    with an index of its own, of those that have it.
    """
    names, parameters = _given(tenant_id, wanted)
    parameters["examined"] = LETTERS_EXAMINED
    rows = connection.execute(_bounded_count_statement(names, wanted.discarded), parameters).all()
    return DeadLetterCounts(
        {row.category: row.letters for row in rows if row.letters}, all(row.is_exact for row in rows)
    )


def find(connection: Connection, tenant_id: int, letter_id: int) -> DeadLetter | None:
    """A letter by id, open or discarded."""
    row = connection.execute(_FIND, {"tenant_id": tenant_id, "id": letter_id}).one_or_none()
    return None if row is None else _letter(row)


def lock(connection: Connection, tenant_id: int, letter_id: int) -> DeadLetter | None:
    """As `find`, and nobody else changes it until the transaction ends."""
    row = connection.execute(_LOCK, {"tenant_id": tenant_id, "id": letter_id}).one_or_none()
    return None if row is None else _letter(row)


def newest(connection: Connection) -> int:
    """The largest id that was given out, or zero: what dies from now on has a larger one."""
    return int(connection.execute(_NEWEST).scalar_one())


def take(
    connection: Connection,
    tenant_id: int,
    wanted: DeadLetterFilter,
    *,
    after: Place | None,
    through: int,
    most: int,
) -> list[DeadLetter]:
    """Lock up to `most` letters behind the place `after`, with ids up to `through`, in their order.

    Those that somebody else has locked are left out.
    """
    names, parameters = _given(tenant_id, wanted)
    parameters |= {"through": through, "most": most}
    if after is not None:
        parameters |= {"place_died_at": after.died_at, "place_id": after.id}
    rows = connection.execute(_take_statement(names, wanted.discarded, after is not None), parameters)
    return [_letter(row) for row in rows]


def remove(connection: Connection, letters: Sequence[DeadLetter]) -> None:
    """Remove letters that the caller has locked."""
    connection.execute(_REMOVE, {"ids": [letter.id for letter in letters]})


def discard(connection: Connection, letters: Sequence[DeadLetter], *, reason: str, now: datetime) -> int:
    """Close letters that the caller has locked; returns how many were open."""
    parameters = {"ids": [letter.id for letter in letters], "reason": reason, "now": now}
    return connection.execute(_DISCARD, parameters).rowcount


def add_batches(
    connection: Connection,
    replayed: Mapping[MessageKey, int],
    spread: Spread,
    *,
    max_attempts: int,
    now: datetime,
) -> list[datetime]:
    """Batches for messages that are `retrying` again, given with the attempts behind each; when they fall due.

    Each message may be tried as often again as its occasion says, or else `max_attempts` times.
    """
    if not replayed:
        return []
    keys = list(replayed)
    parameters = {
        "user_ids": [key.user_id for key in keys],
        "local_dates": [key.local_date for key in keys],
        "occasion_ids": [key.occasion_id for key in keys],
        "slots": [key.slot for key in keys],
        "channels": [key.channel.value for key in keys],
        "attempts": list(replayed.values()),
        "starts": spread.starts,
        "messages_per_second": spread.messages_per_second,
        "messages_before": spread.messages_before,
        "batch_size": spread.batch_size,
        "max_attempts": max_attempts,
        "now": now,
    }
    return list(connection.execute(_ADD_BATCHES, parameters).scalars())


def _given(tenant_id: int, wanted: DeadLetterFilter) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the conditions that are set, and their values."""
    given = {name: value for name in _CONDITIONS if (value := getattr(wanted, name)) is not None}
    return tuple(given), given | {"tenant_id": tenant_id}


def _condition(names: Sequence[str], discarded: bool) -> str:
    openness = "discarded_at IS NOT NULL" if discarded else "discarded_at IS NULL"
    return " AND ".join(["tenant_id = :tenant_id", openness, *(_CONDITIONS[name] for name in names)])


def _split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The criteria that an index narrows, and those that are compared with what is read."""
    leading = next((name for name in _LEADING if name in names), None)
    narrowing = [name for name in names if name in _NARROWING or name == leading]
    return narrowing, [name for name in names if name not in narrowing]


_PLACE: Final = "(CAST(:place_died_at AS timestamptz), CAST(:place_id AS bigint))"


@cache
def _page_statement(names: tuple[str, ...], discarded: bool, continues: bool) -> TextClause:
    narrowing, compared = _split(names)
    narrowed = _condition(narrowing, discarded) + (f" AND (died_at, id) < {_PLACE}" if continues else "")
    listed = f"SELECT * FROM dead_letters WHERE {narrowed} ORDER BY died_at DESC, id DESC LIMIT"
    if not compared:
        return text(f"""
SELECT {_COLUMNS}, 0 AS ordinal, true AS matches FROM ({listed} :most) AS d ORDER BY d.died_at DESC, d.id DESC""")
    return text(f"""
SELECT {_COLUMNS}, ordinal, matches
FROM (
    SELECT *, {_all_of(compared)} AS matches, row_number() OVER (ORDER BY died_at DESC, id DESC) AS ordinal
    FROM ({listed} :examined) AS examined
) AS d
WHERE matches OR ordinal = :examined
ORDER BY d.died_at DESC, d.id DESC LIMIT :most""")


def _all_of(names: Sequence[str]) -> str:
    return " AND ".join(_CONDITIONS[name] for name in names) or "true"


@cache
def _count_statement(names: tuple[str, ...], discarded: bool) -> TextClause:
    return text(f"""
SELECT category, count(*) AS letters FROM dead_letters WHERE {_condition(names, discarded)}
GROUP BY category ORDER BY letters DESC, category""")


@cache
def _bounded_count_statement(names: tuple[str, ...], discarded: bool) -> TextClause:
    narrowing, compared = _split(names)
    narrowed = _condition(narrowing, discarded)
    if discarded or set(narrowing) - _NARROWING:
        return text(f"""
SELECT category, count(*) FILTER (WHERE {_all_of(compared)}) AS letters,
       sum(count(*)) OVER () < :examined AS is_exact
FROM (SELECT * FROM dead_letters WHERE {narrowed} ORDER BY died_at DESC, id DESC LIMIT :examined) AS examined
GROUP BY category ORDER BY letters DESC, category""")
    # A loose index scan: one look-up for each category, however many letters it has, and then some of those.
    is_open = _condition((), discarded)
    return text(f"""
WITH RECURSIVE named AS (
    (SELECT category, 1 AS place FROM dead_letters WHERE {is_open} ORDER BY category LIMIT 1)
    UNION ALL
    SELECT (SELECT d.category FROM dead_letters d WHERE {is_open} AND d.category > named.category
            ORDER BY d.category LIMIT 1), place + 1
    FROM named WHERE named.category IS NOT NULL AND place < {_MOST_CATEGORIES}
)
SELECT named.category, letters, examined < :examined AND place < {_MOST_CATEGORIES} AS is_exact
FROM named CROSS JOIN LATERAL (
    SELECT count(*) AS examined, count(*) FILTER (WHERE {_all_of(compared)}) AS letters
    FROM (
        SELECT * FROM dead_letters d WHERE {narrowed} AND d.category = named.category
        ORDER BY died_at DESC, id DESC LIMIT :examined
    ) AS examined
) AS counted
WHERE named.category IS NOT NULL
ORDER BY letters DESC, category""")


@cache
def _take_statement(names: tuple[str, ...], discarded: bool, continues: bool) -> TextClause:
    narrowed = f" AND (died_at, id) > {_PLACE}" if continues else ""
    return text(f"""
SELECT {_COLUMNS} FROM dead_letters d WHERE {_condition(names, discarded)} AND id <= :through{narrowed}
ORDER BY died_at, id LIMIT :most FOR UPDATE SKIP LOCKED""")


def _letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(
        id=row.id,
        key=MessageKey(row.occasion_id, row.user_id, row.local_date, row.slot, Channel(row.channel)),
        attempt=row.attempt,
        died_at=row.died_at,
        provider=row.provider,
        category=row.category,
        detail=row.detail,
        discarded_at=row.discarded_at,
        discard_reason=row.discard_reason,
    )
