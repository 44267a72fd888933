"""Write some users at once: new ones, changed ones and deleted ones, with their entries in the audit log.

Two steps, a round trip each. `lock` keeps others from these users, waits for deletions under way, and reads them as
they are since. `write` does what was decided, shares planning and then reads the watermarks. In between nothing that
was read can change, but that somebody else adds a user: the write then fails, for all. `create` is both in one round
trip, where nobody but new users is to be written.

A user is given as JSON, which the audit log keeps as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from psycopg.errors import DivisionByZero, UniqueViolation
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from scheduler.domain.access import Actor
from scheduler.domain.occasion import Occasion
from scheduler.domain.user import UserInput
from scheduler.store import inbox, locks, users
from scheduler.store.bulk_users import AddedMeanwhile
from scheduler.store.direct import Call, Direct, Parameters, answers
from scheduler.store.known_occasions import UNCHANGED, WATERMARKS, unchanged
from scheduler.store.users import NOT_ERASED, SELECT_USER, StoredUser, stored_user

PATIENCE: Final = "2s"
"""How long a group waits for a lock, before its members are written alone: others wait in line for it."""

_HURRY: Final = text("SELECT set_config('lock_timeout', :patience, true)")

_LOCK: Final = text("""
SELECT id FROM users WHERE tenant_id = :tenant_id AND id = ANY(CAST(:user_ids AS bigint[]))
ORDER BY id FOR NO KEY UPDATE""")

# In the order of an expression: to have the ids in order, a plan that was made while the table was empty would go
# through all users of the tenant by the index of their ids, in each group until the table is first analyzed.
_LOCK_EXTERNAL: Final = text("""
SELECT id, external_id FROM users
WHERE tenant_id = :tenant_id AND external_id = ANY(CAST(:external_ids AS text[]))
ORDER BY id + 0 FOR NO KEY UPDATE""")

_READ: Final = text(f"{SELECT_USER} AND u.id = ANY(CAST(:user_ids AS bigint[]))")
_READ_EXTERNAL: Final = text(f"{SELECT_USER} AND u.external_id = ANY(CAST(:external_ids AS text[]))")

_INPUT: Final = """
given AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:users AS jsonb)) AS given (
        user_id bigint, tombstone text, actor text, address text, request_id text, "user" jsonb)
),
input AS MATERIALIZED (
    SELECT * FROM given CROSS JOIN LATERAL jsonb_to_record(given."user") AS input (
        external_id text, first_name text, last_name text, email text, phone text, push_token text,
        webhook_url text, timezone text, locale text, preferred_time time, dates jsonb, attributes jsonb)
)"""

_NAMES: Final = (
    "external_id, first_name, last_name, email, phone, push_token, webhook_url, timezone, locale, preferred_time,"
    " attributes"
)
_VALUES: Final = ", ".join(f"i.{name}" for name in _NAMES.split(", "))

# Users and deletions are looked up by an array, not joined: for the same reason.
_CREATE: Final = text(f"""
WITH {_INPUT},
taken AS MATERIALIZED (
    SELECT id, external_id FROM users
    WHERE tenant_id = :tenant_id AND external_id = ANY(CAST(:external_ids AS text[]))
),
written AS (
    INSERT INTO users (id, tenant_id, {_NAMES}, version, created_at, updated_at)
    SELECT coalesce(d.user_id, nextval('users_id_seq')), :tenant_id, {_VALUES}, coalesce(d.version, 0) + 1, :now, :now
    FROM input i
    LEFT JOIN deleted_users d ON d.tenant_id = :tenant_id AND d.external_id = i.external_id
        AND d.external_id = ANY(CAST(:external_ids AS text[]))
        AND NOT EXISTS (SELECT FROM users renamed WHERE renamed.id = d.user_id)
    WHERE i.external_id <> ALL (ARRAY(SELECT external_id FROM taken))
      AND {NOT_ERASED.format(tombstone="decode(i.tombstone, 'hex')")}
    ORDER BY i.external_id
    RETURNING id, external_id, version
),
written_dates AS (
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT w.id, each.key, :tenant_id, CAST(each.value AS date)
    FROM written w JOIN input i USING (external_id) CROSS JOIN LATERAL jsonb_each_text(i.dates) AS each
),
noted AS (
    INSERT INTO audit_log (at, tenant_id, actor, address, request_id, action, kind, subject, before, after)
    SELECT :now, :tenant_id, i.actor, i.address, i.request_id, 'create', 'user', CAST(w.id AS text), NULL, i."user"
    FROM written w JOIN input i USING (external_id)
)
SELECT id, external_id, version FROM written
UNION ALL SELECT id, external_id, 0 FROM taken""")

_CHANGE: Final = text(f"""
WITH {_INPUT},
written AS (
    UPDATE users u SET ({_NAMES}, version, updated_at) = ROW ({_VALUES}, u.version + 1, :now)
    FROM input i
    WHERE u.id = i.user_id AND u.tenant_id = :tenant_id AND u.id = ANY(CAST(:user_ids AS bigint[]))
    RETURNING u.id, u.version, i.dates
),
input_dates AS MATERIALIZED (
    SELECT w.id AS user_id, each.key AS name, CAST(each.value AS date) AS value
    FROM written w CROSS JOIN LATERAL jsonb_each_text(w.dates) AS each
),
removed_dates AS (
    DELETE FROM user_dates d USING written w
    WHERE d.user_id = w.id AND d.user_id = ANY(CAST(:user_ids AS bigint[])) AND NOT w.dates ? d.name
),
written_dates AS (
    INSERT INTO user_dates (user_id, name, tenant_id, value)
    SELECT user_id, name, :tenant_id, value FROM input_dates
    ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value WHERE user_dates.value <> excluded.value
)
SELECT id, version FROM written""")

_NOTE: Final = text("""
INSERT INTO audit_log (at, tenant_id, actor, address, request_id, action, kind, subject, before, after)
SELECT :now, :tenant_id, e.actor, e.address, e.request_id, e.action, 'user', e.subject, e.before, e.after
FROM jsonb_to_recordset(CAST(:entries AS jsonb)) AS e (
    actor text, address text, request_id text, action text, subject text, before jsonb, after jsonb)
