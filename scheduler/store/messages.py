"""The message log's store: the only place where a message changes its state.

Each function is one event of `MESSAGE_TRANSITIONS`; its update names the states it may find, so a
message that has moved on is left alone and not counted. Updates by a worker name the batch the
message was claimed for; the caller holds that batch's lease in the same transaction.

A batch's messages share occasion, local date, slot and channel, so they are found by their key
columns and `user_id = ANY(…)` in one partition: measured three times as fast as a join.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from scheduler.domain.batch import BatchState
from scheduler.domain.local_time import TimeRule
from scheduler.domain.message import (
    MESSAGE_TRANSITIONS,
    OUTCOME_UNKNOWN,
    MessageEvent,
    MessageKey,
    MessageState,
    NotSentReason,
)
from scheduler.store.arrays import Bigints, Instants
from scheduler.store.batches import LeasedBatch
from scheduler.store.direct import Call, Direct
from scheduler.store.message_keys import key_columns, key_of, single_key

_OF_BATCH: Final = """
    user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date = :local_date AND occasion_id = :occasion_id
    AND slot = :slot AND channel = CAST(:channel AS channel)"""

# A ticket claims what it was written for: the first attempt at its instant, the retry of its number unless that
# was put off to a later instant, or what an earlier lease of the same batch left behind. Anything else has moved on
# to another batch.
_CLAIMABLE: Final = f"""(
    (state = '{MessageState.SCHEDULED}' AND :attempt = 0 AND send_at = :send_at)
    OR (state = '{MessageState.RETRYING}' AND (attempt = :attempt AND send_at <= :send_at OR batch_id = :batch_id))
    OR (state = '{MessageState.SENDING}' AND batch_id = :batch_id)
)"""


def _update(event: MessageEvent, changes: str, condition: str) -> str:
    transition = MESSAGE_TRANSITIONS[event]
    sources = ", ".join(f"'{source}'" for source in transition.sources)
    return f"""
