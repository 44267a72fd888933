"""Deliver one leased batch: claim, render, call the provider, record.

Nothing is open towards the database while the provider is called. The claim is committed first, so
that a crash leaves `sending` behind (outcome unknown: the same key is tried again under the next
lease); the outcomes are written in one transaction that begins by closing the batch under its lease
token, so that a worker whose lease has lapsed writes nothing.

While its provider takes nothing, a batch is handed back unclaimed, due when the provider is worth a try.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from threading import Event
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from scheduler.clock import Clock
from scheduler.domain.message import OUTCOME_UNKNOWN, NotSentReason
from scheduler.domain.occasion import Channel, Occasion
from scheduler.domain.retry import RetryPolicy
from scheduler.planner import Planner
from scheduler.store import batches, failures, messages, occasions, users
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.database import in_transaction
from scheduler.store.failures import FailedAttempt
from scheduler.store.messages import ClaimedMessage
from worker.channels.port import DeliveryControl, Failed, Outcome, OutgoingMessage, Provider
from worker.claims import ReadyMessage, SortedClaims, sort_claims
from worker.rendering import render
from worker.results import BatchResult, sort_outcomes

_REST_BEFORE_RECORDING: Final = timedelta(seconds=1)
_NEVER_ANSWERED: Final = "the last attempt was begun and nothing is known of its end"


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """The settings that hold for occasions which set nothing of their own."""

    lateness_limit: timedelta
    retry: RetryPolicy


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A claimed batch: what is to be sent, and what was decided without sending."""

    occasion: Occasion
    claims: SortedClaims
    expired: int


