"""What is written for each outcome."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from scheduler.domain.message import OUTCOME_UNKNOWN
from scheduler.domain.retry import RetryPolicy
from scheduler.store.users import Recipient
from tests.fixtures.providers import AT, failed
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome
from worker.claims import ReadyMessage
from worker.results import BatchResult, Retry, sort_outcomes

# No jitter is left: the provider asks for more than the cap.
POLICY = RetryPolicy(max_attempts=3, base_seconds=2.0, cap_seconds=2.0)
A_DAY = timedelta(days=1)


def ready(user_id: int, attempt: int = 1) -> ReadyMessage:
    recipient = Recipient(
        user_id, 1, f"p{user_id}", "Ann", "Lee", "ann@example.org", None, None, None, "en", "UTC"
    )
    return ReadyMessage(recipient, "ann@example.org", attempt)


def sort(*outcomes: tuple[ReadyMessage, Outcome]) -> BatchResult:
    return sort_outcomes(outcomes, POLICY, Random(7))


def test_an_acceptance_keeps_its_instant() -> None:
    assert sort((ready(1), Accepted(AT))).accepted == {1: AT}


def test_what_was_not_attempted_is_handed_back() -> None:
    result = sort((ready(1), NotAttempted()), (ready(2, attempt=2), NotAttempted()))
    assert result == BatchResult(handed_back=[1, 2])


@pytest.mark.parametrize("kind", [FailureKind.RETRYABLE, FailureKind.PROVIDER, FailureKind.UNKNOWN])
def test_an_attempt_that_is_not_counted_is_kept_and_its_message_handed_back(kind: FailureKind) -> None:
    """Whichever attempt it was: the last one too."""
    result = sort((ready(1, attempt=3), replace(failed(kind), burns_attempt=False)))
    assert (result.handed_back, result.retries, result.dead) == ([1], {}, [])
    assert [(attempt.user_id, attempt.attempt) for attempt in result.failed] == [(1, 3)]


def test_a_first_attempt_that_may_have_been_accepted_counts_all_the_same() -> None:
    result = sort((ready(1), replace(failed(FailureKind.UNKNOWN, "timeout"), burns_attempt=False)))
    assert (result.handed_back, list(result.retries.values())) == ([], [[1]])


def test_retries_that_are_due_together_share_a_batch() -> None:
    outcome = failed(retry_after=A_DAY)
    result = sort((ready(1), outcome), (ready(2), outcome), (ready(3, attempt=2), outcome))
    due_at = AT.replace(microsecond=0) + timedelta(seconds=2)
    assert result.retries == {Retry(due_at, 1): [1, 2], Retry(due_at, 2): [3]}
    assert result.dead == []
    assert [(attempt.user_id, attempt.attempt, attempt.category) for attempt in result.failed] == [
        (1, 1, "http_503"),
        (2, 1, "http_503"),
        (3, 2, "http_503"),
    ]


def test_the_failures_of_a_large_batch_fall_due_at_few_instants() -> None:
    policy = RetryPolicy(max_attempts=5, base_seconds=4.0)
    result = sort_outcomes(((ready(number), failed()) for number in range(500)), policy, Random(7))
    assert len(result.retries) == 4
    assert sum(map(len, result.retries.values())) == 500


@pytest.mark.parametrize("kind", [FailureKind.RETRYABLE, FailureKind.PROVIDER, FailureKind.UNKNOWN])
def test_all_but_permanent_failures_are_tried_again(kind: FailureKind) -> None:
    assert len(sort((ready(1), failed(kind))).retries) == 1


def test_a_permanent_failure_is_dead_at_once() -> None:
    result = sort((ready(1), failed(FailureKind.PERMANENT, "http_400")))
    assert (result.retries, result.failed) == ({}, result.dead)
    [letter] = result.dead
    assert (letter.category, letter.kind, letter.failed_at) == ("http_400", "permanent", AT)


def test_the_last_attempt_is_dead_under_its_category() -> None:
    [letter] = sort((ready(1, attempt=3), failed())).dead
    assert (letter.category, letter.attempt) == ("http_503", 3)


def test_a_last_attempt_without_an_answer_is_dead_as_unknown_and_says_why() -> None:
    result = sort((ready(1, attempt=3), Failed(FailureKind.UNKNOWN, "timeout", "no answer", None, AT)))
    [letter], [attempt] = result.dead, result.failed
    assert (letter.category, letter.detail) == (OUTCOME_UNKNOWN, "timeout: no answer")
    assert (attempt.category, attempt.detail) == ("timeout", "no answer")


def held(*outcomes: tuple[ReadyMessage, Outcome]) -> BatchResult:
    return sort_outcomes(outcomes, POLICY, Random(7), holds_unknown=True)


@pytest.mark.parametrize("burns_attempt", [True, False])
@pytest.mark.parametrize("attempt", [1, 2])
def test_where_unknown_outcomes_are_held_the_message_is_dead_at_once(
    attempt: int, burns_attempt: bool
) -> None:
    outcome = replace(failed(FailureKind.UNKNOWN, "timeout"), burns_attempt=burns_attempt)
    result = held((ready(1, attempt), outcome))
    assert (result.retries, result.handed_back) == ({}, [])
    [letter], [kept] = result.dead, result.failed
    assert (letter.category, letter.attempt, kept.category) == (OUTCOME_UNKNOWN, attempt, "timeout")


def test_where_unknown_outcomes_are_held_known_failures_are_tried_again() -> None:
    result = held((ready(1), failed()), (ready(2), replace(failed(), burns_attempt=False)))
    assert (list(result.retries.values()), result.handed_back, result.dead) == ([[1]], [2], [])
