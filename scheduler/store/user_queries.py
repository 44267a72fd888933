"""Find users: in order of id, by a bounded look at the table for each page, whatever is asked for.

A filter by date or zone that few match is looked up by its index; one that many match is met often enough by reading
users in order of id. Either way at most `ROWS_EXAMINED` users are read for a page, so it may hold fewer than asked
for, or none, although there are more: `next` says where to go on. No index is kept for the other filters: each would
cost an import more than it saves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from scheduler.store.users import SELECT_USER, StoredUser, stored_user

ROWS_EXAMINED: Final = 10_000

EXPORTED_AT_ONCE: Final = 1_000
"""A page of users that are all to be read."""

_CONDITIONS: Final[Mapping[str, str]] = {
    "external_id": "u.external_id = :external_id",
    "timezone": "u.timezone = :timezone",
    # Not EXISTS, for which the planner would put everybody's dates into a hash table: this is looked up user by user.
    "date_name": """coalesce((
        SELECT (CAST(:month_day AS smallint) IS NULL OR d.month_day = CAST(:month_day AS smallint))
               AND (CAST(:on AS date) IS NULL OR d.value = CAST(:on AS date))
        FROM user_dates d WHERE d.user_id = u.id AND d.name = :date_name), false)""",
    "attributes": "u.attributes @> CAST(:attributes AS jsonb)",
    "updated_since": "u.updated_at >= :updated_since",
}

_OF_EXTERNAL_ID: Final = text("""
SELECT id FROM users WHERE tenant_id = :tenant_id AND external_id = :external_id""")

_OF_DAY: Final = text("""
SELECT user_id FROM user_dates
WHERE tenant_id = :tenant_id AND name = :date_name AND month_day = :month_day LIMIT :most""")

_OF_ZONE: Final = text("""
SELECT id FROM users WHERE tenant_id = :tenant_id AND timezone = :timezone LIMIT :most""")

# A loose index scan: one look-up for each name, however many have such a date.
_DATE_NAMES: Final = text("""
WITH RECURSIVE found AS (
    (SELECT name FROM user_dates WHERE tenant_id = :tenant_id ORDER BY name LIMIT 1)
    UNION ALL
    SELECT (SELECT d.name FROM user_dates d WHERE d.tenant_id = :tenant_id AND d.name > found.name
            ORDER BY d.name LIMIT 1)
    FROM found WHERE found.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL""")


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Which users are meant: those of whom all that is given holds; None: any.

    `date_name` alone: who has such a date; with `month_day` (MMDD) or `on`, on that day of any year, or of that one.
    """

    external_id: str | None = None
    timezone: str | None = None
    date_name: str | None = None
    month_day: int | None = None
    on: date | None = None
    attributes: Mapping[str, Any] | None = None
    updated_since: datetime | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The criteria that are given."""
        return tuple(name for name in _CONDITIONS if getattr(self, name) is not None)

    @property
    def parameters(self) -> dict[str, Any]:
        """Their values, for a statement."""
        given: dict[str, Any] = {name: getattr(self, name) for name in self.names}
        if self.attributes is not None:
            given["attributes"] = json.dumps(dict(self.attributes))
        if self.date_name is not None:
            given |= {"month_day": self.day, "on": self.on}
        return given

    @property
    def day(self) -> int | None:
        """The day of the year (MMDD) that the date is to be on."""
        return self.month_day if self.on is None else self.on.month * 100 + self.on.day


@dataclass(frozen=True, slots=True)
class UserPage:
    """Users in order of id. `next`: the next page begins after this id; None: there is none."""

    users: Sequence[StoredUser]
    next: int | None


def page(connection: Connection, tenant_id: int, wanted: UserFilter, *, after: int, most: int) -> UserPage:
    """Up to `most` users, from the first one after the id `after`."""
    candidates = _candidates(connection, tenant_id, wanted)
    parameters = wanted.parameters | {"tenant_id": tenant_id, "after": after, "most": most + 1}
    if candidates is not None:
        ids = sorted(user_id for user_id in candidates if user_id > after)
        rows = connection.execute(_among(wanted.names), parameters | {"ids": ids}).all()
        found = [stored_user(row) for row in rows]
        return UserPage(found[:most], found[most - 1].id if len(found) > most else None)
    if not wanted.names:
        found = [stored_user(row) for row in connection.execute(_in_order(()), parameters)]
        return UserPage(found[:most], found[most - 1].id if len(found) > most else None)
    return _searched(connection, wanted, parameters, most)


def date_names(connection: Connection, tenant_id: int) -> list[str]:
    """The names of all dates that a tenant's users have, in order."""
    return list(connection.execute(_DATE_NAMES, {"tenant_id": tenant_id}).scalars())


def _candidates(connection: Connection, tenant_id: int, wanted: UserFilter) -> list[int] | None:
    """The ids among which all who match are, by an index; None: too many to be worth it, or no index."""
    parameters: dict[str, Any] = {"tenant_id": tenant_id, "most": ROWS_EXAMINED + 1}
    if wanted.external_id is not None:
        found = connection.execute(
            _OF_EXTERNAL_ID, {"tenant_id": tenant_id, "external_id": wanted.external_id}
        )
    elif wanted.date_name is not None and wanted.day is not None:
        parameters |= {"date_name": wanted.date_name, "month_day": wanted.day}
        found = connection.execute(_OF_DAY, parameters)
    elif wanted.timezone is not None:
        found = connection.execute(_OF_ZONE, parameters | {"timezone": wanted.timezone})
    else:
        return None
    ids = list(found.scalars())
    return ids if len(ids) <= ROWS_EXAMINED else None


def _searched(
    connection: Connection, wanted: UserFilter, parameters: Mapping[str, Any], most: int
) -> UserPage:
    """A page of those who match among the next `ROWS_EXAMINED` users."""
    rows = connection.execute(_in_order(wanted.names), {**parameters, "examined": ROWS_EXAMINED}).all()
    matches = [row for row in rows if row.matches]
    if len(matches) > most:
        return UserPage([stored_user(row) for row in matches[:most]], matches[most - 1].id)
    ended = not rows or rows[-1].ordinal < ROWS_EXAMINED
    return UserPage([stored_user(row) for row in matches], None if ended else rows[-1].id)


@cache
def _among(names: tuple[str, ...]) -> TextClause:
    conditions = "".join(f" AND {_CONDITIONS[name]}" for name in names)
    return text(
        f"""{SELECT_USER} AND u.id = ANY(CAST(:ids AS bigint[])){conditions} ORDER BY u.id LIMIT :most"""
    )


@cache
def _in_order(names: tuple[str, ...]) -> TextClause:
    if not names:
        return text(f"{SELECT_USER} AND u.id > :after ORDER BY u.id LIMIT :most")
    conditions = " AND ".join(_CONDITIONS[name] for name in names)
    return text(f"""
WITH examined AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY id) AS ordinal FROM (
        SELECT id, {conditions} AS matches FROM users u
        WHERE u.tenant_id = :tenant_id AND u.id > :after ORDER BY u.id LIMIT :examined
    ) AS compared
),
shown AS MATERIALIZED (
    (SELECT * FROM examined WHERE matches ORDER BY id LIMIT :most)
    UNION
    SELECT * FROM examined WHERE ordinal = :examined
)
SELECT u.*, s.ordinal, s.matches
FROM shown s CROSS JOIN LATERAL ({SELECT_USER} AND u.id = s.id) AS u
ORDER BY s.ordinal""")