RETURNING id""")

_DIRECT_HURRY: Final = Direct(_HURRY)
_DIRECT_LOCK: Final = Direct(_LOCK)
_DIRECT_LOCK_EXTERNAL: Final = Direct(_LOCK_EXTERNAL)
_DIRECT_READ: Final = Direct(_READ)
_DIRECT_READ_EXTERNAL: Final = Direct(_READ_EXTERNAL)
_DIRECT_CREATE: Final = Direct(_CREATE)
_DIRECT_CHANGE: Final = Direct(_CHANGE)
_DIRECT_DELETE: Final = Direct(users.DELETE)
_DIRECT_EMPTY_INBOXES: Final = Direct(inbox.REMOVE_ALL)
_DIRECT_NOTE: Final = Direct(_NOTE)
_DIRECT_SHARE: Final = Direct(locks.SHARE)


@dataclass(frozen=True, slots=True)
class LockedUsers:
    """Who there is of those who were asked for: as they are and stay until the transaction ends.

    `owners` has the ids by the external ids that were asked for, also of those who were not read.
    """

    by_id: Mapping[int, StoredUser]
    owners: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to add, by whom, and the hash that their erasure would be known by (None: there is no key for it)."""

    user: UserInput
    actor: Actor
    tombstone: bytes | None


