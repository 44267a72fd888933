"""What recipients want no more of, as events: each with its instant, its log line, and harmless to repeat.

Nothing is replanned: who may be written to is looked at when a message is claimed, so an unsubscription holds
for all that no worker has claimed by then, and one taken back as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from loguru import logger
from sqlalchemy import Engine

from scheduler.clock import Clock
from scheduler.domain.address import normal_address
from scheduler.domain.occasion import Channel
from scheduler.domain.suppression import SuppressionReason
from scheduler.errors import NotFound
from scheduler.store import occasions, preferences, users
from scheduler.store.preferences import NewSuppression, Suppression, Unsubscribe


class Preferences:
    """Writes and reads the preferences of one database."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

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
            logger.bind(channel=channel, occasion_id=occasion_id, source=source).info("unsubscribed")
        return is_new

    def resubscribe(
        self, tenant_id: int, user_id: int, channel: Channel, occasion_id: int | None, source: str
    ) -> bool:
        """Take an unsubscription of exactly this extent back; False where there was none."""
        with self._engine.begin() as connection:
            was_there = preferences.resubscribe(connection, tenant_id, user_id, channel, occasion_id)
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
            logger.bind(channel=channel, reason=reason, source=source).info("address_suppressed")
        return entry, bool(added)

    def suppress_all(self, tenant_id: int, new: Sequence[NewSuppression], source: str) -> int:
        """Some thousands of addresses at once; returns how many were not on the list yet."""
        once = {(each.channel, normal_address(each.channel, each.address)): each for each in reversed(new)}
        with self._engine.begin() as connection:
            return preferences.suppress_all(
                connection, tenant_id, list(once.values()), source, self._clock.now()
            )

    def unsuppress(self, tenant_id: int, channel: Channel, address: str) -> bool:
        """Write to `address` again; False where it was not on the list."""
        with self._engine.begin() as connection:
            was_there = preferences.unsuppress(connection, tenant_id, channel, address)
        if was_there:
            logger.bind(channel=channel).info("address_released")
        return was_there

    def unsuppress_by_id(self, tenant_id: int, suppression_id: int) -> None:
        """Take an entry off the list. Raises NotFound."""
        with self._engine.begin() as connection:
            was_there = preferences.unsuppress_by_id(connection, tenant_id, suppression_id)
        if not was_there:
            raise NotFound("suppression", suppression_id)
        logger.info("address_released")
