"""Users and their named dates: one at a time, and what planning and workers read of many.

A write takes a whole user as JSON and spreads it over the tables in one statement. There is no foreign key between
the two tables: checked row by row, it would cost an import more than the rows do. Only this module and `bulk_users`
write either of them, and always both in one transaction.

A statement that waits for somebody else's write goes on with the newest version of the row it waited for,
and with everything else as it was when the statement began (READ COMMITTED). So each write locks its users
by a statement of their own first: the dates and deletions it then sees are those of the users it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

from psycopg.errors import UniqueViolation
from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import IntegrityError

from scheduler.domain.occasion import Channel
from scheduler.domain.user import UserInput
from scheduler.errors import Conflict, PersonErased
from scheduler.store import inbox
from scheduler.store.direct import Direct

ZoneTime = tuple[str, time | None]
"""A time zone and a preferred time (None: none) that somebody lives by."""

_USERS_AS_JSON: Final = TypeAdapter(list[UserInput])

_INPUT: Final = """
input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:users AS json)) AS input (
        external_id text, first_name text, last_name text, email text, phone text, push_token text,
        webhook_url text, timezone text, locale text,
        preferred_time time, dates json, attributes jsonb)
)"""

_DATES: Final = """
input_dates AS MATERIALIZED (
    SELECT w.id AS user_id, each.key AS name, CAST(each.value AS date) AS value
    FROM written w JOIN input i ON i.external_id = w.external_id CROSS JOIN LATERAL json_each_text(i.dates) AS each
),
removed_dates AS (
    DELETE FROM user_dates d USING written w
    WHERE d.user_id = w.id AND NOT w.created AND NOT EXISTS (
        SELECT FROM input_dates kept WHERE kept.user_id = d.user_id AND kept.name = d.name)
),
written_dates AS (
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT user_id, name, :tenant_id, value FROM input_dates
    ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value WHERE user_dates.value <> excluded.value
)"""

_CHANGES: Final = """
    first_name = {new}.first_name, last_name = {new}.last_name, email = {new}.email, phone = {new}.phone,
    push_token = {new}.push_token, webhook_url = {new}.webhook_url,
    timezone = {new}.timezone, locale = {new}.locale, preferred_time = {new}.preferred_time,
    attributes = {new}.attributes, version = {old}.version + 1, updated_at = :now"""

# Somebody who was erased is not added. Without the key it cannot be told who that is: then nobody is, once anybody was.
_NOT_ERASED: Final = """
    NOT EXISTS (
        SELECT FROM erased_users e
        WHERE e.tenant_id = :tenant_id AND e.external_id_hash = CAST(:tombstone AS bytea))
    AND (CAST(:tombstone AS bytea) IS NOT NULL
         OR NOT EXISTS (SELECT FROM erased_users e WHERE e.tenant_id = :tenant_id))"""

CREATE: Final = text(f"""
WITH {_INPUT},
written AS (
    INSERT INTO users
        (id, tenant_id, external_id, first_name, last_name, email, phone, push_token, webhook_url, timezone, locale,
         preferred_time, attributes, version, created_at, updated_at)
    SELECT coalesce(d.user_id, nextval('users_id_seq')), :tenant_id, i.external_id,
           i.first_name, i.last_name, i.email, i.phone, i.push_token, i.webhook_url, i.timezone, i.locale,
           i.preferred_time, i.attributes,
           coalesce(d.version, 0) + 1, :now, :now
    FROM input i
    LEFT JOIN deleted_users d ON d.tenant_id = :tenant_id AND d.external_id = i.external_id
        AND NOT EXISTS (SELECT FROM users renamed WHERE renamed.id = d.user_id)
    WHERE {_NOT_ERASED}
    RETURNING id, external_id, version, true AS created
),
{_DATES}
SELECT id, version FROM written""")

_IS_ERASED: Final = text(f"SELECT NOT ({_NOT_ERASED}) AS is_erased")

_REPLACE: Final = text(f"""
WITH {_INPUT},
written AS (
    UPDATE users u SET external_id = i.external_id, {_CHANGES.format(new="i", old="u")}
    FROM input i WHERE u.id = :user_id AND u.tenant_id = :tenant_id
    RETURNING u.id, u.external_id, u.version, u.created_at, false AS created
),
{_DATES}
SELECT id, version, created_at FROM written""")

_DELETE: Final = text("""
WITH removed AS (
    DELETE FROM users WHERE id = :user_id AND tenant_id = :tenant_id RETURNING id, tenant_id, external_id, version
),
removed_dates AS (
    DELETE FROM user_dates USING removed WHERE user_dates.user_id = removed.id
),
remembered AS (
    INSERT INTO deleted_users (tenant_id, external_id, user_id, version, deleted_at)
    SELECT tenant_id, external_id, id, version, :now FROM removed
    ON CONFLICT (tenant_id, external_id)
    DO UPDATE SET user_id = excluded.user_id, version = excluded.version, deleted_at = excluded.deleted_at
)
SELECT id FROM removed""")

SELECT_USER: Final = """
SELECT u.id, u.external_id, u.first_name, u.last_name, u.email, u.phone, u.push_token, u.webhook_url,
       u.timezone, u.locale, u.preferred_time,
       u.attributes, u.version, u.created_at, u.updated_at,
       coalesce((SELECT jsonb_object_agg(d.name, d.value) FROM user_dates d WHERE d.user_id = u.id), '{}') AS dates
