"""Deliver one leased batch: claim, render, call the provider, record.

Nothing is open towards the database while the provider is called. The claim is committed first, so
that a crash leaves `sending` behind (outcome unknown: the same key is tried again under the next
lease, or held by the channel's policy); the outcomes are written in one transaction that begins by
closing the batch under its lease token, so that a worker whose lease has lapsed writes nothing.

While its provider takes nothing, a batch is handed back unclaimed, due when the provider is worth a try.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from threading import Event
from typing import Final

from loguru import logger
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from scheduler.clock import Clock
from scheduler.domain.batch import BatchState
from scheduler.domain.occasion import Channel
from scheduler.errors import LeaseLost
from scheduler.planner import Planner
from scheduler.store import batch_queries, batches, failures, further_batches, messages
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.database import in_transaction
from scheduler.store.direct import answers
from scheduler.store.failures import FailedAttempt
from worker.channels.port import DeliveryControl, Failed, Outcome, OutgoingMessage, Provider, all_named
from worker.claiming import ClaimedBatch, Claimer
from worker.policy import DeliveryPolicy
from worker.rendering import Renderer
from worker.results import BatchResult, sort_outcomes

_REST_BEFORE_RECORDING: Final = timedelta(seconds=1)


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
        renderer: Renderer | None = None,
    ) -> None:
        """Without a renderer messages carry no links."""
        self._engine = engine
        self._renderer = renderer or Renderer()
        self._claimer = Claimer(planner, policy, clock)
        self._providers = providers
        self._policy = policy
        self._clock = clock
        self._random = random

    def paused_channels(self) -> Collection[Channel]:
        """The channels whose providers take nothing as things are: their batches are not worth receiving."""
        return [
            channel for channel, provider in self._providers.items() if provider.pauses_until() is not None
        ]

    def deliver(
        self, batch: LeasedBatch, control: DeliveryControl, sent: Callable[[], None] = lambda: None
    ) -> Counts:
        """Deliver what still belongs to `batch` and record it; returns what became of it.

        `sent` is called once nothing more of it is to be sent, before that is recorded; not where this raises before.
        Raises LeaseLost where the lease lapsed on the way: nothing of the outcomes is written, and the
        next lease tries the same keys again. Raises DBAPIError where the database does not answer: at the
        claim once the batch is given back, with outcomes in hand once the lease is over as well.
        """
        provider = self._providers[batch.channel]
        try:
            claimed = in_transaction(
                self._engine, lambda connection: self._claimer.claim(connection, batch, provider)
            )
        except (OperationalError, InterfaceError):
            self._give_back(batch, control)
            raise
        if claimed is None:
            logger.bind(batch_id=batch.id, channel=batch.channel.value).info("batch_postponed")
            return Counts()
        result = self._send(batch, claimed, control)
        sent()
        counts = claimed.counts + self._record(batch, claimed, result, control)
        logger.bind(
            batch_id=batch.id,
            occasion=claimed.occasion.key,
            sent=counts.sent,
            retried=counts.retried,
            dead=counts.dead,
            expired=counts.expired,
            cancelled=counts.cancelled,
            handed_back=len(result.handed_back),
            **claimed.not_sent,
        ).log("WARNING" if counts.dead else "INFO", "batch_delivered")
        return counts

    def _give_back(self, batch: LeasedBatch, control: DeliveryControl) -> None:
        """Have a batch of which nothing was sent due again as soon as the database answers; else its lease lapses."""

        def work(connection: Connection) -> None:
            now = self._clock.now()
            batches.hand_back(connection, batch, Counts(), due_at=now, provider=batch.provider)
            # A COMMIT that raised may have taken effect; what was left by an earlier lease may be out.
            if batch.lease_token == 1:
                messages.hand_back(connection, batch, batch.user_ids)

        while not control.start_no_more():
            try:
                in_transaction(self._engine, work)
                logger.bind(batch_id=batch.id).info("batch_given_back")
                return
            except LeaseLost:
                return
            except (OperationalError, InterfaceError):
                self._clock.wait(Event(), self._clock.now() + _REST_BEFORE_RECORDING)

    def _send(self, batch: LeasedBatch, claimed: ClaimedBatch, control: DeliveryControl) -> BatchResult:
        outcomes = self._outcomes(batch, claimed, control) if claimed.ready else []
        return sort_outcomes(
            zip(claimed.ready, outcomes, strict=True),
            self._policy.retry_of(claimed.occasion, batch),
            self._random,
            holds_unknown=self._policy.holds(batch.channel),
        )

    def _outcomes(self, batch: LeasedBatch, claimed: ClaimedBatch, control: DeliveryControl) -> list[Outcome]:
        """One outcome each: what cannot be rendered fails by itself, the rest goes to the provider."""
        ready = claimed.ready
        rendered = self._renderer.render(batch, claimed.occasion, ready, self._clock.now())
        if claimed.bound_to:
            rendered = [
                _bound(each, claimed.bound_to.get(message.recipient.id))
                for message, each in zip(ready, rendered, strict=True)
            ]
        outgoing = [each for each in rendered if type(each) is OutgoingMessage]
        provider = self._providers[batch.channel]
        answered = provider.deliver(outgoing, control) if outgoing else []
        delivered = all_named(answered, provider.name)
        if len(outgoing) == len(rendered):
            return delivered
        rest = iter(delivered)
        return [each if isinstance(each, Failed) else next(rest) for each in rendered]

    def _record(
        self, batch: LeasedBatch, claimed: ClaimedBatch, result: BatchResult, control: DeliveryControl
    ) -> Counts:
        """Write the outcomes; while the database is away and the lease is held, again: else all is sent anew."""
        counts = _count(result)
        again = False

        def work(connection: Connection) -> None:
            # A COMMIT that raised may have taken effect.
            if not (again and batch_queries.is_finished(connection, batch)):
                self._write(connection, batch, claimed, result, counts)

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
        claimed: ClaimedBatch,
        result: BatchResult,
        counts: Counts,
    ) -> None:
        now = self._clock.now()
        # What was replanned may still be due now: the next lease finds it, or finds it moved.
        if result.handed_back or claimed.has_stale:
            due_at = result.hand_back_until or self._providers[batch.channel].pauses_until() or now
            bound_to = _bound_to(claimed, result.handed_back)
            batches.hand_back(connection, batch, counts, due_at=due_at, provider=bound_to)
            answers(connection, messages.accepting(batch, result.accepted, left=BatchState.PENDING))
        else:
            accepting = messages.accepting(batch, result.accepted)
            is_all = not result.failed
            batches.finish(connection, batch, counts, now=now, then=accepting, commits=is_all)
            if is_all:
                return
        messages.hand_back(connection, batch, result.handed_back)
        self._record_retries(connection, batch, result, now)
        self._record_failures(connection, batch, result.dead, result.failed)

    def _record_retries(
        self, connection: Connection, batch: LeasedBatch, result: BatchResult, now: datetime
    ) -> None:
        for retry, user_ids in sorted(result.retries.items()):
            messages.retry(connection, batch, user_ids)
            further_batches.add_retry(
                connection,
                batch,
                user_ids,
                attempt=retry.attempt,
                due_at=retry.due_at,
                now=now,
                provider=retry.provider or None,
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


def _count(result: BatchResult) -> Counts:
    return Counts(
        sent=len(result.accepted),
        retried=sum(map(len, result.retries.values())),
        dead=len(result.dead),
    )


def _bound_to(claimed: ClaimedBatch, user_ids: Collection[int]) -> str | None:
    """Who may have accepted some of these messages at an earlier attempt; of several the first by name."""
    names = {name for user_id in user_ids if (name := claimed.bound_to.get(user_id))}
    return min(names, default=None)


def _bound(rendered: OutgoingMessage | Failed, provider: str | None) -> OutgoingMessage | Failed:
    if provider is None or isinstance(rendered, Failed):
        return rendered
    return replace(rendered, bound_to=provider)
