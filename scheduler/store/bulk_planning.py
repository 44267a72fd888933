"""Plan a window of an occasion for everyone; where everyone has it, near the rate of a bare `INSERT … SELECT`.

Asking for each row whether it is there already (`ON CONFLICT`) costs as much as writing it, and hardly any is:
planning goes forward from a watermark, so only users who were edited can have messages there, or all where a plan was
cut short, and those came with batches that are still pending. They are looked up first and left out; all others are
inserted without being asked.

What that overlooks (an edit at this very moment, a user who has moved to a zone that has the same local date later)
the primary key refuses. Then the window is planned again, asking for each row.

Rows are sorted by one number, and the rest of a row is looked up by its place among the moments: sorting whole rows
took longer than reading the users.

Limits: messages of occasions on a named date (a birthday) are some thousands a day, and are always asked for. While
many users are edited or imported, most windows are planned twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from itertools import product
from typing import Any, Final

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import IntegrityError

from scheduler.domain.batch import MAX_BATCH_SIZE
from scheduler.domain.calendar import Moment
from scheduler.domain.occasion import Channel, Occasion, YearlyRule
from scheduler.store.planning import (
    BATCHED,
    HAS_BEGUN,
    LOG_COLUMNS,
    REACHABLE,
    YEAR_NOT_SPENT,
    OccasionMoment,
    Planned,
    moment_parameters,
    plan_statement,
)

# All moments are of one occasion.
_DEFAULT_TIME: Final = "(CAST(:default_time AS time[]))[1]"

# Nobody can prefer 24:00: it stands for a moment that is everyone's, so that moments and people meet by equality.
_DATED: Final = text(
    plan_statement(f"""
    SELECT u.id AS user_id, u.version AS user_version, u.tenant_id, channel, m.*
    FROM (
        SELECT user_id, value, month_day FROM user_dates
        WHERE tenant_id = :tenant_id AND name = :name AND month_day = ANY(CAST(:month_days AS smallint[]))
    ) d
    JOIN users u ON u.id = d.user_id
    CROSS JOIN LATERAL (
        VALUES (coalesce(u.preferred_time, {_DEFAULT_TIME})), (time '24:00')) AS theirs (chosen_time)
    JOIN moments m ON m.timezone = u.timezone AND m.month_day = d.month_day
         AND coalesce(m.chosen_time, time '24:00') = theirs.chosen_time
    CROSS JOIN unnest(CAST(:channels AS channel[])) AS channel
    WHERE {HAS_BEGUN} AND {REACHABLE} AND {YEAR_NOT_SPENT}""")
)


def _of_zone(columns: str, moments_of_channels: str) -> str:
    """A query for `columns` of the users in the zone of each moment `m`."""
    return f"""
    SELECT {columns} FROM users u CROSS JOIN {moments_of_channels}
    WHERE m.timezone = u.timezone AND u.tenant_id = :tenant_id AND u.timezone = ANY(CAST(:zones AS text[]))
      AND m.chosen_time IS NULL AND {REACHABLE}"""


def _of_zone_and_time(columns: str, moments_of_channels: str) -> str:
    """The same where a moment may be for those alone who chose its time, or have it because they chose none.

    Each such moment looks up its people in the index (`OFFSET 0` makes it): users are never compared with moments
    of their zone at times that are not theirs, and those whose time is not in the window are not read at all.
    """

    def looked_up(time_condition: str) -> str:
        return f"""
    SELECT {columns} FROM {moments_of_channels}
    CROSS JOIN LATERAL (
        SELECT * FROM users WHERE tenant_id = :tenant_id AND timezone = m.timezone AND {time_condition} OFFSET 0) AS u
    WHERE {REACHABLE}"""

    return " UNION ALL ".join(
        [
            _of_zone(columns, moments_of_channels),
            looked_up("preferred_time = m.chosen_time"),
            looked_up(f"preferred_time IS NULL AND m.chosen_time = {_DEFAULT_TIME}"),
        ]
    )


_UNDATED: Final = text(
    plan_statement(
        _of_zone_and_time(
            "u.id AS user_id, u.version AS user_version, u.tenant_id, channel, m.*",
            "(moments m CROSS JOIN unnest(CAST(:channels AS channel[])) AS channel)",
        )
    )
)

# The people of a zone lie all over the table. PostgreSQL prefers the order of the index, which it takes for as well
# sorted as its first column, the tenant: twice the time on a busy machine, up to a tenth more on an idle one.
_READ_BY_PAGES: Final = text("SELECT set_config('enable_indexscan', 'off', true)")

_UNASKED_COLUMNS: Final = """
           CAST(place AS integer) AS place, zone, (turn << 40) + u.id AS position, u.id AS user_id,
           u.version AS user_version, (u.id, m.local_date, m.slot, channel) NOT IN (
               SELECT user_id, local_date, slot, channel FROM there) AS is_missing"""


_MOSTLY_ALIKE: Final = (
    "send_at",
    "local_date",
    "place_channel",
    "date_rule",
    "time_rule",
    "slot",
    "timezone",
)
"""What all messages of a window often have in common."""


def _at_place(name: str, kind: str) -> str:
    """What is at a place of the array `name`; looked up only where it is not the same at all of them."""
    return f"coalesce(CAST(:every_{name} AS {kind}), (CAST(:{name} AS {kind}[]))[place])"


def _unasked(candidates: str) -> TextClause:
    """The statement that adds messages for the rows of `candidates` without asking whether they are there.

    Moments of one instant share a turn, whatever their zones: their messages go into the same batches. An id that did
    not fit below the turn would only lie out of order. `NOT IN` is answered from a hash table; nothing in it is NULL.
    Every message that is missing is written, or else nothing is: so the batches need not wait to be told of each.
    A name among hundreds in an array is found by walking there: hence zones by their numbers, each once.
    """
    return text(f"""
