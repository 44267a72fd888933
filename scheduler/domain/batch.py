"""The life of a batch: the unit that is enqueued, leased, delivered and recovered.

A batch names up to 500 users whose messages share one occasion, local date, slot, channel and
instant. It carries the queue state so that a message row changes only twice on its way out. A
batch is a claim ticket, not the truth: whether a message still belongs to it is read from the
message log when a worker claims it, so an edit never has to look for a batch to correct.

`BATCH_TRANSITIONS` is the state machine; `deploy/states.md` draws it (a test compares the two).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from scheduler.domain.occasion import Channel
from scheduler.domain.transition import Transition

_QUEUES: Final = MappingProxyType(
    {Channel.EMAIL: 0, Channel.SMS: 10, Channel.PUSH: 20, Channel.WEBHOOK: 30, Channel.IN_APP: 40}
)

MAX_BATCH_SIZE: Final = 500
"""Messages in one batch, at the most."""


def first_queue(channel: Channel) -> int:
    """The number of a channel's most urgent queue; those of its other priorities follow, within the same ten."""
    return _QUEUES[channel]


class BatchState(StrEnum):
    """Where a batch stands."""

    PENDING = "pending"
    ENQUEUED = "enqueued"
    LEASED = "leased"
    DONE = "done"


class BatchEvent(StrEnum):
    """What may happen to a batch."""

    ENQUEUE = "enqueue"
    LEASE = "lease"
    FINISH = "finish"
    HAND_BACK = "hand_back"
    LAPSE = "lapse"
    EXPIRE = "expire"


_S = BatchState
BATCH_TRANSITIONS: Final[Mapping[BatchEvent, Transition[BatchState]]] = MappingProxyType(
    {
        BatchEvent.ENQUEUE: Transition((_S.PENDING,), _S.ENQUEUED),
        BatchEvent.LEASE: Transition((_S.ENQUEUED,), _S.LEASED),
        BatchEvent.FINISH: Transition((_S.LEASED,), _S.DONE),
        BatchEvent.HAND_BACK: Transition((_S.LEASED,), _S.PENDING),
        # The worker's lease ran out, or the broker lost the batch before anybody leased it.
        BatchEvent.LAPSE: Transition((_S.LEASED, _S.ENQUEUED), _S.PENDING),
        BatchEvent.EXPIRE: Transition((_S.PENDING, _S.ENQUEUED), _S.DONE),
    }
)
