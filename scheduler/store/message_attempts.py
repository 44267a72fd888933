"""The attempts at messages, as the log tells of them, without a row for those that went well.

A failure is on record. Of an acceptance the message keeps when it was, and its batch which provider it was noted to
give its messages to; whoever reports what became of a message had accepted it.

Limit: who accepted is known while the batch, or the report, is in the log, and only where it is certain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from scheduler.domain.message import AttemptOutcome, MessageKey, MessageState
from scheduler.store.message_keys import key_of

_KEY: Final = "user_id, local_date, occasion_id, slot, CAST(channel AS text) AS channel"
_OF_USER: Final = "tenant_id = :tenant_id AND user_id = :user_id"
_OF_KEY: Final = f"""{_OF_USER} AND local_date = :local_date AND occasion_id = :occasion_id
    AND slot = :slot AND channel = CAST(:channel AS channel)"""
_FAILURES: Final = f"""
SELECT {_KEY}, attempt, failed_at, provider, kind, category, detail, batch_id FROM delivery_attempts"""
_REPORTS: Final = f"SELECT {_KEY}, provider, occurred_at FROM delivery_events"

_FAILURES_OF_ONE: Final = text(f"{_FAILURES} WHERE {_OF_KEY} ORDER BY id")
_FAILURES_OF_ALL: Final = text(f"{_FAILURES} WHERE {_OF_USER} ORDER BY id")
_REPORTS_OF_ONE: Final = text(f"{_REPORTS} WHERE {_OF_KEY} ORDER BY id")
_REPORTS_OF_ALL: Final = text(f"{_REPORTS} WHERE {_OF_USER} ORDER BY id")
_BATCHES: Final = text("SELECT id, provider, enqueued_at FROM batches WHERE id = ANY(CAST(:ids AS bigint[]))")

_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """One attempt. A failure that was not the message's fault costs it none, so its number may come again."""

    number: int
    at: datetime | None
    """When it ended; None: it is under way."""
    outcome: AttemptOutcome
    provider: str | None
    """None: no provider was asked, or it is not known for certain which one was."""
    kind: str | None
    category: str | None
    detail: str | None
    batch_id: int | None


@dataclass(frozen=True, slots=True)
class Tried:
    """What a message says of its attempts itself."""

    key: MessageKey
    state: MessageState
    accepted_at: datetime | None
    attempt: int
    batch_id: int | None


def of_message(connection: Connection, tenant_id: int, message: Tried) -> list[StoredAttempt]:
    """The attempts at one message, in their order."""
    key = message.key
    parameters = {
        "tenant_id": tenant_id,
        "user_id": key.user_id,
        "local_date": key.local_date,
        "occasion_id": key.occasion_id,
        "slot": key.slot,
        "channel": key.channel.value,
    }
    failed = connection.execute(_FAILURES_OF_ONE, parameters).all()
    reports = connection.execute(_REPORTS_OF_ONE, parameters).all()
    return _attempts(message, failed, reports, _batches(connection, [message]))


def of_user(
    connection: Connection, tenant_id: int, user_id: int, messages: Sequence[Tried]
) -> dict[MessageKey, list[StoredAttempt]]:
    """The attempts at each of these messages of a user, in their order."""
    parameters = {"tenant_id": tenant_id, "user_id": user_id}
    failed, reports = defaultdict(list), defaultdict(list)
    for row in connection.execute(_FAILURES_OF_ALL, parameters):
        failed[key_of(row)].append(row)
    for row in connection.execute(_REPORTS_OF_ALL, parameters):
        reports[key_of(row)].append(row)
    batches = _batches(connection, messages)
    return {each.key: _attempts(each, failed[each.key], reports[each.key], batches) for each in messages}


def _batches(connection: Connection, messages: Sequence[Tried]) -> dict[int, Row[Any]]:
    ids = sorted({message.batch_id for message in messages if message.batch_id is not None})
    return {row.id: row for row in connection.execute(_BATCHES, {"ids": ids})} if ids else {}


def _attempts(
    message: Tried, failed: Sequence[Row[Any]], reports: Sequence[Row[Any]], batches: Mapping[int, Row[Any]]
) -> list[StoredAttempt]:
    found = [
        StoredAttempt(
            number=row.attempt,
            at=row.failed_at,
            outcome=AttemptOutcome.UNKNOWN if row.kind == _UNKNOWN else AttemptOutcome.FAILED,
            provider=row.provider or None,
            kind=row.kind,
            category=row.category,
            detail=row.detail,
            batch_id=row.batch_id,
        )
        for row in failed
    ]
    batch = None if message.batch_id is None else batches.get(message.batch_id)
    if message.state is MessageState.SENDING:
        provider = _given_to(batch, failed)
        return [*found, _without_failure(message, AttemptOutcome.UNDER_WAY, None, provider)]
    if message.accepted_at is None or _is_told_of(message, failed, reports):
        return found
    provider = _accepted_by(message, batch, failed, reports)
    return [*found, _without_failure(message, AttemptOutcome.ACCEPTED, message.accepted_at, provider)]


def _without_failure(
    message: Tried, outcome: AttemptOutcome, at: datetime | None, provider: str | None
) -> StoredAttempt:
    return StoredAttempt(message.attempt, at, outcome, provider, None, None, None, message.batch_id)


def _is_told_of(message: Tried, failed: Sequence[Row[Any]], reports: Sequence[Row[Any]]) -> bool:
    """Whether a report alone has it accepted: it was an attempt whose outcome nobody knew, and that is on record."""
    by_report = any(report.occurred_at == message.accepted_at for report in reports)
    return by_report and any(row.kind == _UNKNOWN and row.attempt <= message.attempt for row in failed)


def _accepted_by(
    message: Tried, batch: Row[Any] | None, failed: Sequence[Row[Any]], reports: Sequence[Row[Any]]
) -> str | None:
    if len(reporters := {report.provider for report in reports}) == 1:
        return str(*reporters)
    # A batch that was handed back and came again has the note of its latest turn, which began after it was enqueued.
    if batch is None or batch.enqueued_at is None or message.accepted_at is None:
        return None
    return _given_to(batch, failed) if batch.enqueued_at <= message.accepted_at else None


def _given_to(batch: Row[Any] | None, failed: Sequence[Row[Any]]) -> str | None:
    """The provider its batch notes, unless the message was bound to another one, which may have had it before."""
    if batch is None or batch.provider is None:
        return None
    bound_to = next((row.provider for row in reversed(failed) if row.kind == _UNKNOWN and row.provider), None)
    return batch.provider if bound_to in (None, batch.provider) else None
