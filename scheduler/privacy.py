"""What a person may ask of us: everything that is known of them, and to be forgotten.

Erased is what could tell who they are: the user with their dates and attributes, their inbox, what they unsubscribed
from, their addresses on the suppression list (unless somebody else has them too), the details of failures and
reports, what was said to them alone, what the audit log had of them, and answers kept for repeated requests. What
waits for them is removed. Rows of the message log stay, with the id alone, so that counts stay right. A keyed hash of
their external id keeps them from coming back by an import, until an administrator allows it.

Limits, to be told to whoever asks:
- Files are not reached: the outbox of the provider of that name, backups, log lines (which name nobody), exports.
- Providers keep what they were sent.
- A message that a worker sends at this moment goes out; what its provider reports of it later names the id alone.
- Addresses of earlier days are known from the audit log; where its entries are gone, they stay suppressed.
- PostgreSQL overwrites what was removed by and by (VACUUM), and its write-ahead log is kept as long as it is set to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import Actor
from scheduler.domain.address import normal_address
from scheduler.domain.occasion import Channel
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import UserInput
from scheduler.errors import NotFound
from scheduler.planner import Planner
from scheduler.store import audit, erasure, personal_data, users
from scheduler.store.audit import AuditEntry
from scheduler.store.database import in_transaction

_KIND: Final = "user"
_ADDRESSES: Final[Mapping[str, Channel]] = {
    "email": Channel.EMAIL,
    "phone": Channel.SMS,
    "push_token": Channel.PUSH,
    "webhook_url": Channel.WEBHOOK,
}
_TELLING: Final = ("external_id", "first_name", "last_name", *_ADDRESSES)
"""The fields whose values tell who somebody is, wherever they stand."""

_LEAST_NEEDLE: Final = 4


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: rows by kind. `already`: the person had been erased before; what was left is gone now."""

    user_id: int
    already: bool
    removed_messages: int
    counts: Mapping[str, int] = field(default_factory=dict)


class Privacy:
    """Tells and erases what one database knows of a person. Safe to use from several threads."""

    def __init__(self, engine: Engine, planner: Planner, clock: Clock, tombstones: Tombstones) -> None:
        self._engine = engine
        self._planner = planner
        self._clock = clock
        self._tombstones = tombstones

    def export(self, tenant_id: int, user_id: int) -> dict[str, Any]:
        """All that is stored of a user, also of one who was deleted. Raises NotFound."""

        def work(connection: Connection) -> dict[str, Any]:
            user = users.find(connection, tenant_id, user_id)
            found = personal_data.of_user(connection, tenant_id, user_id)
            if user is None and not found["deleted"]:
                raise NotFound("user", user_id)
            entries = erasure.entries_about(connection, tenant_id, user_id)
            known = _known(None if user is None else user.values, entries)
            addresses = _addresses(known)
            return {
                "user": None if user is None else _whole(user),
                **found,
                "suppressions": personal_data.suppressions_of(connection, tenant_id, addresses),
                "audit": [asdict(entry) for entry in entries],
            }

        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            return work(connection)

    def find(self, tenant_id: int, external_id: str) -> int:
        """The id of a user, also of one who was deleted, by external id. Raises NotFound."""
        with self._engine.connect() as connection:
            user = users.find_external(connection, tenant_id, external_id)
            found = erasure.deleted_id(connection, tenant_id, external_id) if user is None else user.id
        if found is None:
            raise NotFound("user", external_id)
        return found

    def erase(self, actor: Actor, user_id: int, reason: str) -> Erased:
        """Forget a user, also one who was deleted; harmless to repeat. `reason` is kept, so it must name nobody.

        Raises NotFound for an id that nobody has or had.
        """

        def work(connection: Connection) -> Erased:
            return self._erase(connection, actor, user_id, reason, self._clock.now())

        erased = in_transaction(self._engine, work)
        logger.bind(user_id=user_id, already=erased.already).info("user_erased")
        return erased

    def allow(self, actor: Actor, external_id: str, reason: str) -> bool:
        """Let somebody who was erased come back under their external id; False where nothing kept them from it."""
        now = self._clock.now()
        tombstone = self._tombstones.of(actor.tenant_id, external_id)
        with self._engine.begin() as connection:
            was_there = erasure.allow(connection, actor.tenant_id, tombstone)
            if was_there:
                after = {"reason": reason}
                audit.add(connection, actor, "allow", "erased_user", tombstone.hex(), None, after, now=now)
        return was_there

    def _erase(
        self, connection: Connection, actor: Actor, user_id: int, reason: str, now: datetime
    ) -> Erased:
        tenant_id = actor.tenant_id
        erasure.begin(connection)
        users.lock(connection, [user_id])
        user = users.find(connection, tenant_id, user_id)
        entries = erasure.entries_about(connection, tenant_id, user_id)
        # Before the user goes, and with them what is theirs alone: so all of it is counted.
        scrubbed = erasure.scrub(connection, tenant_id, user_id, now=now)
        users.delete(connection, tenant_id, user_id, now=now)
        external_ids = erasure.forget_deleted(connection, tenant_id, user_id)
        already = any(entry.action == erasure.ERASE for entry in entries)
        if not external_ids and not already:
            raise NotFound("user", user_id)
        tombstones = [self._tombstones.of(tenant_id, external_id) for external_id in external_ids]
        erasure.remember(connection, tenant_id, tombstones, now=now)
        known = _known(None if user is None else user.values, entries, external_ids)
        removed = self._planner.remove(connection, tenant_id, [user_id], now=now).removed
        counts = {
            "user": int(user is not None),
            **scrubbed,
            "kept_answers": erasure.scrub_answers(connection, tenant_id, _needles(known)),
            "suppressions": erasure.unsuppress(connection, tenant_id, user_id, _addresses(known)),
        }
        after = {"reason": reason, "removed_messages": removed, "rows": counts}
        audit.add(connection, actor, erasure.ERASE, _KIND, str(user_id), None, after, now=now)
        return Erased(user_id, already, removed, counts)


def _known(
    user: UserInput | None, entries: Iterable[AuditEntry], external_ids: Sequence[str] = ()
) -> dict[str, set[str]]:
    """What each telling field of a person is, and what it was as far as the audit log knows."""
    known: dict[str, set[str]] = {name: set() for name in _TELLING}
    known["external_id"] |= set(external_ids)
    states: list[Mapping[str, Any]] = [] if user is None else [user.model_dump()]
    states += [state for entry in entries for state in (entry.before, entry.after) if state]
    for state in states:
        for name in _TELLING:
            value = state.get(name)
            if isinstance(value, str) and value:
                known[name].add(value)
    return known


def _addresses(known: Mapping[str, Iterable[str]]) -> list[tuple[Channel, str]]:
    return sorted(
        {
            (channel, normal_address(channel, address))
            for name, channel in _ADDRESSES.items()
            for address in known[name]
        }
    )


def _needles(known: Mapping[str, Iterable[str]]) -> list[bytes]:
    """The values as they stand in an answer, which is JSON; a short one only where it stands alone."""
    written = {orjson.dumps(value) for values in known.values() for value in values}
    return sorted(value if len(value) < _LEAST_NEEDLE + 2 else value[1:-1] for value in written)


def _whole(user: users.StoredUser) -> dict[str, Any]:
    stored = {
        "id": user.id,
        "version": user.version,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }
    return stored | user.values.model_dump(mode="json")
