"""Suppressed addresses and unsubscribed users are sent nothing, and the log says why."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.retry import RetryPolicy
from scheduler.domain.suppression import SuppressionReason
from scheduler.store import preferences
from scheduler.store.batches import Counts
from tests.fixtures.events import logged_events
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider, failed

BIRTHDAY_OCCASION = 1
EVERY_OCCASION = None


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, retry=RetryPolicy(max_attempts=3, base_seconds=2.0, cap_seconds=2.0))


def suppress(
    pipeline: Pipeline, address: str, channel: Channel = Channel.EMAIL, tenant_id: int = TENANT
) -> None:
    with pipeline.engine.begin() as connection:
        preferences.suppress(
            connection, tenant_id, channel, address, SuppressionReason.MANUAL, source="test", now=NINE
        )


def unsubscribe(
    pipeline: Pipeline, user_id: int, occasion_id: int | None, channel: Channel = Channel.EMAIL
) -> None:
    with pipeline.engine.begin() as connection:
        preferences.unsubscribe(connection, TENANT, user_id, channel, occasion_id, source="test", now=NINE)


def deliver_due(pipeline: Pipeline, provider: ScriptedProvider) -> Counts:
    total = Counts()
    for _ in range(pipeline.enqueue()):
        total += pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    return total


def reasons(pipeline: Pipeline) -> Counter[str]:
    rows = pipeline.rows("SELECT coalesce(reason, CAST(state AS text)) AS reason FROM message_log")
    return Counter(row.reason for row in rows)


@pytest.mark.parametrize("written", ["ann0@example.org", "Ann0@Example.ORG"])
def test_a_suppressed_address_is_sent_nothing_however_it_is_written(pipeline: Pipeline, written: str) -> None:
    pipeline.add_people(1, email=written)
    pipeline.add_due_people(1, first=1)
    suppress(pipeline, "ann0@example.org")
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts(sent=1, cancelled=1)
    assert [message.address for message in provider.received] == ["ann1@example.org"]
    assert reasons(pipeline) == {NotSentReason.SUPPRESSED: 1, "sent": 1}
    [batch] = pipeline.rows("SELECT sent_count, cancelled_count FROM batches")
    assert tuple(batch) == (1, 1)


def test_everyone_with_a_suppressed_address_is_sent_nothing(pipeline: Pipeline) -> None:
    pipeline.add_due_people(3, email="family@example.org")
    suppress(pipeline, "family@example.org")
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts(cancelled=3)
    assert provider.received == []
    assert pipeline.batch_states() == {"done": 1}


def test_an_address_is_suppressed_for_its_channel_and_tenant_only(pipeline: Pipeline) -> None:
    pipeline.add_due_people(1)
    suppress(pipeline, "ann0@example.org", channel=Channel.SMS)
    suppress(pipeline, "ann0@example.org", tenant_id=2)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)


@pytest.mark.parametrize("occasion_id", [BIRTHDAY_OCCASION, EVERY_OCCASION])
def test_who_unsubscribes_while_the_message_is_enqueued_is_sent_nothing(
    pipeline: Pipeline, occasion_id: int | None
) -> None:
    """FAULTS 18."""
    left, _ = pipeline.add_due_people(2)
    pipeline.enqueue()
    batch = pipeline.lease()
    unsubscribe(pipeline, left, occasion_id)
    counts = pipeline.deliverer(ScriptedProvider()).deliver(batch, Signal())
    assert counts == Counts(sent=1, cancelled=1)
    assert reasons(pipeline) == {NotSentReason.UNSUBSCRIBED: 1, "sent": 1}


def test_who_unsubscribed_from_another_occasion_or_channel_is_written_to(pipeline: Pipeline) -> None:
    one, other = pipeline.add_due_people(2)
    unsubscribe(pipeline, one, occasion_id=2)
    unsubscribe(pipeline, other, EVERY_OCCASION, channel=Channel.SMS)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=2)


def test_a_retry_is_refused_as_well(pipeline: Pipeline, clock: SettableClock) -> None:
    left, _, _ = pipeline.add_due_people(3)
    provider = ScriptedProvider(lambda _: failed(retry_after=timedelta(hours=1)))
    assert deliver_due(pipeline, provider) == Counts(retried=3)
    unsubscribe(pipeline, left, BIRTHDAY_OCCASION)
    suppress(pipeline, "ann1@example.org")
    clock.advance(timedelta(seconds=10))
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1, cancelled=2)
    assert reasons(pipeline) == {NotSentReason.UNSUBSCRIBED: 1, NotSentReason.SUPPRESSED: 1, "sent": 1}


def test_the_refused_are_not_put_off_till_the_morning(pipeline: Pipeline) -> None:
    pipeline.quiet_hours = QuietHours.parse("08:00-10:00")
    pipeline.add_due_people(2)
    suppress(pipeline, "ann0@example.org")
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(cancelled=1)
    assert reasons(pipeline) == {NotSentReason.SUPPRESSED: 1, "scheduled": 1}


def test_what_is_refused_at_the_claim_stays_refused_where_the_worker_dies(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(2)
    suppress(pipeline, "ann0@example.org")
    pipeline.enqueue()

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.deliverer(ScriptedProvider(before=die)).deliver(pipeline.lease("killed"), Signal())
    assert reasons(pipeline) == {NotSentReason.SUPPRESSED: 1, "sending": 1}
    [batch] = pipeline.rows("SELECT cancelled_count FROM batches")
    assert batch.cancelled_count == 1
    clock.advance(timedelta(minutes=2))
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)
    [batch] = pipeline.rows("SELECT sent_count, cancelled_count FROM batches")
    assert tuple(batch) == (1, 1)


def test_the_log_line_of_a_batch_says_how_many_were_not_sent_and_why(pipeline: Pipeline) -> None:
    pipeline.quiet_hours = QuietHours.parse("08:00-10:00")
    left, *_ = pipeline.add_due_people(5)
    suppress(pipeline, "ann4@example.org")
    unsubscribe(pipeline, left, EVERY_OCCASION)
    with logged_events("batch_delivered") as events:
        deliver_due(pipeline, ScriptedProvider())
    [event] = events
    counted = {
        name: event.fields[name] for name in ("sent", "cancelled", "deferred", "suppressed", "unsubscribed")
    }
    assert counted == {"sent": 0, "cancelled": 2, "deferred": 3, "suppressed": 1, "unsubscribed": 1}
