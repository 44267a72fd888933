"""One message that a person takes back: cancelled, or buried where a provider may have accepted it already."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from scheduler.domain.message import OUTCOME_UNKNOWN, MessageKey, MessageState, NotSentReason
from scheduler.store import messages
from scheduler.store.message_keys import single_key

_MAYBE_ACCEPTED: Final = "taken back, and an earlier attempt may have been accepted"

# Closed from the beginning: nobody is asked to decide what somebody has just decided.
_ADD_CLOSED_LETTER: Final = text("""
INSERT INTO dead_letters
    (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt, provider, category, detail,
     discarded_at, discard_reason)
VALUES (:user_id, :now, :occasion_id, :local_date, CAST(:channel AS channel), :tenant_id, :slot, :attempt, '',
        :category, :detail, :now, :reason)
ON CONFLICT (user_id, local_date, occasion_id, slot, channel) DO UPDATE
SET died_at = excluded.died_at, attempt = excluded.attempt, provider = excluded.provider, category = excluded.category,
    detail = excluded.detail, discarded_at = excluded.discarded_at, discard_reason = excluded.discard_reason""")


def withdraw(
    connection: Connection, tenant_id: int, key: MessageKey, *, now: datetime
) -> MessageState | None:
    """Take a message back that waits; the state it is left in, or None where it does not wait.

    `dead`, with a discarded dead letter of unknown outcome, where an earlier attempt may have been accepted.
    """
    reason = NotSentReason.CANCELLED_BY_OPERATOR
    if messages.withdraw(connection, tenant_id, key, reason):
        return MessageState.CANCELLED
    attempt = messages.bury_withdrawn(connection, tenant_id, key)
    if attempt is None:
        return None
    parameters = single_key(tenant_id, key) | {
        "attempt": attempt,
        "category": OUTCOME_UNKNOWN,
        "detail": _MAYBE_ACCEPTED,
        "reason": reason.value,
        "now": now,
    }
    connection.execute(_ADD_CLOSED_LETTER, parameters)
    return MessageState.DEAD
