"""Write what is due into the message log, set by set: what all ways of planning share, and replanning users.

Each way takes moments (which zone, which local date, which instant: computed by the calendar) and leaves the
matching of people to one statement:

- `bulk_planning.plan_window` adds an occasion's messages for a window. It never touches what is there.
- `replan_users` makes the log agree with the users as they are now: adds, moves and removes what is
  still `scheduled`, and leaves what is `sending` or later.

Messages and the batches that carry them are written by the same statement, so neither can exist
without the other. A batch is a claim ticket (see `domain/batch.py`): a message that moves gets a new
one, and the old one finds nothing to claim.

Limits: one statement holds the rows of one window or of one chunk of users; callers keep windows to
an hour and chunks to some thousands of users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.batch import MAX_BATCH_SIZE
from scheduler.domain.calendar import Moment
from scheduler.domain.message import SPENT_STATES
from scheduler.domain.occasion import Occasion, YearlyRule
from scheduler.store.direct import Direct

_SPENT: Final = ", ".join(f"'{state}'" for state in SPENT_STATES)

_MOMENTS: Final = """
moments AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:occasion_id AS integer[]), CAST(:timezone AS text[]), CAST(:chosen_time AS time[]),
        CAST(:default_time AS time[]), CAST(:local_date AS date[]), CAST(:slot AS smallint[]),
        CAST(:send_at AS timestamptz[]), CAST(:date_rule AS date_rule[]), CAST(:time_rule AS time_rule[]),
        CAST(:date_name AS text[]), CAST(:month_day AS smallint[]), CAST(:year AS smallint[]),
        CAST(:at_once AS boolean[])
    ) AS moment (occasion_id, timezone, chosen_time, default_time, local_date, slot, send_at, date_rule,
                 time_rule, date_name, month_day, year, at_once)
)"""

CHOSEN_TIME: Final = "(m.chosen_time IS NULL OR m.chosen_time = coalesce(u.preferred_time, m.default_time))"

# A user without an address for the channel is not due on it; an edit that adds the address replans.
REACHABLE: Final = """CASE channel
    WHEN 'email' THEN u.email IS NOT NULL WHEN 'sms' THEN u.phone IS NOT NULL
    WHEN 'push' THEN u.push_token IS NOT NULL WHEN 'webhook' THEN u.webhook_url IS NOT NULL
    ELSE true END"""

# The first anniversary of a date is a year after it.
HAS_BEGUN: Final = "m.year > extract(year FROM d.value)"

YEAR_NOT_SPENT: Final = f"""
NOT EXISTS (
    SELECT FROM message_log other
    WHERE other.user_id = u.id AND other.local_date BETWEEN :year_first AND :year_last
      AND other.occasion_id = m.occasion_id AND other.slot = m.slot AND other.channel = channel
      AND other.year = m.year AND other.local_date <> m.local_date AND other.state IN ({_SPENT})
)"""

LOG_COLUMNS: Final = """(
    user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version, date_rule, time_rule,
    slot, attempt, year, timezone
)"""

MESSAGE_KEY: Final = "(user_id, local_date, occasion_id, slot, channel)"

# The rows arrive in batch order, so that a batch's messages lie together on disk; the slices keep it.
GROUPED: Final = """
grouped AS (
    SELECT tenant_id, occasion_id, local_date, slot, channel, send_at, array_agg(user_id) AS user_ids
    FROM fresh GROUP BY tenant_id, occasion_id, local_date, slot, channel, send_at
)"""
BATCHED: Final = """
batched AS (
    INSERT INTO batches
        (tenant_id, occasion_id, local_date, slot, channel, priority, send_at, due_at, attempt, user_ids, state,
         lease_token, sent_count, retried_count, dead_count, expired_count, cancelled_count, created_at, held)
    SELECT g.tenant_id, g.occasion_id, g.local_date, g.slot, g.channel, o.priority, g.send_at, g.send_at, 0,
           g.user_ids[first : first + :batch_size - 1], 'pending', 0, 0, 0, 0, 0, 0, :now,
           o.paused_at IS NOT NULL
    FROM grouped g
    JOIN occasions o ON o.id = g.occasion_id
    CROSS JOIN LATERAL generate_series(1, cardinality(g.user_ids), :batch_size) AS first
    RETURNING 1
)"""
BATCHES: Final = f"{GROUPED},{BATCHED}"


def plan_statement(candidates: str) -> str:
    """The statement that adds messages for the rows of `candidates`, in batch order, and their batches."""
    return f"""