WITH places AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:turn AS bigint[]), CAST(:place_channel AS channel[]), CAST(:timezone AS text[]),
        CAST(:zone AS smallint[]), CAST(:chosen_time AS time[]), CAST(:local_date AS date[]),
        CAST(:slot AS smallint[]), CAST(:send_at AS timestamptz[])
    ) WITH ORDINALITY AS moment (turn, channel, timezone, zone, chosen_time, local_date, slot, send_at, place)
),
there AS MATERIALIZED (
    SELECT l.user_id, l.local_date, l.slot, l.channel
    FROM batches b
    CROSS JOIN LATERAL unnest(b.user_ids) AS recipient (user_id)
    JOIN message_log l ON l.user_id = recipient.user_id AND l.local_date = b.local_date
         AND l.occasion_id = b.occasion_id AND l.slot = b.slot AND l.channel = b.channel
    WHERE b.state = 'pending' AND NOT b.held AND b.occasion_id = :occasion
      AND b.due_at BETWEEN :first_send_at AND :last_send_at
),
candidates AS MATERIALIZED (
    SELECT * FROM ({candidates}
    ) AS theirs ORDER BY position
),
fresh AS (
    INSERT INTO message_log {LOG_COLUMNS}
    SELECT user_id, {_at_place("send_at", "timestamptz")}, :occasion, {_at_place("local_date", "date")},
           {_at_place("place_channel", "channel")}, :tenant_id, 'scheduled', user_version,
           {_at_place("date_rule", "date_rule")}, {_at_place("time_rule", "time_rule")},
           {_at_place("slot", "smallint")}, 0, NULL,
           coalesce(CAST(:every_timezone AS text), (CAST(:zones AS text[]))[zone])
    FROM candidates WHERE is_missing
),
turns AS MATERIALIZED (
    SELECT array_agg(user_id) FILTER (WHERE is_missing) AS user_ids, min(place) AS place, count(*) AS candidates
    FROM candidates GROUP BY (CAST(:turn AS bigint[]))[place]
),
grouped AS (
    SELECT :tenant_id AS tenant_id, :occasion AS occasion_id, m.local_date, m.slot, m.channel, m.send_at, t.user_ids
    FROM turns t JOIN places m USING (place)
),
{BATCHED}
SELECT coalesce(sum(cardinality(user_ids)), 0) AS added, coalesce(sum(candidates), 0) AS candidates,
       (SELECT count(*) FROM batched) AS batches, set_config('enable_indexscan', 'on', true)