@dataclass(frozen=True, slots=True)
class Note:
    """An entry for the audit log about a user; `before` and `after` as `audit.add` has them."""

    user_id: int
    actor: Actor
    action: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class UserWrites:
    """What to write. External ids differ, and each user is there once; `notes` are of the changed and the deleted."""

    new: Sequence[NewUser] = ()
    changed: Mapping[int, UserInput] = field(default_factory=dict)
    deleted_ids: Sequence[int] = ()
    notes: Sequence[Note] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    `created`: id and version by external id, without those who were erased, or whose external id is `taken`.
    `versions`: of the changed. `watermarks`: the rows of `WATERMARKS`, as of when planning was shared; none where it is
    committed already.
    """

    created: Mapping[str, tuple[int, int]]
    taken: frozenset[str]
    versions: Mapping[int, int]
    watermarks: Sequence[Any]


class PlannedMeanwhile(Exception):
    """The occasions are no longer what they were last known to be: nothing was written."""


def lock(
    connection: Connection,
    tenant_id: int,
    *,
    user_ids: Iterable[int] = (),
    external_ids: Iterable[str] = (),
    wanted: Iterable[str] = (),
    hurries: bool = False,
) -> LockedUsers:
    """Lock and read the users of these ids and external ids; lock, not read, those who have a `wanted` external id.

    Who `hurries` has `PATIENCE` for each lock, to the end of the transaction.
    """
    keys, names = sorted(user_ids), sorted(external_ids)
    by_id: dict[str, Any] = {"tenant_id": tenant_id, "user_ids": keys}
    by_external_id: dict[str, Any] = {"tenant_id": tenant_id, "external_ids": names}
    owners: dict[str, Any] = {"tenant_id": tenant_id, "external_ids": sorted({*names, *wanted})}
    calls = _hurry(hurries)
    if keys:
        calls.append((_DIRECT_LOCK, by_id))
    if owners["external_ids"]:
        calls.append((_DIRECT_LOCK_EXTERNAL, owners))
    # Statements of their own: the dates of a user are read as they are once the lock is held (see `users`).
    if keys:
        calls.append((_DIRECT_READ, by_id))
    if names:
        calls.append((_DIRECT_READ_EXTERNAL, by_external_id))
    rows = _answered(connection, calls)
    found = [*rows.get(_DIRECT_READ, ()), *rows.get(_DIRECT_READ_EXTERNAL, ())]
    return LockedUsers(
        {row.id: stored_user(row) for row in found},
        {row.external_id: row.id for row in rows.get(_DIRECT_LOCK_EXTERNAL, ())},
    )


def create(
    connection: Connection,
    tenant_id: int,
    new: Sequence[NewUser],
    *,
    now: datetime,
    hurries: bool = False,
    known: Sequence[Occasion] = (),
) -> Written:
    """Add all whose external id is free, without a `lock` before, and share planning; `hurries` as there.

    Where `known` occasions are given it is committed as well, if they are all that there are and as they were.
    Raises AddedMeanwhile, or PlannedMeanwhile where they are not.
    """
    # First by a statement of its own: it waits for deletions under way, and the next one sees them.
    owners = {"tenant_id": tenant_id, "external_ids": sorted(each.user.external_id for each in new)}
    calls = [*_hurry(hurries), (_DIRECT_LOCK_EXTERNAL, owners), _creation(tenant_id, new, now)]
    return _written(connection, tenant_id, calls, known)


def write(connection: Connection, tenant_id: int, writes: UserWrites, *, now: datetime) -> Written:
    """Do all of this, and share planning. Raises AddedMeanwhile where an external id was taken since the lock."""
    written = {"tenant_id": tenant_id, "now": now}
    calls: list[tuple[Direct, Parameters]] = []
    # Who goes first leaves room: nobody of the same external id is both deleted and added.
    if writes.deleted_ids:
        deleted = written | {"user_ids": sorted(writes.deleted_ids)}
        # By a statement of its own: what a worker put in while the deletion waited for it is seen as well.
        calls += [(_DIRECT_DELETE, deleted), (_DIRECT_EMPTY_INBOXES, deleted)]
    if writes.changed:
        changed = {"user_ids": sorted(writes.changed), "users": _changed_as_json(writes.changed)}
        calls.append((_DIRECT_CHANGE, written | changed))
    if writes.new:
        calls.append(_creation(tenant_id, writes.new, now))
    if writes.notes:
        calls.append((_DIRECT_NOTE, written | {"entries": _notes_as_json(writes.notes)}))
    done = _written(connection, tenant_id, calls)
    if done.taken:
        raise AddedMeanwhile
    return done


def _hurry(hurries: bool) -> list[tuple[Direct, Parameters]]:
    return [(_DIRECT_HURRY, {"patience": PATIENCE})] if hurries else []


def _creation(tenant_id: int, new: Sequence[NewUser], now: datetime) -> tuple[Direct, Parameters]:
    return _DIRECT_CREATE, {
        "tenant_id": tenant_id,
        "now": now,
        "external_ids": [each.user.external_id for each in new],
        "users": _new_as_json(new),
    }


def _written(
    connection: Connection,
    tenant_id: int,
    calls: Sequence[tuple[Direct, Parameters]],
    known: Sequence[Occasion] = (),
) -> Written:
    """Execute these and share planning; commit, if occasions are `known`.

    Raises AddedMeanwhile where somebody adds the same user at the same time, or PlannedMeanwhile.
    """
    sharing = (_DIRECT_SHARE, locks.planning_of(tenant_id))
    looking = (UNCHANGED, unchanged(tenant_id, known)) if known else (WATERMARKS, {"tenant_id": tenant_id})
    try:
        rows = _answered(connection, [*calls, sharing, looking], commits=bool(known))
    except DBAPIError as error:
        if isinstance(error.orig, UniqueViolation):
            raise AddedMeanwhile from None
        if isinstance(error.orig, DivisionByZero):
            raise PlannedMeanwhile from None
        raise
    # Who has been there has no version here.
    new = rows.get(_DIRECT_CREATE, ())
    return Written(
        {row.external_id: (row.id, row.version) for row in new if row.version},
        frozenset(row.external_id for row in new if not row.version),
        {row.id: row.version for row in rows.get(_DIRECT_CHANGE, ())},
        rows.get(WATERMARKS, ()),
    )


def _answered(
    connection: Connection, calls: Sequence[tuple[Direct, Parameters]], *, commits: bool = False
) -> dict[Direct, Sequence[Any]]:
    """The rows of each statement, all in one round trip."""
    done = answers(connection, [Call(*each, is_named=True) for each in calls], commits=commits)
    return {statement: each.rows for (statement, _), each in zip(calls, done, strict=True)}


def _new_as_json(new: Sequence[NewUser]) -> str:
    return _json(
        _by(each.actor)
        | {
            "user": orjson.Fragment(each.user.model_dump_json()),
            "tombstone": None if each.tombstone is None else each.tombstone.hex(),
        }
        for each in new
    )


def _changed_as_json(changed: Mapping[int, UserInput]) -> str:
    return _json(
        {"user_id": user_id, "user": orjson.Fragment(user.model_dump_json())}
        for user_id, user in changed.items()
    )


def _notes_as_json(notes: Sequence[Note]) -> str:
    return _json(
        _by(note.actor)
        | {
            "action": note.action,
            "subject": str(note.user_id),
            "before": note.before,
            "after": note.after,
        }
        for note in notes
    )


def _by(actor: Actor) -> dict[str, Any]:
    return {"actor": actor.name, "address": actor.address, "request_id": actor.request_id}


def _json(items: Iterable[Mapping[str, Any]]) -> str:
    return orjson.dumps(list(items)).decode()
