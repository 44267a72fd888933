"""One batch through the worker, on a real log: what is sent, what is written, and what is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import OUTCOME_UNKNOWN, MessageKey, NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.domain.user import UserPatch
from scheduler.errors import LeaseLost
from scheduler.store import batches, messages
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.direct import answers
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import ENQUEUE_DEADLINE, LATENESS_LIMIT, LEASE, NINE, TENANT, Pipeline
from tests.fixtures.providers import AT, ScriptedProvider, failed
from worker.channels.port import Accepted, FailureKind, NotAttempted, Outcome, OutgoingMessage


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, retry=RetryPolicy(max_attempts=3, base_seconds=2.0, cap_seconds=2.0))


def key(user_id: int) -> str:
    return MessageKey(1, user_id, NINE.date(), 0, Channel.EMAIL).text


def deliver(pipeline: Pipeline, provider: ScriptedProvider, batch: LeasedBatch | None = None) -> Counts:
    return pipeline.deliverer(provider).deliver(batch or pipeline.lease(), Signal())


def deliver_due(pipeline: Pipeline, provider: ScriptedProvider) -> Counter[str]:
    """Enqueue and deliver all that is due now; returns the counts added up."""
    total: Counter[str] = Counter()
    for _ in range(pipeline.enqueue()):
        counts = deliver(pipeline, provider)
        total.update({name: getattr(counts, name) for name in Counts.__slots__})
    return +total


def lapse_lease(pipeline: Pipeline, clock: SettableClock) -> None:
    """The worker that holds the lease is not heard of again, and recovery notices."""
    clock.advance(LEASE + timedelta(seconds=1))
    assert pipeline.recover()["lapsed_leases"] == 1


def claim_and_die(pipeline: Pipeline) -> LeasedBatch:
    """A worker claims a batch, sends it, and is killed before it can record anything."""

    def die() -> None:
        raise KeyboardInterrupt

    batch = pipeline.lease("killed")
    with pytest.raises(KeyboardInterrupt):
        deliver(pipeline, ScriptedProvider(before=die), batch)
    return batch


def answers_for(refused: set[int], outcome: Outcome) -> Callable[[OutgoingMessage], Outcome]:
    """Accept all messages but those of the users in `refused`."""
    return lambda message: outcome if MessageKey.parse(message.id).user_id in refused else Accepted(AT)


def test_a_due_batch_is_claimed_rendered_sent_and_recorded(pipeline: Pipeline) -> None:
    people = pipeline.add_due_people(3)
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == {"sent": 3}
    assert sorted(provider.keys) == sorted(map(key, people))
    first = min(provider.received, key=lambda message: message.address)
    assert (first.address, first.subject, first.text) == (
        "ann0@example.org",
        "Happy birthday",
        "Hey, Ann0 Lee, it's your birthday!",
    )
    [row] = pipeline.rows(
        "SELECT DISTINCT CAST(state AS text) AS state, accepted_at, attempt FROM message_log"
    )
    assert tuple(row) == ("sent", AT, 1)
    [batch] = pipeline.rows("SELECT CAST(state AS text) AS state, sent_count, finished_at FROM batches")
    assert tuple(batch) == ("done", 3, NINE)


def test_each_message_keeps_the_instant_it_was_accepted_at(pipeline: Pipeline) -> None:
    people = pipeline.add_due_people(5)
    instants = {key(user_id): AT + timedelta(seconds=number) for number, user_id in enumerate(people)}
    deliver_due(pipeline, ScriptedProvider(lambda message: Accepted(instants[message.id])))
    stored = pipeline.rows("SELECT user_id, accepted_at FROM message_log")
    assert {key(row.user_id): row.accepted_at for row in stored} == instants


def test_a_worker_killed_after_sending_is_followed_by_one_that_sends_the_same_keys(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(3)
    pipeline.enqueue()
    claim_and_die(pipeline)
    assert pipeline.states() == {"sending": 3}
    lapse_lease(pipeline, clock)
    again = ScriptedProvider()
    assert deliver_due(pipeline, again) == {"sent": 3}
    assert set(again.keys) == pipeline.keys_in("sent")
    assert {row.attempt for row in pipeline.rows("SELECT attempt FROM message_log")} == {2}


def test_a_worker_that_wakes_after_its_lease_changes_nothing(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """FAULTS 4: paused while it was sending, and the batch went to another."""
    pipeline.add_due_people(3)
    pipeline.enqueue()
    successor = ScriptedProvider(lambda _: failed())

    def sleep_through_it() -> None:
        lapse_lease(pipeline, clock)
        deliver_due(pipeline, successor)

    late = pipeline.lease("late")
    with pytest.raises(LeaseLost):
        deliver(pipeline, ScriptedProvider(before=sleep_through_it), late)
    assert len(successor.received) == 3
    assert pipeline.states() == {"retrying": 3}
    assert {row.sent_count for row in pipeline.rows("SELECT sent_count FROM batches")} == {0}


def test_a_worker_that_wakes_before_its_claim_changes_nothing(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """FAULTS 4: paused between the lease and the claim."""
    pipeline.add_due_people(3)
    pipeline.enqueue()
    late = pipeline.lease("late")
    lapse_lease(pipeline, clock)
    pipeline.enqueue()
    successor = pipeline.lease("successor")
    zombie = ScriptedProvider()

    def wake_the_late_one() -> None:
        with pytest.raises(LeaseLost):
            deliver(pipeline, zombie, late)

    assert deliver(pipeline, ScriptedProvider(before=wake_the_late_one), successor) == Counts(sent=3)
    assert zombie.received == []
    assert {row.attempt for row in pipeline.rows("SELECT attempt FROM message_log")} == {1}


def test_a_redelivery_after_the_end_finds_nothing_to_lease(pipeline: Pipeline) -> None:
    """FAULTS 3: the outcome is written, the broker was not told."""
    pipeline.add_due_people(1)
    pipeline.enqueue()
    batch = pipeline.lease()
    deliver(pipeline, ScriptedProvider(), batch)
    with pipeline.engine.begin() as connection:
        assert batches.lease(connection, batch.id, worker="other", expires_at=NINE + LEASE) is None
    with pytest.raises(LeaseLost):
        deliver(pipeline, ScriptedProvider(), batch)


@pytest.mark.parametrize("accepted_at", [(NINE, NINE), (NINE, NINE + LEASE)], ids=["together", "each"])
def test_nothing_is_written_along_with_the_end_of_a_lost_lease(
    pipeline: Pipeline, clock: SettableClock, accepted_at: tuple[datetime, datetime]
) -> None:
    """The end, what was accepted and the commit are one round trip: nobody looks in between."""
    pipeline.add_due_people(2)
    pipeline.enqueue()
    batch = pipeline.lease()
    with pipeline.engine.begin() as connection:
        answers(connection, [messages.claiming(batch)])
    accepted = dict(zip(batch.user_ids, accepted_at, strict=True))

    def finish(leased: LeasedBatch) -> None:
        with pipeline.engine.begin() as connection:
            accepting = messages.accepting(leased, accepted)
            batches.finish(connection, leased, Counts(sent=2), now=NINE, then=accepting, commits=True)

    with pytest.raises(LeaseLost):
        finish(replace(batch, lease_token=batch.lease_token - 1))
    assert (pipeline.states(), pipeline.batch_states()) == ({"sending": 2}, {"leased": 1})
    clock.advance(2 * LEASE)
    with pipeline.engine.begin() as connection:
        assert batches.lapse_leases(connection, now=clock.now()) == 1
    with pytest.raises(LeaseLost):
        finish(batch)
    assert (pipeline.states(), pipeline.batch_states()) == ({"sending": 2}, {"pending": 1})


def test_failures_of_one_batch_share_a_retry_batch(pipeline: Pipeline, clock: SettableClock) -> None:
    refused = set(pipeline.add_due_people(6)[:4])
    # A provider that asks for the longest wait makes all of them wait the same time.
    provider = ScriptedProvider(answers_for(refused, failed(retry_after=timedelta(hours=1))))
    assert deliver_due(pipeline, provider) == {"sent": 2, "retried": 4}
    [retry] = pipeline.rows("SELECT attempt, due_at, send_at, user_ids FROM batches WHERE state = 'pending'")
    assert (retry.attempt, retry.send_at) == (1, NINE)
    assert retry.due_at == AT.replace(microsecond=0) + timedelta(seconds=2)
    assert set(retry.user_ids) == refused
    [attempt] = pipeline.rows("SELECT DISTINCT provider, kind, category, attempt FROM delivery_attempts")
    assert tuple(attempt) == ("scripted", "retryable", "http_503", 1)
    clock.set(retry.due_at)
    assert deliver_due(pipeline, ScriptedProvider()) == {"sent": 4}
    assert pipeline.states() == {"sent": 6}


def test_attempts_that_are_used_up_end_among_the_dead_letters(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    provider = ScriptedProvider(lambda _: failed())
    for _ in range(3):
        deliver_due(pipeline, provider)
        clock.advance(timedelta(seconds=10))
    assert provider.keys == [key(user_id)] * 3
    assert deliver_due(pipeline, provider) == {}
    [letter] = pipeline.rows("SELECT user_id, category, attempt FROM dead_letters")
    assert tuple(letter) == (user_id, "http_503", 3)
    [message] = pipeline.rows("SELECT CAST(state AS text) AS state, reason FROM message_log")
    assert tuple(message) == ("dead", "http_503")
    assert [row.attempt for row in pipeline.rows("SELECT attempt FROM delivery_attempts ORDER BY id")] == [
        1,
        2,
        3,
    ]


def test_a_permanent_failure_is_a_dead_letter_at_once(pipeline: Pipeline) -> None:
    pipeline.add_due_people(2)
    provider = ScriptedProvider(lambda _: failed(FailureKind.PERMANENT, "http_400"))
    assert deliver_due(pipeline, provider) == {"dead": 2}
    assert pipeline.states() == {"dead": 2}
    assert pipeline.batch_states() == {"done": 1}
    assert [row.category for row in pipeline.rows("SELECT category FROM dead_letters")] == ["http_400"] * 2


def test_a_last_attempt_without_an_answer_is_dead_as_outcome_unknown(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(1)
    provider = ScriptedProvider(lambda _: failed(FailureKind.UNKNOWN, "timeout"))
    for _ in range(3):
        deliver_due(pipeline, provider)
        clock.advance(timedelta(seconds=10))
    [letter] = pipeline.rows("SELECT category, detail FROM dead_letters")
    assert tuple(letter) == (OUTCOME_UNKNOWN, "timeout: the provider said no")


def test_a_batch_that_kills_its_workers_ends_among_the_dead_letters(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(2)
    for _ in range(3):
        pipeline.enqueue()
        claim_and_die(pipeline)
        lapse_lease(pipeline, clock)
    survivor = ScriptedProvider()
    assert deliver_due(pipeline, survivor) == {"dead": 2}
    assert survivor.received == []
    assert [row.category for row in pipeline.rows("SELECT category FROM dead_letters")] == [
        OUTCOME_UNKNOWN
    ] * 2


def test_what_was_not_attempted_is_handed_back_with_its_attempt(pipeline: Pipeline) -> None:
    unsent = set(pipeline.add_due_people(5)[:2])
    assert deliver_due(pipeline, ScriptedProvider(answers_for(unsent, NotAttempted()))) == {"sent": 3}
    assert pipeline.states() == {"sent": 3, "scheduled": 2}
    assert pipeline.batch_states() == {"pending": 1}
    second = ScriptedProvider()
    assert deliver_due(pipeline, second) == {"sent": 2}
    assert set(second.keys) == set(map(key, unsent))
    [row] = pipeline.rows("SELECT DISTINCT attempt FROM message_log")
    assert row.attempt == 1
    [batch] = pipeline.rows("SELECT sent_count, CAST(state AS text) AS state FROM batches")
    assert tuple(batch) == (5, "done")


def test_a_retry_that_was_not_attempted_is_handed_back_with_its_attempt(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(2)
    deliver_due(pipeline, ScriptedProvider(lambda _: failed(retry_after=timedelta(hours=1))))
    clock.advance(timedelta(seconds=10))
    assert deliver_due(pipeline, ScriptedProvider(lambda _: NotAttempted())) == {}
    assert [tuple(row) for row in pipeline.rows("SELECT CAST(state AS text), attempt FROM message_log")] == [
        ("retrying", 1)
    ] * 2
    assert deliver_due(pipeline, ScriptedProvider()) == {"sent": 2}
    assert {row.attempt for row in pipeline.rows("SELECT attempt FROM message_log")} == {2}


def test_what_a_killed_worker_left_is_handed_back_with_one_attempt(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(1)
    pipeline.enqueue()
    claim_and_die(pipeline)
    lapse_lease(pipeline, clock)
    deliver_due(pipeline, ScriptedProvider(lambda _: NotAttempted()))
    [row] = pipeline.rows("SELECT CAST(state AS text) AS state, attempt FROM message_log")
    assert tuple(row) == ("retrying", 1)
    assert deliver_due(pipeline, ScriptedProvider()) == {"sent": 1}


def edit_behind_the_plan(pipeline: Pipeline, user_id: int, **changes: object) -> None:
    """What planning leaves that read a user before an edit which was committed first."""
    assignments = "".join(f", {name} = :{name}" for name in changes)
    pipeline.execute(
        f"UPDATE users SET version = version + 1{assignments} WHERE id = :id", id=user_id, **changes
    )


def test_a_message_of_an_older_version_is_replanned_and_sent_as_edited(pipeline: Pipeline) -> None:
    edited, _ = pipeline.add_due_people(2)
    edit_behind_the_plan(pipeline, edited, first_name="Zoë")
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == {"sent": 1}
    assert deliver_due(pipeline, provider) == {"sent": 1}
    assert provider.keys.count(key(edited)) == 1
    assert [message.text for message in provider.received][-1] == "Hey, Zoë Lee, it's your birthday!"
    assert pipeline.states() == {"sent": 2}
    assert pipeline.batch_states() == {"done": 1}


def test_a_message_of_an_older_version_that_is_not_due_yet_waits_for_its_hour(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    edit_behind_the_plan(pipeline, user_id, timezone="America/New_York")
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert provider.received == []
    assert deliver_due(pipeline, provider) == {}
    clock.set(NINE + timedelta(hours=5))
    assert deliver_due(pipeline, provider) == {"sent": 1}


def test_a_message_of_an_older_version_goes_with_its_occasion(pipeline: Pipeline) -> None:
    [user_id] = pipeline.add_due_people(1)
    edit_behind_the_plan(pipeline, user_id)
    pipeline.execute("UPDATE occasions SET active = false")
    provider = ScriptedProvider()
    assert [deliver_due(pipeline, provider) for _ in range(3)] == [{}, {}, {}]
    assert provider.received == []
    assert (pipeline.states(), pipeline.batch_states()) == ({}, {"done": 1})


def test_an_edit_that_went_through_the_register_is_followed(pipeline: Pipeline) -> None:
    """FAULTS 18: while the message is enqueued."""
    [user_id] = pipeline.add_due_people(1)
    pipeline.enqueue()
    pipeline.registry.patch(TENANT, user_id, UserPatch(first_name="Zoë"))
    provider = ScriptedProvider()
    assert deliver(pipeline, provider) == Counts(sent=1)
    assert provider.received[0].text == "Hey, Zoë Lee, it's your birthday!"


def test_a_user_deleted_after_the_plan_is_sent_nothing(pipeline: Pipeline) -> None:
    gone, _ = pipeline.add_due_people(2)
    pipeline.execute("DELETE FROM users WHERE id = :id", id=gone)
    assert deliver_due(pipeline, ScriptedProvider()) == {"sent": 1, "cancelled": 1}
    [row] = pipeline.rows("SELECT user_id, reason FROM message_log WHERE state = 'cancelled'")
    assert tuple(row) == (gone, NotSentReason.USER_DELETED)


def test_a_user_deleted_through_the_register_leaves_nothing_to_claim(pipeline: Pipeline) -> None:
    gone, _ = pipeline.add_due_people(2)
    pipeline.enqueue()
    pipeline.registry.delete(TENANT, gone)
    assert deliver(pipeline, ScriptedProvider()) == Counts(sent=1)
    assert pipeline.states() == {"sent": 1}


def test_a_retry_whose_address_is_gone_is_cancelled_with_the_reason(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    deliver_due(pipeline, ScriptedProvider(lambda _: failed()))
    clock.advance(timedelta(seconds=10))
    pipeline.registry.patch(TENANT, user_id, UserPatch(email=None))
    assert deliver_due(pipeline, ScriptedProvider()) == {"cancelled": 1}
    [row] = pipeline.rows("SELECT CAST(state AS text) AS state, reason FROM message_log")
    assert tuple(row) == ("cancelled", NotSentReason.NO_ADDRESS)


def test_a_batch_past_its_lateness_limit_expires_at_the_claim(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(2)
    pipeline.enqueue()
    clock.set(NINE + LATENESS_LIMIT + timedelta(seconds=1))
    provider = ScriptedProvider()
    assert deliver(pipeline, provider) == Counts(expired=2)
    assert provider.received == []
    rows = pipeline.rows("SELECT CAST(state AS text) AS state, reason FROM message_log")
    assert [tuple(row) for row in rows] == [("expired", NotSentReason.TOO_LATE)] * 2


def test_a_batch_at_its_lateness_limit_is_sent(pipeline: Pipeline, clock: SettableClock) -> None:
    pipeline.add_due_people(1)
    pipeline.enqueue()
    clock.set(NINE + LATENESS_LIMIT)
    assert deliver(pipeline, ScriptedProvider()) == Counts(sent=1)


def test_what_was_being_sent_when_it_grew_too_late_is_dead_not_forgotten(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """FAULTS 7: killed while sending, and everything stayed down past the limit."""
    pipeline.add_due_people(2)
    pipeline.enqueue()
    claim_and_die(pipeline)
    clock.set(NINE + LATENESS_LIMIT + timedelta(hours=1))
    for _ in range(3):
        pipeline.recover()
        clock.advance(ENQUEUE_DEADLINE * 2)
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == {"dead": 2}
    assert provider.received == []
    assert pipeline.states() == {"dead": 2}


def test_an_occasion_decides_over_the_settings(pipeline: Pipeline, clock: SettableClock) -> None:
    pipeline.add_due_people(1)
    pipeline.execute(
        "UPDATE occasions SET retry_max_attempts = 1, retry_base_seconds = 1, retry_cap_seconds = 1 WHERE id = 1"
    )
    assert deliver_due(pipeline, ScriptedProvider(lambda _: failed())) == {"dead": 1}


def test_a_batch_of_another_instant_claims_nothing_of_a_message_that_moved(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    pipeline.enqueue()
    old = pipeline.lease()
    stored = pipeline.rows("SELECT timezone FROM users WHERE id = :id", id=user_id)
    assert stored[0].timezone == "UTC"
    pipeline.registry.patch(TENANT, user_id, UserPatch(timezone="America/New_York"))
    provider = ScriptedProvider()
    assert deliver(pipeline, provider, old) == Counts()
    clock.set(NINE + timedelta(hours=5))
    assert deliver_due(pipeline, provider) == {"sent": 1}
    assert provider.keys == [key(user_id)]


def test_two_channels_are_two_messages(pipeline: Pipeline) -> None:
    pipeline.execute("UPDATE occasions SET channels = ARRAY['email', 'sms']::channel[] WHERE id = 1")
    pipeline.add_due_people(1)
    assert pipeline.enqueue() == 2
    email, sms = ScriptedProvider(), ScriptedProvider()
    deliver(pipeline, email, pipeline.lease(channel=Channel.EMAIL))
    deliver(pipeline, sms, pipeline.lease(channel=Channel.SMS))
    assert (email.received[0].address, sms.received[0].address) == ("ann0@example.org", "+4930123456")
    assert pipeline.states() == {"sent": 2}


def test_outcomes_under_a_forged_token_change_nothing(pipeline: Pipeline) -> None:
    pipeline.add_due_people(1)
    pipeline.enqueue()
    batch = pipeline.lease()
    for token in (batch.lease_token - 1, batch.lease_token + 1):
        with pytest.raises(LeaseLost):
            deliver(pipeline, ScriptedProvider(), replace(batch, lease_token=token))
    assert pipeline.states() == {"scheduled": 1}
