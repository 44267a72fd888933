"""Thousands of users at once: staged by COPY in a table of the session's own, then written set by set.

COPY costs a quarter of what JSON in a parameter costs, most of it in the server. Users who are there already are
locked first, by a statement of its own, so that what is compared with them is how they are now (see `users`). Whoever
is as they were stays untouched: their version tells of changes alone.

Needs the right to make temporary tables in the database, which everybody has unless it was revoked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import psycopg
from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from scheduler.domain.user import UserInput

# Dates come in order of their names (ASCII), so that they can be compared with the stored ones as they are.
_STAGE: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_users (
    external_id text, first_name text, last_name text, email text, phone text, push_token text, webhook_url text,
    timezone text, locale text, preferred_time time, attributes jsonb, date_names text[], date_values date[]
) ON COMMIT DELETE ROWS"""

# What stands for NULL is a control character, which no value holds; so nothing but a backslash needs to be escaped.
_NULL: Final = "\x01"
_COPY: Final = "COPY pg_temp.incoming_users FROM STDIN (NULL E'\\x01')"

# As an array, not a table, here and below: by a table whose size it does not know, the planner would join all users
# of the tenant to each chunk while an import runs ahead of what statistics know.
_INCOMING_IDS: Final = "ARRAY(SELECT external_id FROM pg_temp.incoming_users)"

_LOCK: Final = f"""
SELECT coalesce(array_agg(id), '{{}}') FROM (
    SELECT u.id FROM users u
    WHERE u.tenant_id = :tenant_id AND u.external_id = ANY({_INCOMING_IDS})
    ORDER BY u.external_id FOR NO KEY UPDATE
) AS locked"""

_REFUSE: Final = "DELETE FROM pg_temp.incoming_users WHERE external_id = ANY(CAST(:external_ids AS text[]))"

_NAMES: Final = (
    *("first_name", "last_name", "email", "phone", "push_token", "webhook_url"),
    *("timezone", "locale", "preferred_time", "attributes"),
)
_COLUMNS: Final = ", ".join(_NAMES)
_OLD: Final = ", ".join(f"u.{name}" for name in _NAMES)
_NEW: Final = ", ".join(f"i.{name}" for name in _NAMES)

_ADD: Final = f"""
WITH written AS (
    INSERT INTO users (id, tenant_id, external_id, {_COLUMNS}, version, created_at, updated_at)
    SELECT coalesce(d.user_id, nextval('users_id_seq')), :tenant_id, i.external_id, {_NEW},
           coalesce(d.version, 0) + 1, :now, :now
    FROM pg_temp.incoming_users i
    LEFT JOIN (
        SELECT external_id, user_id, version FROM deleted_users
        WHERE tenant_id = :tenant_id AND external_id = ANY({_INCOMING_IDS})
          AND NOT EXISTS (SELECT FROM users renamed WHERE renamed.id = user_id)
    ) AS d ON d.external_id = i.external_id
    WHERE i.external_id NOT IN (
        SELECT u.external_id FROM users u WHERE u.id = ANY(CAST(:known_ids AS bigint[])))
    ORDER BY i.external_id
    RETURNING id, external_id
),
written_dates AS (
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT w.id, each.name, :tenant_id, each.value
    FROM written w
    JOIN pg_temp.incoming_users i ON i.external_id = w.external_id
    CROSS JOIN LATERAL unnest(i.date_names, i.date_values) AS each (name, value)
)
SELECT coalesce(array_agg(id), '{{}}'), coalesce(array_agg(external_id), '{{}}') FROM written"""

