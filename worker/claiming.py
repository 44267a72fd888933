"""Claim one leased batch: what of it may be sent now, by every rule that holds at this moment.

All that is decided without sending is written in the transaction of the claim. So a worker that is killed
leaves in `sending` only what it may have sent, and a frequency cap counts nothing that was never going out.

In this order: what has grown too late ends; what an earlier lease left behind is buried where it must not be
tried again; the rest is claimed, and of it users who are gone, stale plans, missing addresses, suppressions,
unsubscribes, quiet hours and frequency caps are sorted out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from loguru import logger
from sqlalchemy import Connection

from scheduler.clock import Clock
from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import Occasion
from scheduler.planner import Planner
from scheduler.store import (
    batch_holds,
    batches,
    contact_rules,
    endings,
    failures,
    further_batches,
    messages,
    occasions,
    users,
)
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.contact_rules import GroupLimit
from scheduler.store.direct import answers
from scheduler.store.occasions import OccasionReader
from scheduler.texts.message_texts import needs_details
from worker.channels.failover import choose, providers_of
from worker.channels.port import Provider
from worker.claims import ReadyMessage, SortedClaims, sort_claims
from worker.policy import DeliveryPolicy

_REPLANNING_REST: Final = timedelta(seconds=2)
"""How soon a batch is looked at again whose occasion is being replanned."""


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """What is to be sent of a batch; all else is written already."""

    occasion: Occasion
    ready: Sequence[ReadyMessage] = ()
    counts: Counts = field(default_factory=Counts)
    """What ended at the claim, counted in the batch already."""
    not_sent: Mapping[str, int] = field(default_factory=dict)
    """Messages that were claimed and not sent, by the reason; for people to read."""
    has_stale: bool = False
    """Whether messages were replanned: the batch is looked at again, for they may still be due with it."""
    bound_to: Mapping[int, str] = field(default_factory=dict)
    """By user: the provider that may have accepted an earlier attempt, where another one could be given it."""


class Claimer:
    """Claims batches under the rules of contact. Used by one thread."""

    def __init__(self, planner: Planner, policy: DeliveryPolicy, clock: Clock) -> None:
        self._planner = planner
        self._policy = policy
        self._clock = clock
        self._occasions = OccasionReader()

    def claim(self, connection: Connection, batch: LeasedBatch, provider: Provider) -> ClaimedBatch | None:
        """Claim what is still to be sent, or hand the batch back (None) while its provider takes nothing, or its
        occasion may not be sent.

        The batch notes which provider the delivery that follows may give its messages to. Raises LeaseLost.
        """
        now = self._clock.now()
        reading = occasions.reading(batch.occasion_id)
        (found,) = batches.fence(connection, batch, provider=choose(provider), then=[reading])
        occasion = self._occasions.read(found, batch.occasion_id)
        if occasion.is_withheld:
            self._withhold(connection, batch, occasion, now)
            return None
        if now > self._policy.latest_at(occasion, batch):
            self._record_unanswered(connection, batch, provider, now)
            late = endings.end_late(connection, batch, now=now)
            batches.count(connection, batch.id, late)
            return ClaimedBatch(occasion, counts=late)
        if due_again := provider.pauses_until():
            batches.hand_back(connection, batch, Counts(), due_at=due_again, provider=batch.provider)
            return None
        self._record_unanswered(connection, batch, provider, now)
        ended = self._end_unanswered(connection, batch, occasion, now)
        claims = self._claim(connection, batch, occasion, now)
        ended += Counts(cancelled=sum(map(len, claims.cancelled.values())))
        batches.count(connection, batch.id, ended)
        return ClaimedBatch(
            occasion,
            claims.ready,
            ended,
            _not_sent(claims),
            has_stale=bool(claims.stale),
            bound_to=self._bound_to(connection, batch, claims.ready, provider),
        )

    def _withhold(
        self, connection: Connection, batch: LeasedBatch, occasion: Occasion, now: datetime
    ) -> None:
        """Send nothing of an occasion that pauses, or whose newest edit is still being replanned."""
        rest = _REPLANNING_REST if occasion.replan_from else timedelta()
        due_at = max(batch.due_at, now + rest)
        batches.hand_back(connection, batch, Counts(), due_at=due_at, provider=batch.provider)
        # Read again and locked: who resumes at this moment releases what is held, and must not miss this one.
        if occasions.is_paused(connection, occasion.id):
            batch_holds.hold(connection, occasion.id)

    def _record_unanswered(
        self, connection: Connection, batch: LeasedBatch, provider: Provider, now: datetime
    ) -> None:
        """Keep which provider may have accepted what a lost worker held: no other is given it."""
        if batch.lease_token > 1:
            endings.record_unanswered(connection, batch, providers_of(provider), now=now)

    def _end_unanswered(
        self, connection: Connection, batch: LeasedBatch, occasion: Occasion, now: datetime
    ) -> Counts:
        """What a lost worker held is tried again, up to the attempts allowed; none of it where it is to be held."""
        if batch.lease_token == 1:
            return Counts()
        holds = self._policy.holds(batch.channel)
        allowed = self._policy.retry_of(occasion, batch).max_attempts
        return endings.end_unanswered(connection, batch, from_attempt=0 if holds else allowed, now=now)

    def _claim(
        self, connection: Connection, batch: LeasedBatch, occasion: Occasion, now: datetime
    ) -> SortedClaims:
        limit = self._group_limit(connection, batch, occasion)
        # Of all its users rather than of those claimed: so all is asked for in one round trip.
        with_details = needs_details(occasion)
        claimed, recipients, *barring = answers(
            connection,
            [
                messages.claiming(batch),
                users.reading(batch.user_ids, with_details=with_details),
                *contact_rules.looking(batch, batch.user_ids),
            ],
        )
        claims = sort_claims(
            claimed.rows,
            users.recipients_of(recipients, with_details=with_details),
            batch.channel,
            follows_edits=self._planner.follows_edits(occasion, batch.local_date, now=now),
            follows_deferred=batch.local_date >= self._planner.follows_deferred_from(occasion, now=now),
        )
        claims.cancel(contact_rules.barred_by(connection, batch, claims.addresses, barring))
        if quiet := self._policy.quiet_hours_of(occasion, batch.channel):
            # By the clock of whoever made it due: one that is a second behind would put it off to the same instant.
            claims.defer(quiet, max(now, batch.due_at))
        if limit:
            first = [message.recipient.id for message in claims.ready if message.attempt == 1]
            used_up = contact_rules.capped(connection, batch, first, limit, now=now)
            claims.cancel(dict.fromkeys(used_up, NotSentReason.FREQUENCY_CAPPED))
        self._write(connection, batch, claims, now)
        return claims

    def _group_limit(
        self, connection: Connection, batch: LeasedBatch, occasion: Occasion
    ) -> GroupLimit | None:
        """The cap that holds for this batch, with its users locked; in the order of edits: users, then messages."""
        if batch.attempt:
            return None
        limit = contact_rules.group_limit(connection, occasion, lateness_limit=self._policy.lateness_limit)
        if limit:
            users.lock(connection, batch.user_ids)
        return limit

    def _write(self, connection: Connection, batch: LeasedBatch, claims: SortedClaims, now: datetime) -> None:
        for reason, user_ids in claims.cancelled.items():
            messages.cancel(connection, batch, user_ids, reason=reason)
        for deferral, user_ids in sorted(claims.deferred.items()):
            messages.defer(connection, batch, user_ids, until=deferral.until)
            further_batches.add_deferred(
                connection, batch, user_ids, attempt=deferral.attempt, until=deferral.until, now=now
            )
        if claims.stale:
            self._replan(connection, batch, claims.stale, now)

    def _replan(
        self, connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], now: datetime
    ) -> None:
        """Give back messages that were planned before their user was edited, and plan the user anew."""
        messages.hand_back(connection, batch, user_ids)
        present = users.lock(connection, user_ids)
        self._planner.replan_stored(connection, batch.tenant_id, present, now=now)
        logger.bind(batch_id=batch.id, users=len(user_ids)).info("stale_messages_replanned")

    def _bound_to(
        self,
        connection: Connection,
        batch: LeasedBatch,
        ready: Sequence[ReadyMessage],
        provider: Provider,
    ) -> Mapping[int, str]:
        """Who may have accepted an earlier attempt, as long as the channel has that provider."""
        present = providers_of(provider)
        if len(present) == 1:
            return {}
        again = [message.recipient.id for message in ready if message.attempt > 1]
        if not again:
            return {}
        known = failures.last_unknown(connection, batch, again)
        for gone, number in sorted(Counter(name for name in known.values() if name not in present).items()):
            logger.bind(channel=batch.channel.value, provider=gone, messages=number).warning(
                "provider_of_unknown_outcomes_gone"
            )
        return {user_id: name for user_id, name in known.items() if name in present}


def _not_sent(claims: SortedClaims) -> Mapping[str, int]:
    counted = {reason.value: len(user_ids) for reason, user_ids in claims.cancelled.items()}
    deferred = sum(map(len, claims.deferred.values()))
    return {
        name: number
        for name, number in {"deferred": deferred, "replanned": len(claims.stale), **counted}.items()
        if number
    }
