"""What providers report, and what the log makes of it: each event once, in whatever order it comes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from scheduler.callbacks import Callbacks, Recorded
from scheduler.clock import SettableClock
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.domain.message import OUTCOME_UNKNOWN, MessageKey
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.provider_settings import ChannelRoute, ProviderEntry, ProviderPlan
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import AT, ScriptedProvider, failed
from worker.channels.port import FailureKind, Outcome

LATER = AT + timedelta(minutes=3)
ONCE = RetryPolicy(max_attempts=1, base_seconds=1, cap_seconds=1)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


@pytest.fixture
def callbacks(engine: Engine, clock: SettableClock) -> Callbacks:
    names = ("mail", "other", "text")
    routes = {Channel.EMAIL: ChannelRoute(("mail", "other")), Channel.SMS: ChannelRoute(("text",))}
    return Callbacks(
        engine, clock, ProviderPlan({name: ProviderEntry(name, "http") for name in names}, routes)
    )


def key(user_id: int) -> MessageKey:
    return MessageKey(1, user_id, NINE.date(), 0, Channel.EMAIL)


def event(
    user_id: int,
    kind: DeliveryEventKind = DeliveryEventKind.DELIVERED,
    *,
    event_id: str = "",
    permanent: bool = False,
    address: str | None = None,
) -> DeliveryEvent:
    return DeliveryEvent(
        event_id or f"{user_id}.{kind}", key(user_id), kind, LATER, "smtp; 550", permanent, address
    )


def send(pipeline: Pipeline, count: int, answer: Outcome | None = None) -> list[int]:
    """People whose messages got this answer; without one they were accepted."""
    people = pipeline.add_due_people(count)
    pipeline.enqueue()
    provider = ScriptedProvider() if answer is None else ScriptedProvider(lambda _: answer)
    pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    return people


def state_of(pipeline: Pipeline, user_id: int) -> tuple[str, str | None]:
    [row] = pipeline.rows(
        "SELECT CAST(state AS text) AS state, reason FROM message_log WHERE user_id = :user_id",
        user_id=user_id,
    )
    return row.state, row.reason


def test_a_delivered_message_and_a_bounced_one_say_so(pipeline: Pipeline, callbacks: Callbacks) -> None:
    first, second, third = send(pipeline, 3)
    told = [event(first), event(second, DeliveryEventKind.BOUNCED)]
    assert callbacks.record("mail", told) == Recorded(recorded=2, ignored=0, applied=2)
    assert state_of(pipeline, first) == ("delivered", None)
    assert state_of(pipeline, second) == ("bounced", "bounced")
    assert state_of(pipeline, third) == ("sent", None)
    assert {row.accepted_at for row in pipeline.rows("SELECT accepted_at FROM message_log")} == {AT}


def test_an_event_that_is_told_twice_counts_once(pipeline: Pipeline, callbacks: Callbacks) -> None:
    [user_id] = send(pipeline, 1)
    told = [event(user_id), event(user_id)]
    assert callbacks.record("mail", told) == Recorded(recorded=1, ignored=1, applied=1)
    assert callbacks.record("mail", told) == Recorded(recorded=0, ignored=2, applied=0)
    # Another provider's event of the same name is another event.
    assert callbacks.record("other", told[:1]).recorded == 1


def test_the_order_of_events_does_not_matter(pipeline: Pipeline, callbacks: Callbacks) -> None:
    first, second = send(pipeline, 2)
    bounced, delivered = DeliveryEventKind.BOUNCED, DeliveryEventKind.DELIVERED
    callbacks.record("mail", [event(first, delivered)])
    callbacks.record("mail", [event(first, bounced)])
    callbacks.record("mail", [event(second, bounced)])
    callbacks.record("mail", [event(second, delivered)])
    assert state_of(pipeline, first) == state_of(pipeline, second) == ("bounced", "bounced")


def test_messages_the_log_does_not_know_are_ignored(pipeline: Pipeline, callbacks: Callbacks) -> None:
    [user_id] = send(pipeline, 1)
    assert callbacks.record("mail", [event(user_id + 1)]) == Recorded(0, 1, 0)
    assert callbacks.record("mail", []) == Recorded(0, 0, 0)


def test_a_provider_is_not_believed_about_channels_of_others(
    pipeline: Pipeline, callbacks: Callbacks
) -> None:
    [user_id] = send(pipeline, 1)
    for kind in DeliveryEventKind:
        told = event(user_id, kind, permanent=True, address="ann0@example.org")
        assert callbacks.record("text", [told]) == Recorded(recorded=0, ignored=1, applied=0)
        assert callbacks.record("nobody", [told]) == Recorded(recorded=0, ignored=1, applied=0)
    assert state_of(pipeline, user_id) == ("sent", None)
    assert not [*pipeline.rows("SELECT FROM suppressions"), *pipeline.rows("SELECT FROM unsubscribes")]
    assert callbacks.record("other", [event(user_id)]).applied == 1, "a provider to fail over to is"


def test_an_event_that_overtakes_the_worker_waits_for_it(
    pipeline: Pipeline, callbacks: Callbacks, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_due_people(1)
    pipeline.enqueue()
    told: list[Recorded] = []
    early = ScriptedProvider(before=lambda: told.append(callbacks.record("mail", [event(user_id)])))
    pipeline.deliverer(early).deliver(pipeline.lease(), Signal())
    assert told == [Recorded(recorded=1, ignored=0, applied=0)]
    assert state_of(pipeline, user_id) == ("sent", None)
    assert callbacks.apply_waiting() == 1
    assert state_of(pipeline, user_id) == ("delivered", None)
    clock.advance(timedelta(minutes=10))
    assert callbacks.apply_waiting() == 0


def test_an_event_settles_a_message_whose_outcome_was_unknown(
    pipeline: Pipeline, callbacks: Callbacks, clock: SettableClock
) -> None:
    unknown = failed(FailureKind.UNKNOWN, "timeout")
    first, second = send(pipeline, 2, unknown)
    assert state_of(pipeline, first)[0] == "retrying"
    callbacks.record("mail", [event(first)])
    row = pipeline.rows("SELECT accepted_at FROM message_log WHERE user_id = :user_id", user_id=first)[0]
    assert state_of(pipeline, first) == ("delivered", None)
    assert row.accepted_at == LATER
    clock.advance(timedelta(minutes=5))
    provider = ScriptedProvider()
    for _ in range(pipeline.enqueue()):
        pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert provider.keys == [key(second).text]


def test_an_event_takes_back_a_dead_letter_of_unknown_outcome_only(
    engine: Engine, clock: SettableClock, callbacks: Callbacks
) -> None:
    pipeline = Pipeline(engine, clock, retry=ONCE)
    unknown, refused = failed(FailureKind.UNKNOWN, "timeout"), failed(FailureKind.PERMANENT, "http_400")
    answers: dict[str, Outcome] = {}
    provider = ScriptedProvider(lambda message: answers[message.id])
    first, second = pipeline.add_due_people(2)
    answers |= {key(first).text: unknown, key(second).text: refused}
    pipeline.enqueue()
    pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert state_of(pipeline, first) == ("dead", OUTCOME_UNKNOWN)
    assert callbacks.record("mail", [event(first), event(second)]).applied == 2
    assert state_of(pipeline, first) == ("delivered", None)
    assert state_of(pipeline, second) == ("dead", "http_400")
    assert [row.user_id for row in pipeline.rows("SELECT user_id FROM dead_letters")] == [second]


def test_a_thousand_events_in_one_request(pipeline: Pipeline, callbacks: Callbacks) -> None:
    people = send(pipeline, 500)
    kinds = (DeliveryEventKind.DELIVERED, DeliveryEventKind.COMPLAINED)
    told = [event(user_id, kind) for user_id in people for kind in kinds]
    assert callbacks.record("mail", told) == Recorded(1_000, 0, 1_000)
    assert pipeline.states() == {"delivered": 500}


def suppressed(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    rows = pipeline.rows("SELECT address, reason, source FROM suppressions ORDER BY address")
    return [(row.address, row.reason, row.source) for row in rows]


def test_what_bounces_for_good_and_who_complains_is_written_to_no_more(
    pipeline: Pipeline, callbacks: Callbacks
) -> None:
    bounced, complained = DeliveryEventKind.BOUNCED, DeliveryEventKind.COMPLAINED
    first, second, third = send(pipeline, 3)
    told = [
        event(first, bounced, permanent=True),
        event(second, complained, address="Ann1.Lee@Example.ORG"),
        event(third, bounced),
    ]
    callbacks.record("mail", told)
    callbacks.record("mail", told)
    assert suppressed(pipeline) == [
        ("ann0@example.org", "bounced", "mail"),
        ("ann1.lee@example.org", "complained", "mail"),
    ]


def test_who_unsubscribes_at_the_provider_is_unsubscribed_here(
    pipeline: Pipeline, callbacks: Callbacks
) -> None:
    [user_id] = send(pipeline, 1)
    callbacks.record("mail", [event(user_id, DeliveryEventKind.UNSUBSCRIBED)])
    [row] = pipeline.rows("SELECT user_id, CAST(channel AS text) AS channel, occasion_id FROM unsubscribes")
    assert tuple(row) == (user_id, "email", 0)
    assert suppressed(pipeline) == []


def test_events_of_messages_on_their_way_hold_up_no_others(
    pipeline: Pipeline, callbacks: Callbacks, clock: SettableClock
) -> None:
    send(pipeline, 1_500)
    [row] = pipeline.rows("SELECT min(user_id) AS id FROM message_log WHERE state = 'sent'")
    waiting = pipeline.rows("SELECT user_id FROM message_log WHERE state = 'scheduled'")
    on_their_way = [each.user_id for each in waiting]
    assert len(on_their_way) == 1_000
    callbacks.record("mail", [event(user_id) for user_id in on_their_way])
    assert callbacks.record("mail", [event(row.id)]) == Recorded(recorded=1, ignored=0, applied=1)
    assert state_of(pipeline, row.id) == ("delivered", None)
    # After a day they are given up: such a message says nothing about its delivery any more.
    clock.advance(timedelta(days=1, seconds=1))
    assert callbacks.apply_waiting() == 1_000
    assert callbacks.apply_waiting() == 0


def test_ids_beyond_any_column_are_ids_of_no_message() -> None:
    for text in (
        "1.99999999999999999999.20270301.0.email",
        "99999999999.1.20270301.0.email",
        "1.1.20270301.99999.email",
        "0.1.20270301.0.email",
        "1.1.00010301.0.email",
    ):
        with pytest.raises(ValueError, match="not a message id"):
            MessageKey.parse(text)