UPDATE message_log SET state = '{transition.target}'{changes}
WHERE {_OF_BATCH} AND state IN ({sources}) AND {condition}"""


_CLAIM: Final = Direct(
    _update(MessageEvent.CLAIM, ", batch_id = :batch_id, attempt = attempt + 1", _CLAIMABLE)
    + f" RETURNING user_id, attempt, user_version, time_rule = '{TimeRule.QUIET_HOURS}' AS was_deferred"
)
# The users are sorted, so that `width_bucket` finds each one's place by binary search; a join cost three times as much.
_AT: Final = "(CAST(:accepted_ats AS timestamptz[]))[width_bucket(user_id, CAST(:user_ids AS bigint[]))]"
# Sent in company of what ends the lease: where that has found the lease lost, this changes nothing either.
_HELD: Final = """batch_id = :batch_id AND EXISTS (
    SELECT FROM batches b
    WHERE b.id = :batch_id AND b.lease_token = :lease_token AND b.state = CAST(:batch_state AS batch_state))"""
_ACCEPT: Final = Direct(_update(MessageEvent.ACCEPT, f", accepted_at = {_AT}", _HELD))
_ACCEPT_TOGETHER: Final = Direct(_update(MessageEvent.ACCEPT, ", accepted_at = :accepted_at", _HELD))
_RETRY: Final = text(_update(MessageEvent.RETRY, ", batch_id = NULL", "batch_id = :batch_id"))
_BURY: Final = text(_update(MessageEvent.BURY, ", reason = :reason", "batch_id = :batch_id"))
_BURY_LEFT_SENDING: Final = text(
    _update(
        MessageEvent.BURY,
        ", reason = :reason",
        f"state = '{MessageState.SENDING}' AND batch_id = :batch_id AND attempt >= :from_attempt",
    )
    + " RETURNING user_id, attempt"
)
# Each attempt has its failure on record but those of lost workers.
_MAY_BE_OUT: Final = """(
    SELECT count(DISTINCT f.attempt) FILTER (WHERE f.attempt <= message_log.attempt) < message_log.attempt
           OR bool_or(f.kind = 'unknown')
    FROM delivery_attempts f
    WHERE f.user_id = message_log.user_id AND f.local_date = :local_date AND f.occasion_id = :occasion_id
      AND f.slot = :slot AND f.channel = CAST(:channel AS channel)
)"""
_BURY_MAYBE_ACCEPTED: Final = text(
    _update(
        MessageEvent.BURY,
        ", reason = :reason",
        f"state = '{MessageState.RETRYING}' AND {_CLAIMABLE} AND {_MAY_BE_OUT}",
    )
    + " RETURNING user_id, attempt"
)
_CANCEL: Final = text(_update(MessageEvent.CANCEL, ", reason = :reason", "batch_id = :batch_id"))
# Not what an attempt was made at: of that nobody knows whether it was accepted, or it is to be tried again.
_SKIP: Final = text(
    _update(
        MessageEvent.WITHDRAW,
        ", reason = :reason",
        f"state = '{MessageState.SCHEDULED}' AND :attempt = 0 AND send_at = :send_at",
    )
)
_EXPIRE: Final = text(_update(MessageEvent.EXPIRE, ", reason = :reason", _CLAIMABLE))
_FIRST: Final = "attempt = 1 AND batch_id = :batch_id"
_FURTHER: Final = "attempt > 1 AND batch_id = :batch_id"
_ONE_LESS: Final = ", attempt = attempt - 1"
_HAND_BACK: Final = text(_update(MessageEvent.HAND_BACK, ", attempt = 0, batch_id = NULL", _FIRST))
_HAND_BACK_RETRY: Final = text(_update(MessageEvent.HAND_BACK_RETRY, _ONE_LESS, _FURTHER))
_PUT_OFF: Final = f", send_at = :until, time_rule = '{TimeRule.QUIET_HOURS}', batch_id = NULL"
_DEFER: Final = text(_update(MessageEvent.DEFER, f"{_PUT_OFF}, attempt = 0", _FIRST))
_DEFER_RETRY: Final = text(_update(MessageEvent.DEFER_RETRY, _PUT_OFF + _ONE_LESS, _FURTHER))

# What providers report is about single messages, in any order: they are found by their whole keys.
_REPORTED: Final = """
unnest(CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
       CAST(:slots AS smallint[]), CAST(:channels AS channel[]), CAST(:occurred_ats AS timestamptz[]),
       CAST(:reasons AS text[])) AS e (user_id, local_date, occasion_id, slot, channel, occurred_at, reason)"""
_IS_REPORTED: Final = """
    l.user_id = e.user_id AND l.local_date = e.local_date AND l.occasion_id = e.occasion_id AND l.slot = e.slot
    AND l.channel = e.channel AND l.local_date BETWEEN :date_first AND :date_last"""


def _report(event: MessageEvent, reason: str) -> str:
    transition = MESSAGE_TRANSITIONS[event]
    sources = ", ".join(f"'{source}'" for source in transition.sources)
    return f"""
UPDATE message_log l SET state = '{transition.target}', reason = {reason},
    accepted_at = coalesce(l.accepted_at, e.occurred_at)