_CHANGE: Final = f"""
WITH written AS (
    UPDATE users u SET ({_COLUMNS}, version, updated_at) = ROW ({_NEW}, u.version + 1, :now)
    FROM pg_temp.incoming_users i
    WHERE u.id = ANY(CAST(:known_ids AS bigint[])) AND u.tenant_id = :tenant_id
      AND u.external_id = i.external_id AND (
        ({_OLD}) IS DISTINCT FROM ({_NEW})
        OR ARRAY(SELECT d.name FROM user_dates d WHERE d.user_id = u.id ORDER BY d.name COLLATE "C") <> i.date_names
        OR ARRAY(SELECT d.value FROM user_dates d WHERE d.user_id = u.id ORDER BY d.name COLLATE "C")
           <> i.date_values)
    RETURNING u.id, u.external_id, i.date_names, i.date_values
),
removed_dates AS (
    DELETE FROM user_dates d USING written w WHERE d.user_id = w.id AND d.name <> ALL (w.date_names)
),
written_dates AS (
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT w.id, each.name, :tenant_id, each.value
    FROM written w CROSS JOIN LATERAL unnest(w.date_names, w.date_values) AS each (name, value)
    ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value WHERE user_dates.value <> excluded.value
)
SELECT coalesce(array_agg(id), '{{}}'), coalesce(array_agg(external_id), '{{}}') FROM written"""


class AddedMeanwhile(Exception):
    """Somebody else added one of these users since they were looked for; the transaction is lost: once more."""


@dataclass(frozen=True, slots=True)
class Upserted:
    """What a bulk write did: who is new and who changed, ids by external ids, and how many stayed as they were."""

    created_ids: Mapping[str, int]
    updated_ids: Mapping[str, int]
    unchanged: int

    @property
    def user_ids(self) -> Sequence[int]:
        """The ids of all who were written."""
        return [*self.created_ids.values(), *self.updated_ids.values()]

    def users_of(self, batch: Iterable[UserInput]) -> dict[int, UserInput]:
        """Those in `batch` who were written, by id."""
        written = {**self.created_ids, **self.updated_ids}
        return {written[user.external_id]: user for user in batch if user.external_id in written}


def stage(connection: Connection, tenant_id: int, users: Iterable[UserInput]) -> list[int]:
    """Take users in, whose external ids differ, and lock those who exist; returns the ids of these."""
    connection.exec_driver_sql(_STAGE)
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    rows = "".join([_row(user) for user in users]).replace("\\", "\\\\")
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.write(rows)
    return list(connection.execute(text(_LOCK), {"tenant_id": tenant_id}).scalar_one())


def write_staged(
    connection: Connection,
    tenant_id: int,
    count: int,
    known_ids: Sequence[int],
    refused: Collection[str],
    *,
    now: datetime,
) -> Upserted:
    """Write the `count` users that `stage` has taken in, but for the `refused` external ids.

    `known_ids` are of those who exist. Raises AddedMeanwhile.
    """
    if refused:
        connection.execute(text(_REFUSE), {"external_ids": list(refused)})
    count -= len(refused)
    parameters: dict[str, Any] = {"tenant_id": tenant_id, "known_ids": list(known_ids), "now": now}
    updated = _written(connection, _CHANGE, parameters) if known_ids else {}
    created: dict[str, int] = {}
    if len(known_ids) < count:
        try:
            created = _written(connection, _ADD, parameters)
        except IntegrityError as error:
            if isinstance(error.orig, UniqueViolation):
                raise AddedMeanwhile from None
            raise
    return Upserted(created, updated, count - len(created) - len(updated))


def _written(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> dict[str, int]:
    """The ids of those it wrote, by external id: in two arrays, since a row for each costs more than all the rest."""
    user_ids, external_ids = connection.execute(text(statement), parameters).one()
    return dict(zip(external_ids, user_ids, strict=True))


def _row(user: UserInput) -> str:
    dates = user.dates
    names = sorted(dates)
    preferred_time = user.preferred_time
    return "\t".join(
        (
            user.external_id,
            user.first_name,
            user.last_name,
            user.email or _NULL,
            user.phone or _NULL,
            user.push_token or _NULL,
            user.webhook_url or _NULL,
            user.timezone,
            user.locale,
            _NULL if preferred_time is None else preferred_time.isoformat(),
            orjson.dumps(user.attributes).decode() if user.attributes else "{}",
            # Names of dates are letters, digits and _: they need no quotes in an array.
            "{" + ",".join(names) + "}",
            "{" + ",".join([dates[name].isoformat() for name in names]) + "}\n",
        )
    )
