"""Add thousands of users none of whom was ever there: their columns go straight into the tables.

Half of what `bulk_users` takes, which is for everybody else: nothing is staged, joined or returned, since the ids are
taken beforehand. Who is added meanwhile the key refuses; who was deleted, and would get their old id back, none of them
is added. COPY into these tables is not allowed under row-level security.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from typing import Any, Final

import orjson
from psycopg.errors import UniqueViolation
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from scheduler.domain.user_columns import OPTIONAL_TEXTS, REQUIRED_TEXTS, UserColumns
from scheduler.store.arrays import Bigints
from scheduler.store.bulk_users import AddedMeanwhile
from scheduler.store.direct import Call, Direct, answers

# A control character, which no value holds. What is empty is NULL in a column of its own, and so is a column without
# any value at all: nothing is sent of it, and the shorter of several sets ends in NULLs.
_SEPARATOR: Final = "\x01"
_TEXTS: Final = (*REQUIRED_TEXTS, *OPTIONAL_TEXTS, "preferred_time", "attributes")

_EPOCH_DAY: Final = date(2000, 1, 1).toordinal()


def _array(name: str) -> str:
    return f"string_to_array(CAST(:{name} AS text), E'\\x01', '')"


# In the list of a SELECT several sets are gone through side by side; in FROM each would be written out before.
_COLUMNS: Final = ", ".join(f"unnest({_array(name)}) AS {name}" for name in _TEXTS)


_VALUES: Final = {
    "last_name": "coalesce(i.last_name, '')",
    "preferred_time": "CAST(i.preferred_time AS time)",
    "attributes": "coalesce(CAST(i.attributes AS jsonb), '{}')",
}

# Counted, not whether there is any: a statement that may stop at the first would read all users instead of looking.
IDS: Final = Direct(f"""
SELECT CASE
    WHEN (SELECT count(*) FROM users WHERE tenant_id = :tenant_id AND external_id = ANY({_array("external_id")})) > 0
      OR (SELECT count(*) FROM deleted_users
          WHERE tenant_id = :tenant_id AND external_id = ANY({_array("external_id")})) > 0
    THEN NULL
    ELSE ARRAY(SELECT nextval('users_id_seq') FROM generate_series(1, CAST(:count AS integer)))
END AS ids""")
"""Ids for users; NULL where one of them is there, or was."""

ADD: Final = Direct(f"""
INSERT INTO users (id, tenant_id, {", ".join(_TEXTS)}, version, created_at, updated_at)
SELECT i.id, CAST(:tenant_id AS integer), {", ".join(_VALUES.get(name, f"i.{name}") for name in _TEXTS)}, 1,
       CAST(:now AS timestamptz), CAST(:now AS timestamptz)
FROM (SELECT unnest(CAST(:ids AS bigint[])) AS id, {_COLUMNS}) AS i
WHERE (SELECT count(*) FROM deleted_users
       WHERE tenant_id = :tenant_id AND external_id = ANY({_array("external_id")})) = 0
ORDER BY i.external_id""")
"""Adds all of them, or nobody where one was deleted meanwhile; in the order in which others lock and add."""

ADD_DATES: Final = Direct("""
INSERT INTO user_dates (user_id, name, tenant_id, value)
SELECT i.user_id, CAST(:name AS text), CAST(:tenant_id AS integer), date '2000-01-01' + CAST(i.day AS integer)
FROM (SELECT unnest(CAST(:user_ids AS bigint[])) AS user_id, unnest(CAST(:days AS bigint[])) AS day) AS i""")
"""Adds the dates of one name."""


def ids_for(connection: Connection, tenant_id: int, users: UserColumns) -> list[int] | None:
    """New ids for users whose external ids differ; None where one of them is there already, or was."""
    parameters = {
        "tenant_id": tenant_id,
        "external_id": _SEPARATOR.join(users.external_ids),
        "count": len(users),
    }
    [(ids,)] = IDS.tuples(connection, parameters)
    return None if ids is None else list(ids)


def add(
    connection: Connection, tenant_id: int, ids: Sequence[int], users: UserColumns, *, now: datetime
) -> None:
    """Add users under these ids. Raises AddedMeanwhile where one of them came, or came and went, since `ids_for`."""
    parameters: dict[str, Any] = {
        name: _SEPARATOR.join(column) if any(column) else "" for name, column in users.texts.items()
    }
    parameters |= {
        "tenant_id": tenant_id,
        "ids": Bigints(ids),
        "preferred_time": _joined(users.preferred_times, time.isoformat),
        "attributes": _joined(users.attributes, lambda each: orjson.dumps(each).decode()),
        "now": now,
    }
    try:
        added, *_ = answers(connection, [Call(ADD, parameters), *_dates(tenant_id, ids, users)])
    except IntegrityError as error:
        if isinstance(error.orig, UniqueViolation):
            raise AddedMeanwhile from None
        raise
    if added.changed != len(users):
        raise AddedMeanwhile


def _dates(tenant_id: int, ids: Sequence[int], users: UserColumns) -> Iterator[Call]:
    for name, (places, days) in users.dates.items():
        user_ids = ids if len(places) == len(ids) else [ids[place] for place in places]
        yield Call(
            ADD_DATES,
            {
                "tenant_id": tenant_id,
                "name": name,
                "user_ids": Bigints(user_ids),
                "days": Bigints([day.toordinal() - _EPOCH_DAY for day in days]),
            },
        )


def _joined(values: Sequence[Any], written: Any) -> str:
    """A column as text, empty where there is nothing."""
    if not any(values):
        return ""
    return _SEPARATOR.join([written(value) if value else "" for value in values])
