"""What is kept of attempts that failed and of messages given up: the log itself only counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

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
    (user_id, died_at, occasion_id, local_date, channel, tenant_id, slot, attempt, category, detail)
SELECT failed.user_id, failed.failed_at, :occasion_id, :local_date, CAST(:channel AS channel), :tenant_id, :slot,
       failed.attempt, failed.category, failed.detail
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:failed_ats AS timestamptz[]), CAST(:attempts AS smallint[]),
            CAST(:categories AS text[]), CAST(:details AS text[]))
    AS failed (user_id, failed_at, attempt, category, detail)
ON CONFLICT (user_id, local_date, occasion_id, slot, channel) DO UPDATE
SET died_at = excluded.died_at, attempt = excluded.attempt, category = excluded.category, detail = excluded.detail""")


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
            "providers": [attempt.provider for attempt in failed],
            "kinds": [attempt.kind for attempt in failed],
        }
        connection.execute(_ADD_ATTEMPTS, parameters)


def add_dead_letters(connection: Connection, batch: LeasedBatch, failed: Sequence[FailedAttempt]) -> None:
    """Keep the messages given up, each with its last failure."""
    if failed:
        connection.execute(_ADD_DEAD_LETTERS, _parameters(batch, failed))


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
        "categories": [attempt.category for attempt in failed],
        "details": [attempt.detail[:_DETAIL_LENGTH] for attempt in failed],
    }
