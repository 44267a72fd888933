"""What is kept of attempts that failed and of messages given up: the log itself only counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from scheduler.domain.message import MessageKey
from scheduler.store.batches import LeasedBatch

_DETAIL_LENGTH: Final = 500

_ADD_ATTEMPTS: Final = text("""
INSERT INTO delivery_attempts
    (user_id, batch_id, failed_at, occasion_id, local_date, channel, tenant_id, slot, attempt, provider, kind, category,
     detail)
SELECT failed.user_id, :batch_id, failed.failed_at, :occasion_id, :local_date, CAST(:channel AS channel), :tenant_id,
       :slot, failed.attempt, failed.provider, failed.kind, failed.category, failed.detail
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:failed_ats AS timestamptz[]), CAST(:attempts AS smallint[]),
            CAST(:providers AS text[]), CAST(:kinds AS text[]), CAST(:categories AS text[]), CAST(:details AS text[]))
    AS failed (user_id, failed_at, attempt, provider, kind, category, detail)""")

_ADD_DEAD_LETTERS: Final = text("""
INSERT INTO dead_letters
    (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt, provider, category, detail)
SELECT failed.user_id, failed.failed_at, :occasion_id, :local_date, CAST(:channel AS channel), :tenant_id, :slot,
       failed.attempt, failed.provider, failed.category, failed.detail
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:failed_ats AS timestamptz[]), CAST(:attempts AS smallint[]),
            CAST(:providers AS text[]), CAST(:categories AS text[]), CAST(:details AS text[]))
    AS failed (user_id, failed_at, attempt, provider, category, detail)
ON CONFLICT (user_id, local_date, occasion_id, slot, channel) DO UPDATE
SET died_at = excluded.died_at, attempt = excluded.attempt, provider = excluded.provider, category = excluded.category,
    detail = excluded.detail, discarded_at = NULL, discard_reason = NULL""")

_WITHDRAW_DEAD_LETTERS: Final = text("""
DELETE FROM dead_letters d
USING unnest(CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
             CAST(:slots AS smallint[]), CAST(:channels AS channel[]))
    AS known (user_id, local_date, occasion_id, slot, channel)
WHERE d.user_id = known.user_id AND d.local_date = known.local_date AND d.occasion_id = known.occasion_id
  AND d.slot = known.slot AND d.channel = known.channel""")

_LAST_UNKNOWN: Final = text("""
SELECT DISTINCT ON (user_id) user_id, provider FROM delivery_attempts
WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date = :local_date AND occasion_id = :occasion_id
  AND slot = :slot AND channel = CAST(:channel AS channel) AND kind = 'unknown' AND provider <> ''
ORDER BY user_id, id DESC""")


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt at one message of a batch that did not end in acceptance. `detail` holds nothing personal."""

    user_id: int
    attempt: int
    kind: str
    category: str
    detail: str
    failed_at: datetime
    provider: str = ""
    """Empty: no provider was asked."""


def add_attempts(connection: Connection, batch: LeasedBatch, failed: Sequence[FailedAttempt]) -> None:
    """Keep the attempts that failed."""
    if failed:
        parameters = _parameters(batch, failed) | {
            "batch_id": batch.id,
            "kinds": [attempt.kind for attempt in failed],
        }
        connection.execute(_ADD_ATTEMPTS, parameters)


def add_dead_letters(connection: Connection, batch: LeasedBatch, failed: Sequence[FailedAttempt]) -> None:
    """Keep the messages given up, each with its last failure."""
    if failed:
        connection.execute(_ADD_DEAD_LETTERS, _parameters(batch, failed))


def withdraw_dead_letters(connection: Connection, keys: Sequence[MessageKey]) -> int:
    """Remove the dead letters of messages that turned out to have been accepted; returns how many there were."""
    if not keys:
        return 0
    parameters = {
        "user_ids": [key.user_id for key in keys],
        "local_dates": [key.local_date for key in keys],
        "occasion_ids": [key.occasion_id for key in keys],
        "slots": [key.slot for key in keys],
        "channels": [key.channel.value for key in keys],
    }
    return connection.execute(_WITHDRAW_DEAD_LETTERS, parameters).rowcount


def last_unknown(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int]) -> dict[int, str]:
    """By user, for messages of the batch that a provider may have accepted: which provider that was, at the latest."""
    rows = connection.execute(
        _LAST_UNKNOWN,
        {
            "user_ids": list(user_ids),
            "local_date": batch.local_date,
            "occasion_id": batch.occasion_id,
            "slot": batch.slot,
            "channel": batch.channel.value,
        },
    )
    return {row.user_id: row.provider for row in rows}


def _parameters(batch: LeasedBatch, failed: Sequence[FailedAttempt]) -> dict[str, Any]:
    return {
        "tenant_id": batch.tenant_id,
        "occasion_id": batch.occasion_id,
        "local_date": batch.local_date,
        "channel": batch.channel.value,
        "slot": batch.slot,
        "user_ids": [attempt.user_id for attempt in failed],
        "failed_ats": [attempt.failed_at for attempt in failed],
        "attempts": [attempt.attempt for attempt in failed],
        "providers": [attempt.provider for attempt in failed],
        "categories": [attempt.category for attempt in failed],
        "details": [attempt.detail[:_DETAIL_LENGTH] for attempt in failed],
    }