FROM {_REPORTED}
WHERE {_IS_REPORTED} AND l.state IN ({sources}) AND (l.state <> '{MessageState.DEAD}' OR l.reason = '{OUTCOME_UNKNOWN}')
RETURNING l.user_id, l.local_date, l.occasion_id, l.slot, CAST(l.channel AS text) AS channel"""


_CONFIRM: Final = text(_report(MessageEvent.CONFIRM, "NULL"))
_BOUNCE: Final = text(_report(MessageEvent.BOUNCE, "e.reason"))
_LOCK_REPORTED: Final = text(f"""
SELECT l.user_id, l.local_date, l.occasion_id, l.slot, CAST(l.channel AS text) AS channel, l.state
FROM message_log l JOIN {_REPORTED} ON {_IS_REPORTED}
ORDER BY l.user_id, l.local_date, l.occasion_id, l.slot, l.channel FOR NO KEY UPDATE OF l""")
_BEFORE_ITS_OUTCOME: Final = (MessageState.SCHEDULED, MessageState.SENDING)

# Dead letters lie all over the log: they too are found by their whole keys. Without its batch, a message is
# claimed by nothing but the batch of its replay.
_REPLAY_OF: Final = MESSAGE_TRANSITIONS[MessageEvent.REPLAY]
_REPLAY: Final = text(f"""
UPDATE message_log l SET state = '{_REPLAY_OF.target}', batch_id = NULL, reason = NULL
FROM unnest(CAST(:user_ids AS bigint[]), CAST(:local_dates AS date[]), CAST(:occasion_ids AS integer[]),
            CAST(:slots AS smallint[]), CAST(:channels AS channel[]))
    AS e (user_id, local_date, occasion_id, slot, channel)
WHERE {_IS_REPORTED} AND l.state IN ({", ".join(f"'{source}'" for source in _REPLAY_OF.sources)})
RETURNING l.user_id, l.local_date, l.occasion_id, l.slot, CAST(l.channel AS text) AS channel, l.attempt""")

# What a person takes back: one message by its whole key, or what was sent ad hoc. Only what is `scheduled` is known
# not to be out; of a retry the failures on record tell.
_WITHDRAW: Final = text(
    _update(
        MessageEvent.WITHDRAW,
        ", reason = :reason",
        f"tenant_id = :tenant_id AND (state = '{MessageState.SCHEDULED}' OR NOT {_MAY_BE_OUT})",
    )
)
_BURY_WITHDRAWN: Final = text(
    _update(
        MessageEvent.BURY,
        ", reason = :reason",
        f"tenant_id = :tenant_id AND state = '{MessageState.RETRYING}' AND {_MAY_BE_OUT}",
    )
    + " RETURNING attempt"
)
_TO_WITHDRAWN: Final = f"state = '{MESSAGE_TRANSITIONS[MessageEvent.WITHDRAW].target}', reason = :reason"
_WITHDRAW_AD_HOC: Final = text(f"""
UPDATE message_log SET {_TO_WITHDRAWN}
WHERE user_id = ANY(CAST(:user_ids AS bigint[])) AND local_date >= :date_first
  AND occasion_id <> ALL(CAST(:planned_ids AS integer[])) AND state = '{MessageState.SCHEDULED}'
RETURNING user_id""")
_WITHDRAW_SEND: Final = text(f"""
UPDATE message_log l SET {_TO_WITHDRAWN}
FROM batches b
WHERE b.occasion_id = :occasion_id AND b.attempt = 0 AND l.user_id = ANY(b.user_ids) AND l.local_date = b.local_date
  AND l.occasion_id = b.occasion_id AND l.slot = b.slot AND l.channel = b.channel
  AND l.local_date BETWEEN :date_first AND :date_last AND l.state = '{MessageState.SCHEDULED}'""")


class ClaimedMessage(NamedTuple):
    """A message this lease may send. `attempt` counts from 1 and includes this one."""

    user_id: int
    attempt: int
    user_version: int
    was_deferred: bool = False
    """Whether quiet hours have put it off before."""


@dataclass(frozen=True, slots=True)
class UnansweredMessage:
    """A message of which nobody knows whether one of its attempts was accepted; `attempt` were begun."""

    user_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a provider said of one message; `reason` is a constant word, for a bounce."""

    key: MessageKey
    occurred_at: datetime
    reason: str


def claiming(batch: LeasedBatch) -> Call:
    """Takes what still belongs to `batch` into `sending`, to be sent in company: its rows are `ClaimedMessage`s."""
    return Call(_CLAIM, _claim_parameters(batch))


