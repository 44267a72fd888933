"""Dead letters on a real log: replayed under the old key with attempts of their own, settled, or discarded."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.dead_letters import DeadLetters, Replayed
from scheduler.domain.message import OUTCOME_UNKNOWN, NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.errors import Conflict, NotFound
from scheduler.store.batches import Counts
from scheduler.store.dead_letters import DeadLetterFilter
from tests.fixtures.dead_letters import (
    ALL,
    counts,
    deliver_due,
    kill,
    kill_by,
    letters,
    refusing,
    sent,
)
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider, failed
from worker.channels.port import FailureKind, NotAttempted

MAX_ATTEMPTS = 3


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    retry = RetryPolicy(max_attempts=MAX_ATTEMPTS, base_seconds=1.0, cap_seconds=1.0)
    return Pipeline(engine, clock, retry=retry)


@pytest.fixture
def service(pipeline: Pipeline) -> DeadLetters:
    return DeadLetters(pipeline.engine, pipeline.clock, MAX_ATTEMPTS)


def test_a_replayed_letter_is_sent_under_the_same_key(pipeline: Pipeline, service: DeadLetters) -> None:
    kill(pipeline, 2)
    dead = pipeline.keys_in("dead")
    one, other = letters(pipeline)
    assert service.replay_one(TENANT, one.id) == Replayed(1, last_due_at=NINE)
    assert [letter.id for letter in letters(pipeline)] == [other.id]
    [row] = pipeline.rows("SELECT reason, batch_id, attempt FROM message_log WHERE state = 'retrying'")
    assert tuple(row) == (None, None, 1)
    provider = ScriptedProvider()
    assert sent(deliver_due(pipeline, provider)) == 1
    assert provider.keys == [one.key.text]
    assert pipeline.keys_in("sent") | pipeline.keys_in("dead") == dead
    assert pipeline.rows("SELECT count(*) AS n FROM delivery_attempts")[0].n == 2


def test_a_replay_has_attempts_of_its_own_and_dies_again_with_all_of_them_told(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    kill(pipeline, 1)
    service.replay(TENANT, ALL, 100)
    again = refusing("http_503", FailureKind.RETRYABLE)
    for _ in range(MAX_ATTEMPTS):
        assert pipeline.states() == {"retrying": 1}
        deliver_due(pipeline, again)
        clock.advance(timedelta(seconds=10))
    assert (pipeline.states(), len(again.keys)) == ({"dead": 1}, MAX_ATTEMPTS)
    [letter] = letters(pipeline)
    assert (letter.category, letter.attempt) == ("http_503", 1 + MAX_ATTEMPTS)
    attempts = pipeline.rows("SELECT attempt, category FROM delivery_attempts ORDER BY attempt")
    assert [tuple(each) for each in attempts] == [
        (1, "http_400"),
        (2, "http_503"),
        (3, "http_503"),
        (4, "http_503"),
    ]
    service.replay(TENANT, ALL, 100)
    assert sent(deliver_due(pipeline, ScriptedProvider())) == 1


def test_an_occasion_with_a_retry_policy_of_its_own_says_how_many_attempts_a_replay_has(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    pipeline.execute(
        "UPDATE occasions SET retry_max_attempts = 7, retry_base_seconds = 0, retry_cap_seconds = 0"
    )
    kill(pipeline, 1)
    service.replay(TENANT, ALL, 100)
    [batch] = pipeline.rows("SELECT attempt, max_attempts FROM batches WHERE state = 'pending'")
    assert tuple(batch) == (1, 8)


def test_letters_of_unknown_outcome_are_told_and_sent_under_the_same_key(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    pipeline.add_due_people(2)
    for _ in range(MAX_ATTEMPTS):
        deliver_due(pipeline, refusing("timeout", FailureKind.UNKNOWN))
        clock.advance(timedelta(seconds=10))
    assert counts(pipeline) == {OUTCOME_UNKNOWN: 2}
    assert all(letter.outcome_unknown for letter in letters(pipeline))
    dead = pipeline.keys_in("dead")
    done = service.replay(TENANT, ALL, 100)
    assert (done.replayed, done.outcome_unknown) == (2, 2)
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert set(provider.keys) == dead


def test_a_letter_whose_message_was_settled_meanwhile_goes_without_a_replay(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    """A callback said `delivered` of one; the other's partition is gone."""
    delivered, gone, dead = kill(pipeline, 3)
    pipeline.execute(
        "UPDATE message_log SET state = 'delivered', reason = NULL, accepted_at = send_at WHERE user_id = :id",
        id=delivered,
    )
    pipeline.execute("DELETE FROM message_log WHERE user_id = :id", id=gone)
    assert service.replay(TENANT, ALL, 100) == Replayed(1, settled=2, last_due_at=NINE)
    assert letters(pipeline) == []
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert [key.split(".")[1] for key in provider.keys] == [str(dead)]