WITH {_MOMENTS},
candidates AS MATERIALIZED ({candidates}
),
fresh AS (
    INSERT INTO message_log {LOG_COLUMNS}
    SELECT user_id, send_at, occasion_id, local_date, channel, tenant_id, 'scheduled', user_version, date_rule,
           time_rule, slot, 0, year, timezone
    FROM candidates ORDER BY send_at, local_date, slot, channel, user_id
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, occasion_id, local_date, slot, channel, send_at, user_id
),
{BATCHES}
SELECT (SELECT count(*) FROM fresh) AS added, (SELECT count(*) FROM candidates) AS candidates,
       (SELECT count(*) FROM batched) AS batches"""


# What a worker claims meanwhile is waited for and seen as claimed: the replan must not take its year for free.
_LOCK_SCHEDULED: Final = text("""
SELECT DISTINCT user_id, occasion_id FROM (
    SELECT user_id, occasion_id FROM message_log
    WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date >= :date_first AND state = 'scheduled'
      AND (CAST(:occasion_ids AS integer[]) IS NULL OR occasion_id = ANY(CAST(:occasion_ids AS integer[])))
    FOR UPDATE
) AS locked""")

_DIRECT_LOCK_SCHEDULED: Final = Direct(_LOCK_SCHEDULED)

# `dated` is materialized so that a date meets the moments on zone, name and day at once. Left to itself the
# planner, which cannot know how few moments fall on one day, joins by zone alone: ten times the rows.
_REPLAN: Final = text(f"""
WITH {_MOMENTS},
subjects AS MATERIALIZED (
    SELECT * FROM users WHERE id = ANY(CAST(:user_ids AS bigint[]))
),
existing AS MATERIALIZED (
    SELECT user_id, local_date, occasion_id, slot, channel, send_at, time_rule, timezone FROM message_log
    WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date >= :date_first
      AND occasion_id = ANY(CAST(:occasion_ids AS integer[])) AND state = 'scheduled'
      AND (time_rule <> 'quiet_hours' OR local_date >= CAST(:deferred_first AS date))
),
dated AS MATERIALIZED (
    SELECT u.*, d.name, d.month_day, d.value FROM subjects u JOIN user_dates d ON d.user_id = u.id
),
candidates AS (
    SELECT u.id AS user_id, u.version AS user_version, u.tenant_id, channel, m.*
    FROM dated d
    CROSS JOIN LATERAL (
        SELECT d.id, d.version, d.tenant_id, d.email, d.phone, d.push_token, d.webhook_url, d.preferred_time) AS u
    JOIN moments m ON m.timezone = d.timezone AND m.date_name = d.name AND m.month_day = d.month_day
    JOIN occasions o ON o.id = m.occasion_id AND o.tenant_id = u.tenant_id
    CROSS JOIN LATERAL unnest(o.channels) AS channel
    WHERE {HAS_BEGUN} AND {CHOSEN_TIME} AND {REACHABLE} AND {YEAR_NOT_SPENT}
    UNION ALL
    SELECT u.id, u.version, u.tenant_id, channel, m.*
    FROM subjects u
    JOIN moments m ON m.timezone = u.timezone AND m.date_name IS NULL
    JOIN occasions o ON o.id = m.occasion_id AND o.tenant_id = u.tenant_id
    CROSS JOIN LATERAL unnest(o.channels) AS channel
    WHERE {CHOSEN_TIME} AND {REACHABLE}
),
desired AS MATERIALIZED (
    SELECT c.*, e.send_at AS existing_send_at, e.time_rule AS existing_time_rule,
           CASE WHEN c.send_at > :now THEN c.send_at
                WHEN e.send_at <= :now OR e.time_rule = 'quiet_hours' AND e.timezone = c.timezone THEN e.send_at
                ELSE :now END AS due_at
    FROM candidates c
    LEFT JOIN existing e USING {MESSAGE_KEY}
    WHERE c.send_at > :now OR c.at_once OR e.user_id IS NOT NULL
),
removed AS (
    DELETE FROM message_log l USING existing e
    WHERE l.user_id = e.user_id AND l.local_date = e.local_date AND l.occasion_id = e.occasion_id
      AND l.slot = e.slot AND l.channel = e.channel AND l.state = 'scheduled' AND l.local_date >= :date_first
      AND NOT EXISTS (
          SELECT FROM desired d WHERE d.user_id = e.user_id AND d.local_date = e.local_date
             AND d.occasion_id = e.occasion_id AND d.slot = e.slot AND d.channel = e.channel)
    RETURNING l.user_id
),
written AS (
    INSERT INTO message_log AS l {LOG_COLUMNS}
    SELECT user_id, due_at, occasion_id, local_date, channel, tenant_id, 'scheduled', user_version, date_rule,
           CASE due_at WHEN send_at THEN time_rule WHEN existing_send_at THEN existing_time_rule ELSE 'same_day' END,
           slot, 0, year, timezone
    FROM desired ORDER BY due_at, local_date, slot, channel, user_id
    ON CONFLICT {MESSAGE_KEY} DO UPDATE
    SET send_at = excluded.send_at, user_version = excluded.user_version, date_rule = excluded.date_rule,
        time_rule = excluded.time_rule, year = excluded.year, timezone = excluded.timezone
    WHERE l.state = 'scheduled'
    RETURNING l.tenant_id, l.occasion_id, l.local_date, l.slot, l.channel, l.send_at, l.user_id
),
compared AS MATERIALIZED (
    SELECT w.*, e.send_at AS existing_send_at FROM written w LEFT JOIN existing e USING {MESSAGE_KEY}
),
fresh AS (
    SELECT * FROM compared WHERE existing_send_at IS DISTINCT FROM send_at
),
{BATCHES}
SELECT user_id, count(*) FILTER (WHERE stays AND existing_send_at IS NULL) AS planned,
       count(*) FILTER (WHERE existing_send_at <> send_at) AS moved,
       count(*) FILTER (WHERE existing_send_at = send_at) AS kept,
       count(*) FILTER (WHERE NOT stays) AS removed