def accepting(
    batch: LeasedBatch, accepted: Mapping[int, datetime], *, left: BatchState = BatchState.DONE
) -> list[Call]:
    """The provider took these users' messages, each at its instant; to be sent after what has `left` the batch so."""
    if not accepted:
        return []
    user_ids = sorted(accepted)
    parameters = _key_parameters(batch, user_ids)
    parameters |= {"lease_token": batch.lease_token, "batch_state": left.value}
    instants = set(accepted.values())
    if len(instants) == 1:
        return [Call(_ACCEPT_TOGETHER, parameters | {"accepted_at": instants.pop()})]
    return [Call(_ACCEPT, parameters | {"accepted_ats": Instants(map(accepted.__getitem__, user_ids))})]


def retry(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int]) -> int:
    """These attempts failed and another batch will try again."""
    return _execute(connection, _RETRY, batch, user_ids)


def bury(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], *, category: str) -> int:
    """These messages will not be tried again by themselves; the dead letters say why."""
    return _execute(connection, _BURY, batch, user_ids, reason=category)


def bury_left_sending(
    connection: Connection, batch: LeasedBatch, *, from_attempt: int
) -> list[UnansweredMessage]:
    """End what an earlier lease of `batch` left in `sending`, from that attempt on: its outcome is not known.

    Called before the batch is claimed, by whom its lease is held; the caller adds the dead letters.
    """
    parameters = _key_parameters(batch, batch.user_ids)
    parameters |= {"from_attempt": from_attempt, "reason": OUTCOME_UNKNOWN}
    return [UnansweredMessage(*row) for row in connection.execute(_BURY_LEFT_SENDING, parameters)]


def bury_maybe_accepted(connection: Connection, batch: LeasedBatch) -> list[UnansweredMessage]:
    """End the retries of `batch` of which an earlier attempt may have been accepted: not to be tried again.

    The caller adds the dead letters.
    """
    parameters = _claim_parameters(batch) | {"reason": OUTCOME_UNKNOWN}
    return [UnansweredMessage(*row) for row in connection.execute(_BURY_MAYBE_ACCEPTED, parameters)]


def cancel(
    connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], *, reason: NotSentReason
) -> int:
    """These claimed messages turned out not to be due any more."""
    return _execute(connection, _CANCEL, batch, user_ids, reason=reason.value)


def hand_back(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int]) -> int:
    """These messages were claimed, and the attempt does not count: it is taken back. None was accepted."""
    first = _execute(connection, _HAND_BACK, batch, user_ids)
    return first + _execute(connection, _HAND_BACK_RETRY, batch, user_ids)


def defer(connection: Connection, batch: LeasedBatch, user_ids: Sequence[int], *, until: datetime) -> int:
    """These claimed messages are due again at `until`; the attempt is taken back. Another batch carries them."""
    first = _execute(connection, _DEFER, batch, user_ids, until=until)
    return first + _execute(connection, _DEFER_RETRY, batch, user_ids, until=until)


def expire(connection: Connection, batch: LeasedBatch) -> int:
    """Whatever of `batch` still waits is past its lateness limit. A message being sent is not waiting."""
    parameters = _claim_parameters(batch) | {"reason": NotSentReason.TOO_LATE.value}
    return connection.execute(_EXPIRE, parameters).rowcount


def skip(connection: Connection, batch: LeasedBatch) -> int:
    """What is scheduled with `batch`, whose occasion pauses, is not to be sent any more."""
    parameters = _claim_parameters(batch) | {"reason": NotSentReason.PAUSED.value}
    return connection.execute(_SKIP, parameters).rowcount


def lock_settled(connection: Connection, reports: Sequence[Report]) -> set[MessageKey]:
    """Lock the messages of these reports until the transaction ends; those whose sending is not under way."""
    rows = connection.execute(_LOCK_REPORTED, _report_parameters(reports)).all() if reports else []
    return {key_of(row) for row in rows if row.state not in _BEFORE_ITS_OUTCOME}