FROM turns""")


# Where the channel is known beforehand, only the address that it needs is taken out of a user's row.
_PLACES: Final = """(
        SELECT turn, coalesce(CAST(:every_place_channel AS channel), channel) AS channel, timezone, zone, chosen_time,
               local_date, slot, send_at, place
        FROM places) AS m"""
_UNDATED_UNASKED: Final = _unasked(_of_zone(_UNASKED_COLUMNS, _PLACES))
_CHOSEN_UNASKED: Final = _unasked(_of_zone_and_time(_UNASKED_COLUMNS, _PLACES))


def plan_window(
    connection: Connection,
    occasion: Occasion,
    moments: Sequence[Moment],
    *,
    now: datetime,
    batch_size: int = MAX_BATCH_SIZE,
) -> Planned:
    """Add the messages that `occasion` owes at `moments`; those already in the log stay as they are."""
    if not moments:
        return Planned()
    parameters = moment_parameters([OccasionMoment(occasion, moment) for moment in moments]) | {
        "tenant_id": occasion.tenant_id,
        "channels": [channel.value for channel in occasion.channels],
        "batch_size": batch_size,
        "now": now,
    }
    if isinstance(occasion.rule, YearlyRule):
        parameters["name"] = occasion.rule.date_name
        parameters["month_days"] = sorted({moment.month_day for moment in moments})
        return _planned(connection, _DATED, parameters)
    parameters["zones"] = sorted({moment.timezone for moment in moments})
    try:
        with connection.begin_nested():
            return _planned_unasked(connection, parameters | _places(occasion, moments))
    except IntegrityError as error:
        if not isinstance(error.orig, UniqueViolation):
            raise
        return _planned(connection, _UNDATED, parameters)


def _planned_unasked(connection: Connection, parameters: dict[str, Any]) -> Planned:
    """Leaves the setting as it was: the statement does where it succeeds, and the savepoint where it fails."""
    has_chosen_times = any(each is not None for each in parameters["chosen_time"])
    connection.execute(_READ_BY_PAGES)
    return _planned(connection, _CHOSEN_UNASKED if has_chosen_times else _UNDATED_UNASKED, parameters)


def _planned(connection: Connection, statement: TextClause, parameters: dict[str, Any]) -> Planned:
    row = connection.execute(statement, parameters).one()
    added = int(row.added)
    return Planned(added=added, already_there=int(row.candidates) - added, batches=row.batches)


def _places(occasion: Occasion, moments: Sequence[Moment]) -> dict[str, Any]:
    """Each moment on each channel, and when its turn is."""
    pairs = sorted(product(moments, occasion.channels), key=_turn)
    turns = {turn: number for number, turn in enumerate(dict.fromkeys(map(_turn, pairs)))}
    zones = {zone: number for number, zone in enumerate(sorted({moment.timezone for moment in moments}), 1)}
    by_place = moment_parameters([OccasionMoment(occasion, moment) for moment, _ in pairs]) | {
        "place_channel": [channel.value for _, channel in pairs]
    }
    return by_place | {
        **{f"every_{name}": _alike(by_place[name]) for name in _MOSTLY_ALIKE},
        "occasion": occasion.id,
        "zones": list(zones),
        "zone": [zones[moment.timezone] for moment, _ in pairs],
        "turn": [turns[_turn(pair)] for pair in pairs],
        "first_send_at": pairs[0][0].send_at,
        "last_send_at": pairs[-1][0].send_at,
    }


def _alike(values: Sequence[Any]) -> Any:
    """The one value that all are; None: they differ."""
    return values[0] if len(set(values)) == 1 else None


def _turn(pair: tuple[Moment, Channel]) -> tuple[datetime, date, int, Channel]:
    moment, channel = pair
    return moment.send_at, moment.local_date, moment.slot, channel