class Deliverer:
    """Delivers batches through one provider a channel. Used by one thread."""

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        providers: Mapping[Channel, Provider],
        policy: DeliveryPolicy,
        clock: Clock,
        random: Random,
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._providers = providers
        self._policy = policy
        self._clock = clock
        self._random = random

    def paused_channels(self) -> Collection[Channel]:
        """The channels whose providers take nothing as things are: their batches are not worth receiving."""
        return [
            channel for channel, provider in self._providers.items() if provider.pauses_until() is not None
        ]

    def deliver(self, batch: LeasedBatch, control: DeliveryControl) -> Counts:
        """Deliver what still belongs to `batch` and record it; returns what became of it.

        Raises LeaseLost where the lease lapsed on the way: nothing of the outcomes is written, and the
        next lease tries the same keys again. Raises DBAPIError where the database does not answer: at the
        claim at once, with outcomes in hand once the lease is over as well.
        """
        prepared = in_transaction(self._engine, lambda connection: self._claim(connection, batch))
        if prepared is None:
            logger.bind(batch_id=batch.id, channel=batch.channel.value).info("batch_postponed")
            return Counts()
        result = self._send(batch, prepared, control)
        counts = self._record(batch, prepared, result, control)
        logger.bind(
            batch_id=batch.id,
            occasion=prepared.occasion.key,
            sent=counts.sent,
            retried=counts.retried,
            dead=counts.dead,
            expired=counts.expired,
            cancelled=counts.cancelled,
            handed_back=len(result.handed_back),
        ).log("WARNING" if counts.dead else "INFO", "batch_delivered")
        return counts

    def _claim(self, connection: Connection, batch: LeasedBatch) -> _Prepared | None:
        """Claim what is still to be sent, or hand the batch back while its provider takes nothing (None)."""
        now = self._clock.now()
        batches.fence(connection, batch)
        occasion = occasions.by_id(connection, [batch.occasion_id])[batch.occasion_id]
        is_late = now > batch.send_at + (occasion.lateness_limit or self._policy.lateness_limit)
        due_again = None if is_late else self._providers[batch.channel].pauses_until()
        if due_again is not None:
            batches.hand_back(connection, batch, Counts(), due_at=due_again)
            return None
        expired = messages.expire(connection, batch) if is_late else 0
        claimed = messages.claim(connection, batch)
        if is_late:
            # Only what an earlier lease left in `sending` can be claimed past the limit: too late to try again.
            return _Prepared(occasion, SortedClaims(exhausted=claimed), expired)
        recipients = users.recipients(connection, [message.user_id for message in claimed])
        max_attempts = batch.max_attempts or self._retry_policy(occasion).max_attempts
        claims = sort_claims(claimed, recipients, batch.channel, max_attempts)
        if claims.stale:
            self._replan(connection, batch, claims.stale, now)
        return _Prepared(occasion, claims, expired)

    def _replan(
        self, connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], now: datetime
    ) -> None:
        """Give back messages that were planned before their user was edited, and plan the user anew."""
        messages.hand_back(connection, batch, user_ids)
        present = users.lock(connection, user_ids)
        self._planner.replan_stored(connection, batch.tenant_id, present, now=now)
        logger.bind(batch_id=batch.id, users=len(user_ids)).info("stale_messages_replanned")

    def _send(self, batch: LeasedBatch, prepared: _Prepared, control: DeliveryControl) -> BatchResult:
        ready = prepared.claims.ready
        policy = self._retry_policy(prepared.occasion)
        if batch.max_attempts is not None:
            policy = replace(policy, max_attempts=batch.max_attempts)
        outcomes = self._outcomes(batch, prepared.occasion, ready, control) if ready else []
        return sort_outcomes(zip(ready, outcomes, strict=True), policy, self._random)

    def _outcomes(
        self, batch: LeasedBatch, occasion: Occasion, ready: Sequence[ReadyMessage], control: DeliveryControl
    ) -> list[Outcome]:
        """One outcome each: what cannot be rendered fails by itself, the rest goes to the provider."""
        rendered = render(batch, occasion, ready, self._clock.now())
        outgoing = [message for message in rendered if isinstance(message, OutgoingMessage)]
        delivered = iter(self._providers[batch.channel].deliver(outgoing, control) if outgoing else ())
        return [each if isinstance(each, Failed) else next(delivered) for each in rendered]

    def _record(
        self, batch: LeasedBatch, prepared: _Prepared, result: BatchResult, control: DeliveryControl
    ) -> Counts:
        """Write the outcomes; while the database is away and the lease is held, again: else all is sent anew."""
        counts = _count(prepared, result)
        again = False

        def work(connection: Connection) -> None:
            # A COMMIT that raised may have taken effect.
            if not (again and batches.is_finished(connection, batch)):
                self._write(connection, batch, prepared, result, counts)

        while True:
            try:
                in_transaction(self._engine, work)
                return counts
            except (OperationalError, InterfaceError) as error:
                if control.abandon():
                    raise
                logger.bind(batch_id=batch.id, cause=type(error.orig).__name__).warning("recording_failed")
            again = True
            self._clock.wait(Event(), self._clock.now() + _REST_BEFORE_RECORDING)

    def _write(
        self,
        connection: Connection,
        batch: LeasedBatch,
        prepared: _Prepared,
        result: BatchResult,
        counts: Counts,
    ) -> None:
        now = self._clock.now()
        claims = prepared.claims
        # What was replanned may still be due now: the next lease finds it, or finds it moved.
        if result.handed_back or claims.stale:
            due_at = result.hand_back_until or self._providers[batch.channel].pauses_until() or now
            batches.hand_back(connection, batch, counts, due_at=due_at)
        else:
            batches.finish(connection, batch, counts, now=now)
        messages.accept(connection, batch, result.accepted)
        messages.hand_back(connection, batch, result.handed_back)
        messages.cancel(connection, batch, claims.deleted, reason=NotSentReason.USER_DELETED)
        messages.cancel(connection, batch, claims.unreachable, reason=NotSentReason.NO_ADDRESS)
        self._record_retries(connection, batch, result, now)
        dead = result.dead + [_unanswered(message, now) for message in claims.exhausted]
        self._record_failures(connection, batch, dead, result.failed)

    def _record_retries(
        self, connection: Connection, batch: LeasedBatch, result: BatchResult, now: datetime
    ) -> None:
        for retry, user_ids in sorted(result.retries.items()):
            messages.retry(connection, batch, user_ids)
            batches.add_retry(
                connection, batch, user_ids, attempt=retry.attempt, due_at=retry.due_at, now=now
            )

    def _record_failures(
        self,
        connection: Connection,
        batch: LeasedBatch,
        dead: Sequence[FailedAttempt],
        failed: Sequence[FailedAttempt],
    ) -> None:
        for category in sorted({letter.category for letter in dead}):
            buried = [letter.user_id for letter in dead if letter.category == category]
            messages.bury(connection, batch, buried, category=category)
        failures.add_dead_letters(connection, batch, dead)
        failures.add_attempts(connection, batch, failed)

    def _retry_policy(self, occasion: Occasion) -> RetryPolicy:
        return occasion.retry or self._policy.retry


def _count(prepared: _Prepared, result: BatchResult) -> Counts:
    claims = prepared.claims
    return Counts(
        sent=len(result.accepted),
        retried=sum(len(user_ids) for user_ids in result.retries.values()),
        dead=len(result.dead) + len(claims.exhausted),
        expired=prepared.expired,
        cancelled=len(claims.deleted) + len(claims.unreachable),
    )


def _unanswered(message: ClaimedMessage, now: datetime) -> FailedAttempt:
    return FailedAttempt(
        user_id=message.user_id,
        attempt=message.attempt,
        kind="unknown",
        category=OUTCOME_UNKNOWN,
        detail=_NEVER_ANSWERED,
        failed_at=now,
    )
