"""Batches for messages that leave the batch they were claimed with: those to be tried again, and those put off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from scheduler.store.batches import LeasedBatch

_ADD: Final = text("""
INSERT INTO batches
    (tenant_id, occasion_id, local_date, slot, channel, priority, send_at, due_at, attempt, max_attempts, provider,
     user_ids, state, lease_token, sent_count, retried_count, dead_count, expired_count, cancelled_count, created_at)
VALUES (:tenant_id, :occasion_id, :local_date, :slot, CAST(:channel AS channel), CAST(:priority AS priority), :send_at,
        :due_at, :attempt, :max_attempts, :provider, CAST(:user_ids AS bigint[]), 'pending', 0, 0, 0, 0, 0, 0, :now)""")


def add_retry(
    connection: Connection,
    origin: LeasedBatch,
    user_ids: Sequence[int],
    *,
    attempt: int,
    due_at: datetime,
    now: datetime,
    provider: str | None = None,
) -> None:
    """A batch for messages of `origin` that are to be tried again at `due_at`, after `attempt` attempts.

    `provider` is the one that may have accepted them already; None: none has.
    """
    parameters = {
        "tenant_id": origin.tenant_id,
        "occasion_id": origin.occasion_id,
        "local_date": origin.local_date,
        "slot": origin.slot,
        "channel": origin.channel.value,
        "priority": origin.priority.value,
        "send_at": origin.send_at,
        "due_at": due_at,
        "attempt": attempt,
        "max_attempts": origin.max_attempts,
        "provider": provider,
        "user_ids": list(user_ids),
        "now": now,
    }
    connection.execute(_ADD, parameters)


def add_deferred(
    connection: Connection,
    origin: LeasedBatch,
    user_ids: Sequence[int],
    *,
    attempt: int,
    until: datetime,
    now: datetime,
) -> None:
    """A batch for messages of `origin` that quiet hours put off, after `attempt` attempts.

    What lateness and claims go by is `until`, as if the messages had been planned for that instant.
    """
    put_off = replace(origin, send_at=until)
    add_retry(connection, put_off, user_ids, attempt=attempt, due_at=until, now=now)
