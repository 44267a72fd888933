"""What a broker promises, whichever it is (tests/integration/broker_contract.py holds them to it).

A broker carries batch ids, never truth: a batch published twice is leased once, and a batch whose
publication is lost lapses and is enqueued again. So a broker may deliver at least once or lose
everything it holds; it may not deliver under one lease to two workers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from scheduler.domain.occasion import Channel
from scheduler.store.batches import BatchReference, LeasedBatch, Queue


class Delivery(Protocol):
    """A leased batch on its way through a worker."""

    @property
    def batch(self) -> LeasedBatch:
        """The batch, leased to the receiving worker."""

    def settle(self) -> None:
        """Tell the broker that it need not keep the batch: it is leased in the log, which brings it back where the
        lease lapses. Called once, when the next batch may come.
        """


class Consumer(Protocol):
    """One worker thread's way to receive; not to be shared between threads."""

    def receive(
        self, lease_for: timedelta, wait: timedelta, paused: Collection[Channel] = ()
    ) -> Delivery | None:
        """The most urgent batch of the consumer's channels but those `paused`, leased for `lease_for`.

        Waits up to `wait` for one; None if there was none. Raises DatabaseUnavailable, and BrokerUnavailable
        where the broker is all there is to receive from; the caller tries again after a while.
        """

    def close(self) -> None:
        """Let go of the connection; what was received and not settled may be delivered again."""


class Broker(Protocol):
    """A broker as the scheduler and the workers see it."""

    def publish(self, batches: Sequence[BatchReference]) -> None:
        """Hand over batches that are committed as `enqueued`.

        Raises BrokerUnavailable where any of them may not have arrived; all may be published again. To be
        called every few seconds, with no batches if need be: that keeps a connection alive.
        """

    def holding(self) -> Mapping[Queue, int] | None:
        """How many references wait in each queue, perhaps of batches that are done; None: the log is the queue.

        Raises BrokerUnavailable.
        """

    def consumer(self, worker: str, channels: Collection[Channel]) -> Consumer:
        """A consumer of the batches of `channels`, under the name `worker`."""

    def close(self) -> None:
        """Let go of the publishing connection; consumers are closed by themselves."""