FROM (
    SELECT user_id, existing_send_at, send_at, true AS stays FROM compared
    UNION ALL
    SELECT user_id, NULL, NULL, false FROM removed
) AS changes
GROUP BY user_id""")


_DIRECT_REPLAN: Final = Direct(_REPLAN)


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning a window did, in messages."""

    added: int = 0
    already_there: int = 0
    batches: int = 0

    def __add__(self, other: Planned) -> Planned:
        """Both together."""
        return Planned(
            added=self.added + other.added,
            already_there=self.already_there + other.already_there,
            batches=self.batches + other.batches,
        )


@dataclass(frozen=True, slots=True)
class Replanned:
    """What replanning users did, in messages. `kept`: nothing changed but who and what it says."""

    planned: int = 0
    moved: int = 0
    kept: int = 0
    removed: int = 0

    def __add__(self, other: Replanned) -> Replanned:
        """Both together."""
        return Replanned(
            planned=self.planned + other.planned,
            moved=self.moved + other.moved,
            kept=self.kept + other.kept,
            removed=self.removed + other.removed,
        )


def sum_of(by_user: Mapping[int, Replanned]) -> Replanned:
    """What replanning did for all of them."""
    return sum(by_user.values(), Replanned())


@dataclass(frozen=True, slots=True)
class OccasionMoment:
    """A moment and the occasion it belongs to.

    `at_once`: the send time is past, the local date still lasts where the user lives, and the
    occasion sends on the same day.
    """

    occasion: Occasion
    moment: Moment
    at_once: bool = False


