"""Users and their named dates: one at a time, and what planning and workers read of many.

There is no foreign key between the two tables: checked row by row, it would cost an import more than the rows do.
Only this module, `user_writes` and `bulk_users` write either of them, and always both in one transaction.

A statement that waits for somebody else's write goes on with the newest version of the row it waited for,
and with everything else as it was when the statement began (READ COMMITTED). So each write locks its users
by a statement of their own first: the dates and deletions it then sees are those of the users it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, text

from scheduler.domain.occasion import Channel
from scheduler.domain.user import UserInput
from scheduler.errors import Conflict, PersonErased
from scheduler.store import inbox
from scheduler.store.arrays import Bigints
from scheduler.store.direct import Answer, Call, Direct, answers
from scheduler.store.readers import Readers, SingleRow

ZoneTime = tuple[str, time | None]
"""A time zone and a preferred time (None: none) that somebody lives by."""

# Somebody who was erased is not added. Without the key it cannot be told who that is: then nobody is, once anybody was.
NOT_ERASED: Final = """
    NOT EXISTS (
        SELECT FROM erased_users e WHERE e.tenant_id = :tenant_id AND e.external_id_hash = {tombstone})
    AND ({tombstone} IS NOT NULL OR NOT EXISTS (SELECT FROM erased_users e WHERE e.tenant_id = :tenant_id))"""
"""Whether somebody may be added whose external id has the hash `{tombstone}`."""

_IS_ERASED: Final = text(
    f"SELECT NOT ({NOT_ERASED.format(tombstone='CAST(:tombstone AS bytea)')}) AS is_erased"
)

DELETE: Final = text("""
WITH removed AS (
    DELETE FROM users WHERE id = ANY(CAST(:user_ids AS bigint[])) AND tenant_id = :tenant_id
    RETURNING id, tenant_id, external_id, version
),
removed_dates AS (
    DELETE FROM user_dates USING removed
    WHERE user_dates.user_id = removed.id AND user_dates.user_id = ANY(CAST(:user_ids AS bigint[]))
),
remembered AS (
    INSERT INTO deleted_users (tenant_id, external_id, user_id, version, deleted_at)
    SELECT tenant_id, external_id, id, version, :now FROM removed ORDER BY external_id
    ON CONFLICT (tenant_id, external_id)
    DO UPDATE SET user_id = excluded.user_id, version = excluded.version, deleted_at = excluded.deleted_at
)
SELECT id FROM removed""")

SELECT_USER: Final = """
SELECT u.id, u.external_id, u.first_name, u.last_name, u.email, u.phone, u.push_token, u.webhook_url,
       u.timezone, u.locale, u.preferred_time,
       coalesce((SELECT jsonb_object_agg(d.name, d.value) FROM user_dates d WHERE d.user_id = u.id), '{}') AS dates,
       u.attributes, u.version, u.created_at, u.updated_at
FROM users u WHERE u.tenant_id = :tenant_id"""

_BY_ID: Final = text(f"{SELECT_USER} AND u.id = :user_id")
_FIND: Final = Direct(_BY_ID)
_BY_EXTERNAL_ID: Final = text(f"{SELECT_USER} AND u.external_id = :external_id")
_READ: Final = SingleRow("user", _BY_ID)
_READ_EXTERNAL: Final = SingleRow("user_by_external_id", _BY_EXTERNAL_ID)

_LOCK: Final = text("""
SELECT id FROM users WHERE id = ANY(CAST(:user_ids AS bigint[])) ORDER BY id FOR NO KEY UPDATE""")

_RECIPIENTS: Final = Direct("""
SELECT id, version, external_id, first_name, last_name, email, phone, push_token, webhook_url, locale, timezone,
       NULL AS attributes, NULL AS dates
FROM users WHERE id = ANY(CAST(:user_ids AS bigint[]))""")

_RECIPIENTS_WITH_DETAILS: Final = Direct("""
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


class Recipient(NamedTuple):
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
        found: str | None = getattr(self, _ADDRESS_FIELDS[channel])
        return found


_ADDRESS_FIELDS: Final = {
    Channel.EMAIL: "email",
    Channel.SMS: "phone",
    Channel.PUSH: "push_token",
    Channel.WEBHOOK: "webhook_url",
    Channel.IN_APP: "external_id",
}
# What `Recipient._make` does, without the call of a function of Python's for each row.
_recipient: Final = partial(tuple.__new__, Recipient)


def address_place(channel: Channel) -> int:
    """Where in a `Recipient` its address on a channel is, for those who read many."""
    return Recipient._fields.index(_ADDRESS_FIELDS[channel])


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


def delete(connection: Connection, tenant_id: int, user_id: int, *, now: datetime) -> bool:
    """Delete a user and everything personal; their id stays known by the external id. False: there is none."""
    parameters = {"tenant_id": tenant_id, "user_ids": [user_id], "now": now}
    lock(connection, [user_id])
    if connection.execute(DELETE, parameters).one_or_none() is None:
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


def read(readers: Readers, tenant_id: int, key: int | str) -> Any:
    """The row of `SELECT_USER` of a user by id, or by external id, for whoever only reads; None: there is none.

    It has all values of a user under their names and in the order in which they are shown.
    """
    if isinstance(key, int):
        return readers.one_or_none(_READ, tenant_id, user_id=key)
    return None if "\0" in key else readers.one_or_none(_READ_EXTERNAL, tenant_id, external_id=key)


def lock(connection: Connection, user_ids: Sequence[int]) -> list[int]:
    """Keep others from editing these users until the transaction ends; returns those who exist."""
    return list(connection.execute(_LOCK, {"user_ids": list(user_ids)}).scalars())


def recipients(
    connection: Connection, user_ids: Sequence[int], *, with_details: bool = False
) -> dict[int, Recipient]:
    """The users of these ids who still exist, by id; `with_details` with their attributes and dates."""
    (found,) = answers(connection, [reading(user_ids, with_details=with_details)])
    return recipients_of(found, with_details=with_details)


def reading(user_ids: Sequence[int], *, with_details: bool = False) -> Call:
    """What `recipients` calls, to be sent in company."""
    statement = _RECIPIENTS_WITH_DETAILS if with_details else _RECIPIENTS
    return Call(statement, {"user_ids": Bigints(user_ids)})


def recipients_of(answer: Answer, *, with_details: bool = False) -> dict[int, Recipient]:
    """What `reading` has found, by user."""
    rows = [(*row[:-1], _dates(row[-1] or {})) for row in answer.rows] if with_details else answer.rows
    return {recipient.id: recipient for recipient in map(_recipient, rows)}


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
