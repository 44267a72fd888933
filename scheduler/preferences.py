"""What recipients want no more of, as events: each with its instant, its log line, and harmless to repeat.

The audit log knows of each, without addresses: a suppression goes by its id there.

Nothing is replanned: who may be written to is looked at when a message is claimed, so an unsubscription holds
for all that no worker has claimed by then, and one taken back as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from loguru import logger
from sqlalchemy import Connection, Engine

from scheduler.clock import Clock
from scheduler.domain.access import SYSTEM, Actor
from scheduler.domain.address import normal_address
from scheduler.domain.occasion import Channel
from scheduler.domain.suppression import SuppressionReason
from scheduler.errors import NotFound
from scheduler.store import audit, occasions, preferences, users
from scheduler.store.preferences import NewSuppression, Suppression, Unsubscribe

_SUPPRESSION: Final = "suppression"


class Preferences:
    """Writes and reads the preferences of one database, for whoever acts."""

    def __init__(self, engine: Engine, clock: Clock, actor: Actor = SYSTEM) -> None:
        self._engine = engine
        self._clock = clock
        self._actor = actor

    def unsubscribe(
        self, tenant_id: int, user_id: int, channel: Channel, occasion_id: int | None, source: str
    ) -> bool:
        """No more of an occasion on a channel (None: of any) to a user; False where that was so already.

        The user need not exist: a link outlives them, and what they said with it holds if they come back.
        """
        with self._engine.begin() as connection:
            is_new = preferences.unsubscribe(
                connection, tenant_id, user_id, channel, occasion_id, source, self._clock.now()
            )
            if is_new:
                after = {"channel": channel, "occasion_id": occasion_id, "source": source}
                self._note(connection, tenant_id, "unsubscribe", "user", user_id, None, after)
        if is_new:
            logger.bind(channel=channel, occasion_id=occasion_id, source=source).info("unsubscribed")
        return is_new

    def resubscribe(
        self, tenant_id: int, user_id: int, channel: Channel, occasion_id: int | None, source: str
    ) -> bool:
        """Take an unsubscription of exactly this extent back; False where there was none."""
        with self._engine.begin() as connection:
            was_there = preferences.resubscribe(connection, tenant_id, user_id, channel, occasion_id)
            if was_there:
                before = {"channel": channel, "occasion_id": occasion_id}
                self._note(connection, tenant_id, "resubscribe", "user", user_id, before, None)
        if was_there:
            logger.bind(channel=channel, occasion_id=occasion_id, source=source).info("resubscribed")
        return was_there

    def of_user(self, tenant_id: int, user_id: int) -> list[Unsubscribe]:
        """All that a user wants no more of. Raises NotFound where there is no such user."""
        with self._engine.connect() as connection:
            if users.find(connection, tenant_id, user_id) is None:
                raise NotFound("user", user_id)
            return preferences.unsubscribes(connection, tenant_id, user_id)

    def occasion_id(self, tenant_id: int, key: str) -> int:
        """The id of the occasion with this key. Raises NotFound."""
        with self._engine.connect() as connection:
            occasion = None if "\0" in key else occasions.find(connection, tenant_id, key)
        if occasion is None:
            raise NotFound("occasion", key)
        return occasion.id

    def suppress(
        self, tenant_id: int, channel: Channel, address: str, reason: SuppressionReason, source: str
    ) -> tuple[Suppression, bool]:
        """Write to `address` no more: its entry, and whether that is new. An older one stays as it is."""
        new = NewSuppression(channel, address, reason)
        with self._engine.begin() as connection:
            while True:
                added = preferences.suppress_all(connection, tenant_id, [new], source, self._clock.now())
                entry = preferences.suppression_of(connection, tenant_id, channel, address)
                if entry is not None:  # else somebody removed it between the two statements
                    break
            if added:
                after = {"channel": channel, "reason": reason, "source": source}
                self._note(connection, tenant_id, "create", _SUPPRESSION, entry.id, None, after)
        if added:
            logger.bind(channel=channel, reason=reason, source=source).info("address_suppressed")
        return entry, bool(added)

    def suppress_all(self, tenant_id: int, new: Sequence[NewSuppression], source: str) -> int:
        """Some thousands of addresses at once; returns how many were not on the list yet."""
        once = {(each.channel, normal_address(each.channel, each.address)): each for each in reversed(new)}
        with self._engine.begin() as connection:
            added = preferences.suppress_all(
                connection, tenant_id, list(once.values()), source, self._clock.now()
            )
            if added:
                after = {"added": added, "source": source}
                self._note(connection, tenant_id, "import", _SUPPRESSION, "", None, after)
            return added

    def unsuppress(self, tenant_id: int, channel: Channel, address: str) -> bool:
        """Write to `address` again; False where it was not on the list."""
        with self._engine.begin() as connection:
            entry = preferences.suppression_of(connection, tenant_id, channel, address)
            was_there = preferences.unsuppress(connection, tenant_id, channel, address)
            if entry is not None and was_there:
                before = {"channel": channel, "reason": entry.reason, "source": entry.source}
                self._note(connection, tenant_id, "delete", _SUPPRESSION, entry.id, before, None)
        if was_there:
            logger.bind(channel=channel).info("address_released")
        return was_there

    def unsuppress_by_id(self, tenant_id: int, suppression_id: int) -> None:
        """Take an entry off the list. Raises NotFound."""
        with self._engine.begin() as connection:
            entry = preferences.unsuppress_by_id(connection, tenant_id, suppression_id)
            if entry is not None:
                before = {"channel": entry.channel, "reason": entry.reason, "source": entry.source}
                self._note(connection, tenant_id, "delete", _SUPPRESSION, suppression_id, before, None)
        if entry is None:
            raise NotFound("suppression", suppression_id)
        logger.info("address_released")

    def _note(
        self,
        connection: Connection,
        tenant_id: int,
        action: str,
        kind: str,
        subject: object,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
    ) -> None:
        by = replace(self._actor, tenant_id=tenant_id)
        audit.add(connection, by, action, kind, str(subject), before, after, now=self._clock.now())
