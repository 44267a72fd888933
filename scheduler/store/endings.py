"""Messages that end without another attempt: what nobody knows the outcome of, and what has grown too late.

A message that may have been accepted never ends as `too_late`: it is a dead letter that says so, for a person to
decide whether it is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from scheduler.domain.message import OUTCOME_UNKNOWN
from scheduler.store import failures, messages
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.failures import FailedAttempt
from scheduler.store.messages import UnansweredMessage

_NEVER_ANSWERED: Final = "the last attempt was begun and nothing is known of its end"
_MAYBE_ACCEPTED: Final = "an earlier attempt may have been accepted, and it is too late for another"


def end_unanswered(connection: Connection, batch: LeasedBatch, *, from_attempt: int, now: datetime) -> Counts:
    """Bury what an earlier lease of `batch` left in `sending`, from that attempt on.

    Called by the holder of the lease, before the claim.
    """
    left = messages.bury_left_sending(connection, batch, from_attempt=from_attempt)
    return _bury(connection, batch, left, _NEVER_ANSWERED, now)


def end_late(connection: Connection, batch: LeasedBatch, *, now: datetime) -> Counts:
    """End all that `batch` would claim: it is past its lateness limit. Called by whoever holds or closes it."""
    ended = Counts()
    if was_held := batch.lease_token > 1:
        ended += end_unanswered(connection, batch, from_attempt=0, now=now)
    if was_held or batch.attempt:
        out = messages.bury_maybe_accepted(connection, batch)
        ended += _bury(connection, batch, out, _MAYBE_ACCEPTED, now)
    return ended + Counts(expired=messages.expire(connection, batch))


def _bury(
    connection: Connection,
    batch: LeasedBatch,
    buried: Sequence[UnansweredMessage],
    detail: str,
    now: datetime,
) -> Counts:
    letters = [
        FailedAttempt(
            user_id=message.user_id,
            attempt=message.attempt,
            kind="unknown",
            category=OUTCOME_UNKNOWN,
            detail=detail,
            failed_at=now,
        )
        for message in buried
    ]
    failures.add_dead_letters(connection, batch, letters)
    return Counts(dead=len(letters))
