"""From a provider's answers to what is written in the log: pure decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from scheduler.domain.message import OUTCOME_UNKNOWN
from scheduler.domain.retry import RetryPolicy, decide_retry
from scheduler.store.failures import FailedAttempt
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome
from worker.claims import ReadyMessage


@dataclass(frozen=True, slots=True, order=True)
class Retry:
    """The messages that share a retry batch: the same number of attempts behind them, due at one instant, and of
    the same provider where that may have accepted them.
    """

    due_at: datetime
    attempt: int
    provider: str = ""
    """Who may have accepted them; empty: nobody has."""


@dataclass(slots=True)
class BatchResult:
    """What became of the messages of one delivery."""

    accepted: dict[int, datetime] = field(default_factory=dict)
    retries: dict[Retry, list[int]] = field(default_factory=lambda: defaultdict(list))
    dead: list[FailedAttempt] = field(default_factory=list)
    failed: list[FailedAttempt] = field(default_factory=list)
    """Every attempt that failed: those retried, those given up and those that are not counted."""
    handed_back: list[int] = field(default_factory=list)
    """Not attempted, or failed for reasons that are not the message's: as if this lease had not been."""
    hand_back_until: datetime | None = None
    """When the first of them is worth another try, where that is known."""


def sort_outcomes(
    outcomes: Iterable[tuple[ReadyMessage, Outcome]],
    policy: RetryPolicy,
    random: Random,
    *,
    holds_unknown: bool = False,
) -> BatchResult:
    """Decide for each outcome whether the message is sent, tried again, given up, or handed back.

    Where `holds_unknown`, a message that may have been accepted is given up at once: a person decides.
    """
    result = BatchResult()
    accepted = result.accepted
    for message, outcome in outcomes:
        if type(outcome) is Accepted:
            accepted[message.recipient.id] = outcome.at
            continue
        match outcome:
            case NotAttempted(retry_at):
                result.handed_back.append(message.recipient.id)
                if retry_at is not None:
                    result.hand_back_until = min(retry_at, result.hand_back_until or retry_at)
            case Failed():
                is_held = holds_unknown and outcome.kind is FailureKind.UNKNOWN
                _sort_failure(result, message, outcome, None if is_held else policy, random)
    return result


def _sort_failure(
    result: BatchResult, message: ReadyMessage, failure: Failed, policy: RetryPolicy | None, random: Random
) -> None:
    """`policy` is None where the message is not to be tried again in any case."""
    attempt = _attempt(message, failure)
    result.failed.append(attempt)
    if policy is not None and _is_excused(message, failure):
        result.handed_back.append(message.recipient.id)
        return
    decision = None
    if policy is not None and failure.kind is not FailureKind.PERMANENT:
        decision = decide_retry(policy, message.attempt, failure.retry_after, random)
    if decision is None:
        result.dead.append(_final(attempt, failure))
    else:
        # Whole seconds, so that the failures of one batch can share a batch again.
        due_at = failure.at.replace(microsecond=0) + decision.retry_in
        may_have_it = failure.provider if failure.kind is FailureKind.UNKNOWN else ""
        result.retries[Retry(due_at, message.attempt, may_have_it)].append(message.recipient.id)


def _attempt(message: ReadyMessage, failure: Failed) -> FailedAttempt:
    return FailedAttempt(
        user_id=message.recipient.id,
        attempt=message.attempt,
        kind=failure.kind.value,
        category=failure.category,
        detail=failure.detail,
        failed_at=failure.at,
        provider=failure.provider,
    )


def _is_excused(message: ReadyMessage, failure: Failed) -> bool:
    """Whether the attempt is not counted.

    A first attempt that may have been accepted is: uncounted, the message would be `scheduled` again, and
    an edit could give it another date and so another key.
    """
    may_be_out = failure.kind is FailureKind.UNKNOWN and message.attempt == 1
    return not failure.burns_attempt and not may_be_out


def _final(attempt: FailedAttempt, failure: Failed) -> FailedAttempt:
    """The dead letter: a message that may have been accepted says so, whatever the last error was called."""
    if failure.kind is not FailureKind.UNKNOWN:
        return attempt
    return FailedAttempt(
        user_id=attempt.user_id,
        attempt=attempt.attempt,
        kind=attempt.kind,
        category=OUTCOME_UNKNOWN,
        detail=f"{failure.category}: {failure.detail}",
        failed_at=attempt.failed_at,
        provider=attempt.provider,
    )
