"""Plan a window of an occasion for everyone; where everyone has it, near the rate of a bare `INSERT … SELECT`.

Asking for each row whether it is there already (`ON CONFLICT`) costs as much as writing it, and hardly any is:
planning goes forward from a watermark, so only users who were edited can have messages there, and those came with
batches that are still pending. They are looked up first and left out; all others are inserted without being asked.

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
    CHOSEN_TIME,
    HAS_BEGUN,
    LOG_COLUMNS,
    REACHABLE,
    YEAR_NOT_SPENT,
    OccasionMoment,
    Planned,
    moment_parameters,
    plan_statement,
)

_DATED: Final = text(
    plan_statement(f"""
    SELECT u.id AS user_id, u.version AS user_version, u.tenant_id, channel, m.*
    FROM (
        SELECT user_id, value, month_day FROM user_dates
        WHERE tenant_id = :tenant_id AND name = :name AND month_day = ANY(CAST(:month_days AS smallint[]))
    ) d
    JOIN users u ON u.id = d.user_id
    JOIN moments m ON m.timezone = u.timezone AND m.month_day = d.month_day
    CROSS JOIN unnest(CAST(:channels AS channel[])) AS channel
    WHERE {HAS_BEGUN} AND {CHOSEN_TIME} AND {REACHABLE} AND {YEAR_NOT_SPENT}""")
)

_ARE_THEIRS: Final = f"""
    m.timezone = u.timezone AND u.tenant_id = :tenant_id AND u.timezone = ANY(CAST(:zones AS text[]))
    AND {CHOSEN_TIME} AND {REACHABLE}"""

_UNDATED: Final = text(
    plan_statement(f"""
    SELECT u.id AS user_id, u.version AS user_version, u.tenant_id, channel, m.*
    FROM users u CROSS JOIN moments m CROSS JOIN unnest(CAST(:channels AS channel[])) AS channel
    WHERE {_ARE_THEIRS}""")
)

# Moments of one instant share a turn, whatever their zones: their messages go into the same batches. An id that did not
# fit below the turn would only lie out of order. `NOT IN` is answered from a hash table; nothing in it is NULL. Every
# message that is missing is written, or else nothing is: so the batches need not wait to be told of each.
_UNDATED_UNASKED: Final = text(f"""
WITH places AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:turn AS bigint[]), CAST(:place_channel AS channel[]), CAST(:timezone AS text[]),
        CAST(:chosen_time AS time[]), CAST(:default_time AS time[]), CAST(:local_date AS date[]),
        CAST(:slot AS smallint[])
    ) WITH ORDINALITY AS moment (turn, channel, timezone, chosen_time, default_time, local_date, slot, place)
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
    SELECT CAST(place AS integer) AS place, turn, channel, u.id AS user_id, u.version AS user_version,
           (u.id, m.local_date, m.slot, channel) NOT IN (
               SELECT user_id, local_date, slot, channel FROM there) AS is_missing
    FROM users u CROSS JOIN places m
    WHERE {_ARE_THEIRS}
    ORDER BY (turn << 40) + u.id
),
fresh AS (
    INSERT INTO message_log {LOG_COLUMNS}
    SELECT user_id, (CAST(:send_at AS timestamptz[]))[place], :occasion, (CAST(:local_date AS date[]))[place], channel,
           :tenant_id, 'scheduled', user_version, (CAST(:date_rule AS date_rule[]))[place],
           (CAST(:time_rule AS time_rule[]))[place], (CAST(:slot AS smallint[]))[place], 0, NULL,
           (CAST(:timezone AS text[]))[place]
    FROM candidates WHERE is_missing
),
turns AS (
    SELECT array_agg(user_id) AS user_ids, min(place) AS place FROM candidates WHERE is_missing GROUP BY turn
),
grouped AS (
    SELECT :tenant_id AS tenant_id, :occasion AS occasion_id, m.local_date, m.slot, m.channel,
           (CAST(:send_at AS timestamptz[]))[m.place] AS send_at, t.user_ids
    FROM turns t JOIN places m USING (place)
),
{BATCHED}
SELECT count(*) FILTER (WHERE is_missing) AS added, count(*) AS candidates,
       (SELECT count(*) FROM batched) AS batches
FROM candidates""")


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
            return _planned(connection, _UNDATED_UNASKED, parameters | _places(occasion, moments))
    except IntegrityError as error:
        if not isinstance(error.orig, UniqueViolation):
            raise
        return _planned(connection, _UNDATED, parameters)


def _planned(connection: Connection, statement: TextClause, parameters: dict[str, Any]) -> Planned:
    row = connection.execute(statement, parameters).one()
    return Planned(added=row.added, already_there=row.candidates - row.added, batches=row.batches)


def _places(occasion: Occasion, moments: Sequence[Moment]) -> dict[str, Any]:
    """Each moment on each channel, and when its turn is."""
    pairs = sorted(product(moments, occasion.channels), key=_turn)
    turns = {turn: number for number, turn in enumerate(dict.fromkeys(map(_turn, pairs)))}
    return moment_parameters([OccasionMoment(occasion, moment) for moment, _ in pairs]) | {
        "occasion": occasion.id,
        "turn": [turns[_turn(pair)] for pair in pairs],
        "place_channel": [channel.value for _, channel in pairs],
        "first_send_at": pairs[0][0].send_at,
        "last_send_at": pairs[-1][0].send_at,
    }


def _turn(pair: tuple[Moment, Channel]) -> tuple[datetime, date, int, Channel]:
    moment, channel = pair
    return moment.send_at, moment.local_date, moment.slot, channel
