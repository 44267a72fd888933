"""Messages that may have been accepted: sent again with the same key, or held; never forgotten as too late."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import OUTCOME_UNKNOWN, MessageKey, NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.store.batches import Counts
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import LATENESS_LIMIT, NINE, Pipeline
from tests.fixtures.providers import AT, ScriptedProvider, failed
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome, OutgoingMessage

TOO_LATE = NINE + LATENESS_LIMIT + timedelta(hours=1)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, retry=RetryPolicy(max_attempts=3, base_seconds=2.0, cap_seconds=2.0))


@pytest.fixture
def holding(pipeline: Pipeline) -> Pipeline:
    pipeline.hold_channels = frozenset({Channel.EMAIL})
    return pipeline


def deliver_due(pipeline: Pipeline, provider: ScriptedProvider) -> Counts:
    total = Counts()
    for _ in range(pipeline.enqueue()):
        total += pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    return total


def claim_and_die(pipeline: Pipeline, clock: SettableClock) -> None:
    """A worker claims the batch, sends it, and is killed before it can record anything; its lease lapses."""

    def die() -> None:
        raise KeyboardInterrupt

    assert pipeline.enqueue() == 1
    with pytest.raises(KeyboardInterrupt):
        pipeline.deliverer(ScriptedProvider(before=die)).deliver(pipeline.lease("killed"), Signal())
    clock.advance(timedelta(minutes=2))


def fail_all(pipeline: Pipeline, clock: SettableClock, kind: FailureKind) -> None:
    """Everything due fails in this way, and is due again in some seconds."""
    provider = ScriptedProvider(lambda _: replace(failed(kind, "some_word"), at=clock.now()))
    assert deliver_due(pipeline, provider).retried
    clock.advance(timedelta(seconds=10))


def letters(pipeline: Pipeline) -> list[tuple[int, str, int]]:
    """User, category and attempts of each dead letter."""
    rows = pipeline.rows("SELECT user_id, category, attempt FROM dead_letters ORDER BY user_id")
    return [(row.user_id, row.category, row.attempt) for row in rows]


def log(pipeline: Pipeline) -> list[tuple[str, str | None, int]]:
    """State, reason and attempts of each message."""
    rows = pipeline.rows(
        "SELECT CAST(state AS text) AS state, reason, attempt FROM message_log ORDER BY user_id"
    )
    return [(row.state, row.reason, row.attempt) for row in rows]


def test_where_they_are_held_a_killed_workers_messages_are_dead_and_not_sent_again(
    holding: Pipeline, clock: SettableClock
) -> None:
    people = holding.add_due_people(3)
    claim_and_die(holding, clock)
    survivor = ScriptedProvider()
    assert deliver_due(holding, survivor) == Counts(dead=3)
    assert survivor.received == []
    assert letters(holding) == [(user_id, OUTCOME_UNKNOWN, 1) for user_id in people]
    assert log(holding) == [("dead", OUTCOME_UNKNOWN, 1)] * 3
    [batch] = holding.rows("SELECT CAST(state AS text) AS state, dead_count FROM batches")
    assert tuple(batch) == ("done", 3)


def test_by_default_a_killed_workers_messages_are_sent_again(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(3)
    claim_and_die(pipeline, clock)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=3)
    assert letters(pipeline) == []


def test_one_channel_may_hold_while_another_sends_again(pipeline: Pipeline, clock: SettableClock) -> None:
    pipeline.hold_channels = frozenset({Channel.SMS})
    pipeline.add_due_people(1)
    claim_and_die(pipeline, clock)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)


def test_where_they_are_held_the_others_of_the_batch_go_on(holding: Pipeline, clock: SettableClock) -> None:
    """Of five, two were handed back before a worker died over the rest; one of those is known to have failed."""
    people = holding.add_due_people(5)
    waits, fails = set(people[:2]), people[2]

    def answer(message: OutgoingMessage) -> Outcome:
        user_id = MessageKey.parse(message.id).user_id
        if user_id in waits:
            return NotAttempted()
        if user_id == fails:
            return replace(failed(), at=clock.now())
        return Accepted(AT)

    assert deliver_due(holding, ScriptedProvider(answer)) == Counts(sent=2, retried=1)
    claim_and_die(holding, clock)
    assert deliver_due(holding, ScriptedProvider()) == Counts(sent=1, dead=2)
    assert [user_id for user_id, _, _ in letters(holding)] == sorted(waits)
    assert holding.states() == {"sent": 3, "dead": 2}


def test_where_they_are_held_an_answer_that_never_came_is_a_dead_letter_at_once(
    holding: Pipeline, clock: SettableClock
) -> None:
    lost, refused, _ = holding.add_due_people(3)
    kinds = {lost: FailureKind.UNKNOWN, refused: FailureKind.RETRYABLE}

    def answer(message: OutgoingMessage) -> Outcome:
        kind = kinds.get(MessageKey.parse(message.id).user_id)
        if kind is None:
            return Accepted(AT)
        return Failed(kind, "some_word", "no answer", None, AT)

    assert deliver_due(holding, ScriptedProvider(answer)) == Counts(sent=1, retried=1, dead=1)
    assert letters(holding) == [(lost, OUTCOME_UNKNOWN, 1)]


def test_a_batch_that_kills_its_workers_shows_the_attempts_that_were_begun(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    people = pipeline.add_due_people(2)
    for _ in range(3):
        claim_and_die(pipeline, clock)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(dead=2)
    assert letters(pipeline) == [(user_id, OUTCOME_UNKNOWN, 3) for user_id in people]
    assert log(pipeline) == [("dead", OUTCOME_UNKNOWN, 3)] * 2


def test_a_retry_once_granted_is_made_though_fewer_are_allowed_by_now(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(1)
    for _ in range(2):
        fail_all(pipeline, clock, FailureKind.RETRYABLE)
    pipeline.retry = RetryPolicy(max_attempts=1)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)


@pytest.mark.parametrize("recovers", [True, False])
def test_a_retry_that_may_have_been_accepted_does_not_end_as_too_late(
    pipeline: Pipeline, clock: SettableClock, recovers: bool
) -> None:
    """Whoever finds it: recovery, or a worker that is given its batch."""
    [user_id] = pipeline.add_due_people(1)
    fail_all(pipeline, clock, FailureKind.UNKNOWN)
    fail_all(pipeline, clock, FailureKind.RETRYABLE)
    clock.set(TOO_LATE)
    if recovers:
        assert pipeline.recover()["expired"] == 0
    else:
        assert deliver_due(pipeline, ScriptedProvider()) == Counts(dead=1)
    assert letters(pipeline) == [(user_id, OUTCOME_UNKNOWN, 2)]
    assert log(pipeline) == [("dead", OUTCOME_UNKNOWN, 2)]
    assert pipeline.batch_states() == {"done": 3}
    assert sum(row.dead_count for row in pipeline.rows("SELECT dead_count FROM batches")) == 1


@pytest.mark.parametrize("recovers", [True, False])
def test_a_retry_that_is_known_to_have_failed_ends_as_too_late(
    pipeline: Pipeline, clock: SettableClock, recovers: bool
) -> None:
    pipeline.add_due_people(1)
    fail_all(pipeline, clock, FailureKind.RETRYABLE)
    clock.set(TOO_LATE)
    if recovers:
        assert pipeline.recover()["expired"] == 1
    else:
        assert deliver_due(pipeline, ScriptedProvider()) == Counts(expired=1)
    assert log(pipeline) == [("expired", NotSentReason.TOO_LATE, 1)]


def test_what_a_killed_worker_left_and_another_handed_back_does_not_end_as_too_late(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """Nothing is on record of the first attempt: that is how it is known that nothing is known."""
    [user_id] = pipeline.add_due_people(1)
    claim_and_die(pipeline, clock)
    assert deliver_due(pipeline, ScriptedProvider(lambda _: NotAttempted())) == Counts()
    assert log(pipeline) == [("retrying", None, 1)]
    clock.set(TOO_LATE)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(dead=1)
    assert letters(pipeline) == [(user_id, OUTCOME_UNKNOWN, 1)]


def test_what_was_being_sent_when_it_grew_too_late_shows_its_one_attempt(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    claim_and_die(pipeline, clock)
    clock.set(TOO_LATE)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(dead=1)
    assert letters(pipeline) == [(user_id, OUTCOME_UNKNOWN, 1)]
