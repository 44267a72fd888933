"""The message log's store: the only place where a message changes its state.

Each function is one event of `MESSAGE_TRANSITIONS`; its update names the states it may find, so a
message that has moved on is left alone and not counted. Updates by a worker name the batch the
message was claimed for; the caller holds that batch's lease in the same transaction.

A batch's messages share occasion, local date, slot and channel, so they are found by their key
columns and `user_id = ANY(…)` in one partition: measured three times as fast as a join.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.message import MESSAGE_TRANSITIONS, MessageEvent, MessageState, NotSentReason
from scheduler.store.batches import LeasedBatch

_OF_BATCH: Final = """
    user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date = :local_date AND occasion_id = :occasion_id
    AND slot = :slot AND channel = CAST(:channel AS channel)"""

# A ticket claims what it was written for: the first attempt at its instant, the retry of its number, or
# what an earlier lease of the same batch left behind. Anything else has moved on to another batch.
_CLAIMABLE: Final = f"""(
    (state = '{MessageState.SCHEDULED}' AND :attempt = 0 AND send_at = :send_at)
    OR (state = '{MessageState.RETRYING}' AND (attempt = :attempt OR batch_id = :batch_id))
    OR (state = '{MessageState.SENDING}' AND batch_id = :batch_id)
)"""


def _update(event: MessageEvent, changes: str, condition: str) -> str:
    transition = MESSAGE_TRANSITIONS[event]
    sources = ", ".join(f"'{source}'" for source in transition.sources)
    return f"""
UPDATE message_log SET state = '{transition.target}'{changes}
WHERE {_OF_BATCH} AND state IN ({sources}) AND {condition}"""


_CLAIM: Final = text(
    _update(MessageEvent.CLAIM, ", batch_id = :batch_id, attempt = attempt + 1", _CLAIMABLE)
    + " RETURNING user_id, attempt, user_version"
)
# The users are sorted, so that `width_bucket` finds each one's place by binary search; a join cost three times as much.
_ACCEPT: Final = text(
    _update(
        MessageEvent.ACCEPT,
        ", accepted_at = (CAST(:accepted_ats AS timestamptz[]))[width_bucket(user_id, CAST(:user_ids AS bigint[]))]",
        "batch_id = :batch_id",
    )
)
_RETRY: Final = text(_update(MessageEvent.RETRY, ", batch_id = NULL", "batch_id = :batch_id"))
_BURY: Final = text(_update(MessageEvent.BURY, ", reason = :reason", "batch_id = :batch_id"))
_CANCEL: Final = text(_update(MessageEvent.CANCEL, ", reason = :reason", "batch_id = :batch_id"))
_EXPIRE: Final = text(_update(MessageEvent.EXPIRE, ", reason = :reason", _CLAIMABLE))
_HAND_BACK: Final = text(
    _update(MessageEvent.HAND_BACK, ", attempt = 0, batch_id = NULL", "attempt = 1 AND batch_id = :batch_id")
)
_HAND_BACK_RETRY: Final = text(
    _update(MessageEvent.HAND_BACK_RETRY, ", attempt = attempt - 1", "attempt > 1 AND batch_id = :batch_id")
)


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """A message this lease may send. `attempt` counts from 1 and includes this one."""

    user_id: int
    attempt: int
    user_version: int


def claim(connection: Connection, batch: LeasedBatch) -> list[ClaimedMessage]:
    """Take the messages that still belong to `batch` into `sending`; those that moved on are left out."""
    rows = connection.execute(_CLAIM, _claim_parameters(batch))
    return [ClaimedMessage(row.user_id, row.attempt, row.user_version) for row in rows]


def accept(connection: Connection, batch: LeasedBatch, accepted: Mapping[int, datetime]) -> int:
    """The provider took the messages of these users, each at its instant."""
    user_ids = sorted(accepted)
    accepted_ats = [accepted[user_id] for user_id in user_ids]
    return _execute(connection, _ACCEPT, batch, user_ids, accepted_ats=accepted_ats)


def retry(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int]) -> int:
    """These attempts failed and another batch will try again."""
    return _execute(connection, _RETRY, batch, user_ids)


def bury(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], *, category: str) -> int:
    """These messages will not be tried again by themselves; the dead letters say why."""
    return _execute(connection, _BURY, batch, user_ids, reason=category)


def cancel(
    connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], *, reason: NotSentReason
) -> int:
    """These claimed messages turned out not to be due any more."""
    return _execute(connection, _CANCEL, batch, user_ids, reason=reason.value)


def hand_back(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int]) -> int:
    """These messages were claimed, and the attempt does not count: it is taken back. None was accepted."""
    first = _execute(connection, _HAND_BACK, batch, user_ids)
    return first + _execute(connection, _HAND_BACK_RETRY, batch, user_ids)


def expire(connection: Connection, batch: LeasedBatch) -> int:
    """Whatever of `batch` still waits is past its lateness limit. A message being sent is not waiting."""
    parameters = _claim_parameters(batch) | {"reason": NotSentReason.TOO_LATE.value}
    return connection.execute(_EXPIRE, parameters).rowcount


def _claim_parameters(batch: LeasedBatch) -> dict[str, Any]:
    return _key_parameters(batch, batch.user_ids) | {"attempt": batch.attempt, "send_at": batch.send_at}


def _key_parameters(batch: LeasedBatch, user_ids: Sequence[int]) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "user_ids": list(user_ids),
        "local_date": batch.local_date,
        "occasion_id": batch.occasion_id,
        "slot": batch.slot,
        "channel": batch.channel.value,
    }


def _execute(
    connection: Connection, statement: Any, batch: LeasedBatch, user_ids: Sequence[int], **values: object
) -> int:
    if not user_ids:
        return 0
    return connection.execute(statement, _key_parameters(batch, user_ids) | values).rowcount
