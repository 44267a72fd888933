"""Messages that end without another attempt: what nobody knows the outcome of, and what has grown too late.

A message that may have been accepted never ends as `too_late`: it is a dead letter that says so, for a person to
decide whether it is sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.message import OUTCOME_UNKNOWN, MessageState
from scheduler.store import failures, messages
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.failures import FailedAttempt
from scheduler.store.messages import UnansweredMessage

WORKER_LOST: Final = "worker_lost"
"""Category of an attempt whose worker never told how it ended."""

_WORKER_LOST: Final = "the worker that was sending it was lost"
_NEVER_ANSWERED: Final = "the last attempt was begun and nothing is known of its end"
_MAYBE_ACCEPTED: Final = "an earlier attempt may have been accepted, and it is too late for another"

_LEFT_SENDING: Final = text(f"""
SELECT user_id, attempt FROM message_log
WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date = :local_date AND occasion_id = :occasion_id
  AND slot = :slot AND channel = CAST(:channel AS channel) AND state = '{MessageState.SENDING}'
  AND batch_id = :batch_id""")


def record_unanswered(
    connection: Connection, batch: LeasedBatch, providers: Collection[str], *, now: datetime
) -> None:
    """Keep, of each message that an earlier lease of `batch` left in `sending`, that the attempt may have been
    accepted, and by which provider: the one it was bound to, if that is still among `providers`, or the batch's.

    Called by the holder of the lease before anything else is done with what was left.
    """
    left = [UnansweredMessage(*row) for row in connection.execute(_LEFT_SENDING, _keys(batch))]
    if not left:
        return
    bound_to = failures.last_unknown(connection, batch, [message.user_id for message in left])
    held_by = {user_id: name for user_id, name in bound_to.items() if name in providers}
    attempts = [
        FailedAttempt(
            user_id=message.user_id,
            attempt=message.attempt,
            kind="unknown",
            category=WORKER_LOST,
            detail=_WORKER_LOST,
            failed_at=now,
            provider=held_by.get(message.user_id) or batch.provider or "",
        )
        for message in left
    ]
    failures.add_attempts(connection, batch, attempts)


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
    if not buried:
        return Counts()
    may_have_it = failures.last_unknown(connection, batch, [message.user_id for message in buried])
    letters = [
        FailedAttempt(
            user_id=message.user_id,
            attempt=message.attempt,
            kind="unknown",
            category=OUTCOME_UNKNOWN,
            detail=detail,
            failed_at=now,
            provider=may_have_it.get(message.user_id, ""),
        )
        for message in buried
    ]
    failures.add_dead_letters(connection, batch, letters)
    return Counts(dead=len(letters))


def _keys(batch: LeasedBatch) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "user_ids": list(batch.user_ids),
        "local_date": batch.local_date,
        "occasion_id": batch.occasion_id,
        "slot": batch.slot,
        "channel": batch.channel.value,
    }
