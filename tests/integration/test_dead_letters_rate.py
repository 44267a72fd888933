"""When replayed messages fall due: at the rate chosen, each once however many operators ask, and never too late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.dead_letters import DeadLetters, Replayed
from scheduler.domain.occasion import Channel
from scheduler.domain.retry import RetryPolicy
from scheduler.errors import NotFound
from tests.fixtures.dead_letters import (
    ALL,
    counts,
    deliver_due,
    kill,
    letters,
    pending,
    refusing,
    sent,
)
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import LATENESS_LIMIT, NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider

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


def test_messages_of_one_batch_share_one_again_and_fall_due_at_the_rate_chosen(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    kill(pipeline, 25)
    clock.advance(timedelta(hours=3))
    done = service.replay(TENANT, ALL, 10)
    assert done == Replayed(25, last_due_at=clock.now() + timedelta(seconds=2))
    assert pending(pipeline) == [
        (timedelta(0), 10),
        (timedelta(seconds=1), 10),
        (timedelta(seconds=2), 5),
    ]
    provider = ScriptedProvider()
    for due in (10, 10, 5):
        assert sent(deliver_due(pipeline, provider)) == due
        assert deliver_due(pipeline, provider) == []
        clock.advance(timedelta(seconds=1))


@pytest.mark.parametrize(("rate", "sizes"), [(0.5, [1, 1, 1]), (2.9, [2, 1]), (1000.0, [3])])
def test_no_batch_holds_more_than_a_second_of_messages(
    pipeline: Pipeline, service: DeadLetters, rate: float, sizes: list[int]
) -> None:
    kill(pipeline, 3)
    service.replay(TENANT, ALL, rate)
    assert [size for _, size in pending(pipeline)] == sizes
    placed = [sum(sizes[:number]) / rate for number in range(len(sizes))]
    assert [due.total_seconds() for due, _ in pending(pipeline)] == pytest.approx(placed, abs=1e-5)


def test_chunks_go_on_where_the_one_before_ended(pipeline: Pipeline) -> None:
    kill(pipeline, 25)
    service = DeadLetters(pipeline.engine, pipeline.clock, MAX_ATTEMPTS, chunk=4)
    progress: list[int] = []
    done = service.replay(TENANT, ALL, 2, progress.append)
    assert (done.replayed, sum(progress), max(progress)) == (25, 25, 4)
    assert sum(size for _, size in pending(pipeline)) == 25
    assert pending(pipeline)[-1] == (timedelta(seconds=12), 1)
    assert max(size for _, size in pending(pipeline)) == 2
    assert pipeline.states() == {"retrying": 25}


def test_a_chunk_with_letters_of_several_occasions_channels_and_dates_keeps_them_apart(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    pipeline.execute("UPDATE occasions SET channels = '{email,sms}'")
    clock.set(NINE - timedelta(hours=2))
    pipeline.add_people(4)
    pipeline.add_people(3, first=10, dates={"anniversary": date(2000, 3, 1)})
    pipeline.add_people(2, first=20, timezone="Pacific/Kiritimati", dates={"birthday": date(2000, 3, 2)})
    pipeline.plan(clock.now())
    clock.set(NINE + timedelta(hours=14))
    for channel in (Channel.EMAIL, Channel.SMS):
        deliverer = pipeline.deliverer(refusing())
        pipeline.enqueue()
        for _ in range(3):
            deliverer.deliver(pipeline.lease(channel=channel), Signal())
    assert pipeline.states() == {"dead": 18}
    dead = pipeline.keys_in("dead")
    assert service.replay(TENANT, ALL, 1000).replayed == 18
    assert len(pending(pipeline)) == 6
    provider = ScriptedProvider()
    clock.advance(timedelta(seconds=1))
    pipeline.enqueue()
    for channel in (Channel.EMAIL, Channel.SMS):
        for _ in range(3):
            pipeline.deliverer(provider).deliver(pipeline.lease(channel=channel), Signal())
    assert set(provider.keys) == dead == pipeline.keys_in("sent")


@pytest.mark.parametrize("chunk", [7, 5000])
def test_four_operators_at_once_replay_each_message_once(
    pipeline: Pipeline, clock: SettableClock, chunk: int
) -> None:
    kill(pipeline, 200)
    dead = pipeline.keys_in("dead")
    start = Barrier(4)

    def replay(_: int) -> Replayed:
        service = DeadLetters(pipeline.engine, pipeline.clock, MAX_ATTEMPTS, chunk=chunk)
        start.wait(timeout=30)
        return service.replay(TENANT, ALL, 1000)

    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(replay, range(4)))
    assert sum(each.replayed for each in done) == 200
    assert sum(each.settled for each in done) == 0
    assert sum(size for _, size in pending(pipeline)) == 200
    clock.advance(timedelta(minutes=1))
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert (sorted(provider.keys), pipeline.states()) == (sorted(dead), {"sent": 200})


def test_one_letter_is_replayed_once_by_two_at_once(pipeline: Pipeline) -> None:
    kill(pipeline, 1)
    [letter] = letters(pipeline)
    start = Barrier(2)

    def replay(_: int) -> int:
        service = DeadLetters(pipeline.engine, pipeline.clock, MAX_ATTEMPTS)
        start.wait(timeout=30)
        try:
            return service.replay_one(TENANT, letter.id).replayed
        except NotFound:
            return 0

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(replay, range(2))) == [0, 1]
    assert [size for _, size in pending(pipeline)] == [1]


def test_a_replay_a_month_later_is_sent_and_late_only_from_then_on(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    kill(pipeline, 2)
    clock.advance(timedelta(days=30))
    service.replay(TENANT, ALL, 1)
    assert pipeline.recover()["expired"] == 0
    assert sent(deliver_due(pipeline, ScriptedProvider())) == 1
    clock.advance(LATENESS_LIMIT)
    assert pipeline.recover()["expired"] == 0
    clock.advance(timedelta(seconds=2))
    assert pipeline.recover()["expired"] == 1
    assert pipeline.states() == {"sent": 1, "expired": 1}


def test_a_replay_slower_than_the_lateness_limit_lets_nothing_expire(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    pipeline.execute("UPDATE occasions SET lateness_limit = interval '1 minute'")
    kill(pipeline, 3)
    done = service.replay(TENANT, ALL, 0.01)
    assert done.last_due_at == NINE + timedelta(seconds=200)
    for _ in range(3):
        assert pipeline.recover()["expired"] == 0
        assert sent(deliver_due(pipeline, ScriptedProvider())) == 1
        clock.advance(timedelta(seconds=100))
    assert pipeline.states() == {"sent": 3}


def test_a_replay_that_is_late_expires_as_any_other_message(
    pipeline: Pipeline, service: DeadLetters, clock: SettableClock
) -> None:
    kill(pipeline, 1)
    service.replay(TENANT, ALL, 1)
    pipeline.enqueue()
    clock.advance(LATENESS_LIMIT + timedelta(seconds=1))
    provider = ScriptedProvider()
    counted = pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert (counted.expired, provider.received) == (1, [])


def test_what_dies_after_a_replay_has_begun_is_not_its_own(pipeline: Pipeline, clock: SettableClock) -> None:
    """Else a replay of what dies again at once would never end."""
    kill(pipeline, 4)
    service = DeadLetters(pipeline.engine, pipeline.clock, MAX_ATTEMPTS, chunk=2)

    def die_again(_: int) -> None:
        deliver_due(pipeline, refusing("http_500"))

    clock.advance(timedelta(seconds=1))
    assert service.replay(TENANT, ALL, 100_000, die_again).replayed == 4
    assert counts(pipeline)["http_500"] >= 2


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(service: DeadLetters, rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        service.replay(TENANT, ALL, rate)