def lock_scheduled(
    connection: Connection,
    user_ids: Sequence[int],
    *,
    date_first: date,
    occasion_ids: Sequence[int] | None = None,
) -> dict[int, set[int]]:
    """Lock what is scheduled for users from `date_first` on; returns the ids of its occasions by user.

    None: of all occasions. The users' rows must be locked. What becomes scheduled later on was planned for them as
    they were before, and follows once a worker claims it.
    """
    parameters = {
        "user_ids": list(user_ids),
        "date_first": date_first,
        "occasion_ids": None if occasion_ids is None else list(occasion_ids),
    }
    found: dict[int, set[int]] = {}
    if not user_ids:
        return found
    for row in _DIRECT_LOCK_SCHEDULED.rows(connection, parameters):
        found.setdefault(row.user_id, set()).add(row.occasion_id)
    return found


def replan_users(
    connection: Connection,
    user_ids: Sequence[int],
    occasion_ids: Sequence[int],
    moments: Sequence[OccasionMoment],
    *,
    date_first: date,
    deferred_first: date,
    now: datetime,
    batch_size: int = MAX_BATCH_SIZE,
) -> dict[int, Replanned]:
    """Make what is scheduled for `user_ids` agree with the users and `moments` as they are now; what changed, by user.

    Scheduled messages of `occasion_ids` from `date_first` on that no moment asks for are removed; a
    user who is gone keeps none. A message that was ahead and whose time is past by the edit falls
    due at `now`; one that was due already stays due as it was. One that quiet hours put off stays put off
    until its user moves to another zone: whether it is quiet there is seen when it is claimed. It is left
    alone where its local date is before `deferred_first`, from which on `moments` know all that was ever due.
    The users' rows must be locked, and then what is scheduled for them (`lock_scheduled`).
    """
    parameters = moment_parameters(moments) | {
        "user_ids": list(user_ids),
        "occasion_ids": list(occasion_ids),
        "date_first": date_first,
        "deferred_first": deferred_first,
        "batch_size": batch_size,
        "now": now,
    }
    return {
        row.user_id: Replanned(planned=row.planned, moved=row.moved, kept=row.kept, removed=row.removed)
        for row in _DIRECT_REPLAN.rows(connection, parameters)
    }


def moment_parameters(moments: Sequence[OccasionMoment]) -> dict[str, Any]:
    """What a statement with moments is given of them."""
    year_first, year_last = _years_covered(moments)
    return {
        "occasion_id": [each.occasion.id for each in moments],
        "timezone": [each.moment.timezone for each in moments],
        "chosen_time": [_chosen_time(each) for each in moments],
        "default_time": [each.occasion.local_times[0] for each in moments],
        "local_date": [each.moment.local_date for each in moments],
        "slot": [each.moment.slot for each in moments],
        "send_at": [each.moment.send_at for each in moments],
        "date_rule": [each.moment.date_rule.value for each in moments],
        "time_rule": [each.moment.time_rule.value for each in moments],
        "date_name": [_date_name(each.occasion) for each in moments],
        "month_day": [each.moment.month_day for each in moments],
        "year": [each.moment.year for each in moments],
        "at_once": [each.at_once for each in moments],
        "year_first": year_first,
        "year_last": year_last,
    }


def _chosen_time(each: OccasionMoment) -> object:
    """The time a user must have chosen for this moment to be theirs; None where it is everyone's."""
    if each.occasion.honours_preferred_time and each.moment.slot == 0:
        return each.moment.local_time
    return None


def _date_name(occasion: Occasion) -> str | None:
    return occasion.rule.date_name if isinstance(occasion.rule, YearlyRule) else None


def _years_covered(moments: Sequence[OccasionMoment]) -> tuple[date, date]:
    """The local dates on which messages of the same celebrated years may lie."""
    years = [each.moment.year for each in moments if each.moment.year is not None]
    if not years:
        return date.min, date.min
    offsets = [
        each.occasion.rule.offset_days for each in moments if isinstance(each.occasion.rule, YearlyRule)
    ]
    # A day more on either side: 29 February may be celebrated on 1 March.
    first = date(min(years), 1, 1) + timedelta(days=min(offsets) - 1)
    last = date(max(years), 12, 31) + timedelta(days=max(offsets) + 1)
    return first, last