FROM users u WHERE u.tenant_id = :tenant_id"""

_BY_ID: Final = text(f"{SELECT_USER} AND u.id = :user_id")
_FIND: Final = Direct(_BY_ID)
_BY_EXTERNAL_ID: Final = text(f"{SELECT_USER} AND u.external_id = :external_id")

_LOCK: Final = text("""
SELECT id FROM users WHERE id = ANY(CAST(:user_ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE""")

LOCK_EXTERNAL: Final = text("""
SELECT id FROM users WHERE tenant_id = :tenant_id AND external_id = :external_id FOR NO KEY UPDATE""")

_RECIPIENTS: Final = text("""
SELECT id, version, external_id, first_name, last_name, email, phone, push_token, webhook_url, locale, timezone
FROM users WHERE id = ANY(CAST(:user_ids AS bigint[]))""")

_RECIPIENTS_WITH_DETAILS: Final = text("""
SELECT id, version, external_id, first_name, last_name, email, phone, push_token, webhook_url, locale, timezone,
       attributes,
       (SELECT jsonb_object_agg(d.name, d.value) FROM user_dates d WHERE d.user_id = users.id) AS dates
FROM users WHERE id = ANY(CAST(:user_ids AS bigint[]))""")

# A loose index scan: one look-up for each zone and chosen time, however many users live by it.
# The later times and the absent one are looked up apart: an OR of them would read the whole zone for each.
_ZONE_TIMES: Final = text("""
WITH RECURSIVE found AS (
    (SELECT timezone, preferred_time FROM users WHERE tenant_id = :tenant_id
     ORDER BY timezone, preferred_time NULLS LAST LIMIT 1)
    UNION ALL
    SELECT following.timezone, following.preferred_time
    FROM found CROSS JOIN LATERAL (
        (SELECT u.timezone, u.preferred_time FROM users u
         WHERE u.tenant_id = :tenant_id AND u.timezone = found.timezone
           AND u.preferred_time > found.preferred_time
         ORDER BY u.timezone, u.preferred_time NULLS LAST LIMIT 1)
        UNION ALL
        (SELECT u.timezone, u.preferred_time FROM users u
         WHERE u.tenant_id = :tenant_id AND u.timezone = found.timezone
           AND found.preferred_time IS NOT NULL AND u.preferred_time IS NULL
         LIMIT 1)
        UNION ALL
        (SELECT u.timezone, u.preferred_time FROM users u
         WHERE u.tenant_id = :tenant_id AND u.timezone > found.timezone
         ORDER BY u.timezone, u.preferred_time NULLS LAST LIMIT 1)
        LIMIT 1
    ) AS following
)
SELECT timezone, preferred_time FROM found""")

_ZONE_TIMES_OF: Final = text("""
SELECT DISTINCT timezone, preferred_time FROM users WHERE id = ANY(CAST(:user_ids AS bigint[]))""")

_IDS_AFTER: Final = text("""
SELECT id FROM users WHERE tenant_id = :tenant_id AND id > :after ORDER BY id LIMIT :most""")

_COUNT: Final = text("SELECT count(*) FROM users WHERE tenant_id = :tenant_id")


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user as stored. `version` grows with every edit."""

    id: int
    version: int
    created_at: datetime
    updated_at: datetime
    values: UserInput


@dataclass(frozen=True, slots=True)
class Recipient:
    """What a worker needs of a user to write to them; `attributes` and `dates` only where a text names any."""

    id: int
    version: int
    external_id: str
    first_name: str
    last_name: str
    email: str | None
    phone: str | None
    push_token: str | None
    webhook_url: str | None
    locale: str
    timezone: str
    attributes: Mapping[str, Any] | None = None
    dates: Mapping[str, date] | None = None

    def address(self, channel: Channel) -> str | None:
        """Where a message of `channel` goes; None: they have no address for it. Everyone has an inbox."""
        match channel:
            case Channel.EMAIL:
                return self.email
            case Channel.SMS:
                return self.phone
            case Channel.PUSH:
                return self.push_token
            case Channel.WEBHOOK:
                return self.webhook_url
            case Channel.IN_APP:
                return self.external_id


def erased(tombstone: bytes | None) -> PersonErased:
    """What to raise for somebody who is not to come back, or of whom that cannot be told."""
    if tombstone is None:
        return PersonErased(
            "people were erased, and without DAYBREAK_SECRET_KEY it cannot be told whether this is one of them"
        )
    return PersonErased()


def is_erased(connection: Connection, tenant_id: int, tombstone: bytes | None) -> bool:
    """Whether the owner of an external id was erased; None, without a key: whether anybody was."""
    parameters = {"tenant_id": tenant_id, "tombstone": tombstone}
    return bool(connection.execute(_IS_ERASED, parameters).scalar_one())


def replace(
    connection: Connection, tenant_id: int, user_id: int, user: UserInput, *, now: datetime
) -> StoredUser | None:
    """Replace all of a user; None where there is none. Raises Conflict where the new external id is taken."""
    parameters = user_parameters(tenant_id, user, now) | {"user_id": user_id}
    lock(connection, [user_id])
    try:
        row = connection.execute(_REPLACE, parameters).one_or_none()
    except IntegrityError as error:
        raise conflict(error, user) from None
    return None if row is None else StoredUser(row.id, row.version, row.created_at, now, user)


def delete(connection: Connection, tenant_id: int, user_id: int, *, now: datetime) -> bool:
    """Delete a user and everything personal; their id stays known by the external id. False: there is none."""
    parameters = {"tenant_id": tenant_id, "user_id": user_id, "now": now}
    lock(connection, [user_id])
    if connection.execute(_DELETE, parameters).one_or_none() is None:
        return False
    # By a statement of its own: what a worker put in while the deletion waited for it is seen as well.
    inbox.remove_all(connection, user_id)
    return True


def find(connection: Connection, tenant_id: int, user_id: int) -> StoredUser | None:
    """A user by id."""
    row = _FIND.one_or_none(connection, {"tenant_id": tenant_id, "user_id": user_id})
    return None if row is None else stored_user(row)


def find_external(connection: Connection, tenant_id: int, external_id: str) -> StoredUser | None:
    """A user by external id."""
    parameters = {"tenant_id": tenant_id, "external_id": external_id}
    row = connection.execute(_BY_EXTERNAL_ID, parameters).one_or_none()
    return None if row is None else stored_user(row)


def lock(connection: Connection, user_ids: Sequence[int]) -> list[int]:
    """Keep others from editing these users until the transaction ends; returns those who exist."""
    return list(connection.execute(_LOCK, {"user_ids": list(user_ids)}).scalars())


def lock_external(connection: Connection, tenant_id: int, external_id: str) -> int | None:
    """As `lock`, by external id; waits for a deletion under way as well. Returns the id, if there is such a user."""
    parameters = {"tenant_id": tenant_id, "external_id": external_id}
    return connection.execute(LOCK_EXTERNAL, parameters).scalar_one_or_none()


def recipients(
    connection: Connection, user_ids: Sequence[int], *, with_details: bool = False
) -> dict[int, Recipient]:
    """The users of these ids who still exist, by id; `with_details` with their attributes and dates."""
    parameters = {"user_ids": list(user_ids)}
    if not with_details:
        return {row.id: Recipient(*row) for row in connection.execute(_RECIPIENTS, parameters)}
    rows = connection.execute(_RECIPIENTS_WITH_DETAILS, parameters)
    return {row.id: Recipient(*(*row[:-1], _dates(row.dates or {}))) for row in rows}


def zone_times(connection: Connection, tenant_id: int) -> list[ZoneTime]:
    """Each zone and preferred time that a tenant's users live by, once."""
    rows = connection.execute(_ZONE_TIMES, {"tenant_id": tenant_id})
    return [(row.timezone, row.preferred_time) for row in rows]


def zone_times_of(connection: Connection, user_ids: Sequence[int]) -> list[ZoneTime]:
    """Each zone and preferred time that these users live by, once."""
    rows = connection.execute(_ZONE_TIMES_OF, {"user_ids": list(user_ids)})
    return [(row.timezone, row.preferred_time) for row in rows]


def ids_after(connection: Connection, tenant_id: int, *, after: int, most: int) -> list[int]:
    """Up to `most` ids of a tenant's users in order, from the first one after the id `after`."""
    parameters = {"tenant_id": tenant_id, "after": after, "most": most}
    return list(connection.execute(_IDS_AFTER, parameters).scalars())


def count(connection: Connection, tenant_id: int) -> int:
    """How many users a tenant has."""
    return int(connection.execute(_COUNT, {"tenant_id": tenant_id}).scalar_one())


def user_parameters(tenant_id: int, user: UserInput, now: datetime) -> dict[str, Any]:
    """What a statement that writes a user takes."""
    return {"tenant_id": tenant_id, "users": _USERS_AS_JSON.dump_json([user]).decode(), "now": now}


def conflict(error: IntegrityError, user: UserInput) -> Exception:
    """What to raise for a write that a constraint refused."""
    return taken(user) if isinstance(error.orig, UniqueViolation) else error


def taken(user: UserInput) -> Conflict:
    """What to raise where somebody has the external id."""
    return Conflict(f"a user with external_id {user.external_id!r} exists already")


def stored_user(row: Row[Any]) -> StoredUser:
    """The user in a row of `SELECT_USER`."""
    values = UserInput.model_construct(
        external_id=row.external_id,
        first_name=row.first_name,
        last_name=row.last_name,
        email=row.email,
        phone=row.phone,
        push_token=row.push_token,
        webhook_url=row.webhook_url,
        timezone=row.timezone,
        locale=row.locale,
        preferred_time=row.preferred_time,
        dates=_dates(row.dates),
        attributes=row.attributes,
    )
    return StoredUser(row.id, row.version, row.created_at, row.updated_at, values)


def _dates(stored: Mapping[str, str]) -> dict[str, date]:
    return {name: date.fromisoformat(value) for name, value in sorted(stored.items())}