def test_a_replayed_message_of_a_deleted_user_is_cancelled_when_it_is_claimed(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    [gone] = kill(pipeline, 1)
    pipeline.registry.delete(TENANT, gone)
    assert service.replay(TENANT, ALL, 100).replayed == 1
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == [Counts(cancelled=1)]
    [row] = pipeline.rows("SELECT CAST(state AS text) AS state, reason FROM message_log")
    assert tuple(row) == ("cancelled", NotSentReason.USER_DELETED)
    assert provider.received == []


def test_what_a_replay_could_not_send_is_handed_back_as_retrying_and_never_scheduled(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    kill(pipeline, 1)
    service.replay(TENANT, ALL, 100)
    deliver_due(pipeline, ScriptedProvider(lambda _: NotAttempted()))
    [row] = pipeline.rows("SELECT CAST(state AS text) AS state, attempt FROM message_log")
    assert tuple(row) == ("retrying", 1)
    assert sent(deliver_due(pipeline, ScriptedProvider())) == 1


def test_an_older_ticket_does_not_claim_a_replayed_message(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    """Part of a batch was handed back and is pending still; another part died and is replayed for later."""
    people = pipeline.add_due_people(2)
    pipeline.enqueue()
    batch = pipeline.lease()
    mixed = ScriptedProvider(
        lambda message: failed(FailureKind.PERMANENT) if f".{people[0]}." in message.id else NotAttempted()
    )
    pipeline.deliverer(mixed).deliver(batch, Signal())
    assert pipeline.states() == {"dead": 1, "scheduled": 1}
    service.replay(TENANT, ALL, 1)
    pipeline.execute("UPDATE batches SET due_at = due_at + interval '1 hour' WHERE max_attempts IS NOT NULL")
    provider = ScriptedProvider()
    assert sent(deliver_due(pipeline, provider)) == 1
    assert pipeline.states() == {"retrying": 1, "sent": 1}
    clock.advance(timedelta(hours=1))
    assert sent(deliver_due(pipeline, provider)) == 1
    assert len(set(provider.keys)) == 2


def test_only_what_the_filter_means_is_replayed(pipeline: Pipeline, service: DeadLetters) -> None:
    *_, one, other = kill_by(pipeline, ["http_400"] * 3 + ["http_422"] * 2)
    assert counts(pipeline) == {"http_400": 3, "http_422": 2}
    birthday = pipeline.rows("SELECT id FROM occasions WHERE key = 'birthday'")[0].id
    at = letters(pipeline)[0].died_at
    for wanted, expected in (
        (DeadLetterFilter(category="http_422"), 2),
        (DeadLetterFilter(occasion_id=birthday), 5),
        (DeadLetterFilter(occasion_id=birthday + 1), 0),
        (DeadLetterFilter(channel=Channel.SMS), 0),
        (DeadLetterFilter(channel=Channel.EMAIL), 5),
        (DeadLetterFilter(user_id=one), 1),
        (DeadLetterFilter(provider="scripted"), 5),
        (DeadLetterFilter(provider="other"), 0),
        (DeadLetterFilter(died_from=at), 5),
        (DeadLetterFilter(died_until=at), 0),
        (DeadLetterFilter(discarded=True), 0),
        (DeadLetterFilter(ids=[letters(pipeline)[0].id]), 1),
        (DeadLetterFilter(category="http_422", channel=Channel.EMAIL, user_id=other, died_from=at), 1),
    ):
        assert sum(counts(pipeline, wanted).values()) == len(letters(pipeline, wanted)) == expected, wanted
    assert service.replay(TENANT, DeadLetterFilter(category="http_422"), 100).replayed == 2
    assert counts(pipeline) == {"http_400": 3}


def test_discarded_letters_are_kept_with_the_reason_and_their_messages_stay_dead(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    kill(pipeline, 3)
    first = letters(pipeline)[-1]
    discarded = service.discard_one(TENANT, first.id, "no such mailbox")
    assert (discarded.discarded_at, discarded.discard_reason) == (NINE, "no such mailbox")
    assert len(letters(pipeline)) == 2
    assert service.discard(TENANT, ALL, "the occasion is over") == 2
    assert (letters(pipeline), pipeline.states()) == ([], {"dead": 3})
    reasons = [letter.discard_reason for letter in letters(pipeline, DeadLetterFilter(discarded=True))]
    assert reasons == ["the occasion is over", "the occasion is over", "no such mailbox"]
    assert service.replay(TENANT, ALL, 100).replayed == 0
    assert service.discard(TENANT, ALL, "again") == 0


def test_a_discarded_letter_is_replayed_only_where_that_is_said(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    kill(pipeline, 2)
    one, _ = letters(pipeline)
    service.discard(TENANT, ALL, "by mistake")
    with pytest.raises(Conflict, match="was discarded"):
        service.replay_one(TENANT, one.id)
    with pytest.raises(Conflict, match="was discarded"):
        service.discard_one(TENANT, one.id, "again")
    assert service.replay(TENANT, DeadLetterFilter(discarded=True), 100).replayed == 2
    assert sent(deliver_due(pipeline, ScriptedProvider())) == 2


def test_letters_that_are_not_there_or_another_tenants_are_not_found(
    pipeline: Pipeline, service: DeadLetters
) -> None:
    kill(pipeline, 1)
    [letter] = letters(pipeline)
    for tenant, letter_id in ((TENANT, letter.id + 1), (TENANT + 1, letter.id)):
        with pytest.raises(NotFound):
            service.replay_one(tenant, letter_id)
        with pytest.raises(NotFound):
            service.discard_one(tenant, letter_id, "no")
    assert service.replay(TENANT + 1, ALL, 100).replayed == 0
    assert service.discard(TENANT + 1, ALL, "no") == 0
    assert letters(pipeline) == [letter]