def confirm(connection: Connection, reports: Sequence[Report]) -> list[MessageKey]:
    """These messages have arrived; of a message whose outcome was not known, it is now. Returns what changed."""
    return _apply(connection, _CONFIRM, reports)


def bounce(connection: Connection, reports: Sequence[Report]) -> list[MessageKey]:
    """These messages were accepted and did not arrive, for the reason reported. Returns what changed."""
    return _apply(connection, _BOUNCE, reports)


def replay(connection: Connection, keys: Sequence[MessageKey]) -> dict[MessageKey, int]:
    """These dead messages are to be tried again; returns those that were dead, each with its attempts so far.

    The caller adds the batches that carry them, in the same transaction. Letters of a year lie in many
    partitions: month by month, each statement looks into one.
    """
    months: dict[tuple[int, int], list[MessageKey]] = defaultdict(list)
    for key in keys:
        months[key.local_date.year, key.local_date.month].append(key)
    replayed: dict[MessageKey, int] = {}
    for _, of_month in sorted(months.items()):
        rows = connection.execute(_REPLAY, key_columns(of_month))
        replayed |= {key_of(row): row.attempt for row in rows}
    return replayed


def withdraw(connection: Connection, tenant_id: int, key: MessageKey, reason: NotSentReason) -> bool:
    """Take back a message that waits, and that no provider may have accepted; False: there is none such."""
    parameters = single_key(tenant_id, key) | {"reason": reason.value}
    return connection.execute(_WITHDRAW, parameters).rowcount == 1


def bury_withdrawn(connection: Connection, tenant_id: int, key: MessageKey) -> int | None:
    """Try a message no more of which an attempt may have been accepted; the number of its attempts, None: no such.

    The caller adds the dead letter.
    """
    parameters = single_key(tenant_id, key) | {"reason": OUTCOME_UNKNOWN}
    attempt: int | None = connection.execute(_BURY_WITHDRAWN, parameters).scalar_one_or_none()
    return attempt


def withdraw_ad_hoc(
    connection: Connection,
    user_ids: Sequence[int],
    planned_ids: Sequence[int],
    *,
    date_first: date,
    reason: NotSentReason,
) -> Mapping[int, int]:
    """Take back what was sent ad hoc to users: what is not of the planned occasions. Returns how many, by user."""
    parameters = {"user_ids": list(user_ids), "planned_ids": list(planned_ids), "date_first": date_first}
    rows = connection.execute(_WITHDRAW_AD_HOC, parameters | {"reason": reason.value})
    return Counter(rows.scalars())


def withdraw_send(
    connection: Connection, occasion_id: int, *, date_first: date, date_last: date, reason: NotSentReason
) -> int:
    """Take back what waits of an ad hoc send, whose messages have local dates in this range."""
    parameters = {"occasion_id": occasion_id, "date_first": date_first, "date_last": date_last}
    return connection.execute(_WITHDRAW_SEND, parameters | {"reason": reason.value}).rowcount


def _apply(connection: Connection, statement: Any, reports: Sequence[Report]) -> list[MessageKey]:
    if not reports:
        return []
    return [key_of(row) for row in connection.execute(statement, _report_parameters(reports))]


def _report_parameters(reports: Sequence[Report]) -> dict[str, Any]:
    return key_columns([report.key for report in reports]) | {
        "occurred_ats": [report.occurred_at for report in reports],
        "reasons": [report.reason for report in reports],
    }


def _claim_parameters(batch: LeasedBatch) -> dict[str, Any]:
    return _key_parameters(batch, batch.user_ids) | {"attempt": batch.attempt, "send_at": batch.send_at}


def _key_parameters(batch: LeasedBatch, user_ids: Sequence[int]) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "user_ids": Bigints(user_ids),
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
