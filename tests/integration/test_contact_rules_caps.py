"""No more of a group's occasions reach a user within its period than it allows, however many workers claim."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import date, time, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.message import NotSentReason
from scheduler.domain.occasion import Channel, OnceRule
from scheduler.domain.quiet_hours import QuietHours
from scheduler.errors import Conflict, InvalidInput
from scheduler.store import occasion_groups, occasions, users
from scheduler.store.batches import Counts, LeasedBatch
from scheduler.store.occasion_groups import OccasionGroup
from tests.fixtures.messages import Signal
from tests.fixtures.occasions import an_occasion
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider, failed
from tests.fixtures.waiting import wait_until_blocked
from worker.channels.port import Accepted, FailureKind, NotAttempted, Outcome

A_DAY = timedelta(days=1)
CARE = OccasionGroup("care", 1, A_DAY)
TODAY = NINE.date()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE - timedelta(hours=1))


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    pipeline = Pipeline(engine, clock)
    put(pipeline, CARE)
    return pipeline


def put(pipeline: Pipeline, group: OccasionGroup) -> None:
    with pipeline.engine.begin() as connection:
        occasion_groups.put(connection, TENANT, group)


def add_occasion(pipeline: Pipeline, key: str, at: time, on: date = TODAY, **changes: Any) -> int:
    """An occasion of the group for everyone, once, at a local time of a day; returns its id."""
    values = {"key": key, "rule": OnceRule(on), "local_times": (at,), "group": "care", **changes}
    with pipeline.engine.begin() as connection:
        return occasions.add(connection, an_occasion(**values), now=pipeline.clock.now()).id


def deliver_next(
    pipeline: Pipeline, provider: ScriptedProvider | None = None, channel: Channel = Channel.EMAIL
) -> Counts:
    return pipeline.deliverer(provider or accepting(pipeline)).deliver(
        pipeline.lease(channel=channel), Signal()
    )


def accepting(pipeline: Pipeline) -> ScriptedProvider:
    """Accepts at the clock's instant."""
    return ScriptedProvider(lambda _: Accepted(pipeline.clock.now()))


def deliver_at(pipeline: Pipeline, clock: SettableClock, *times: time, on: date = TODAY) -> list[Counts]:
    """Deliver the one batch that is due at each of these times."""
    done = []
    for each in times:
        clock.set(NINE.combine(on, each, NINE.tzinfo))
        assert pipeline.enqueue() == 1
        done.append(deliver_next(pipeline))
    return done


def outcomes(pipeline: Pipeline) -> Counter[tuple[str, str]]:
    rows = pipeline.rows(
        "SELECT o.key, coalesce(l.reason, CAST(l.state AS text)) AS outcome FROM message_log l"
        " JOIN occasions o ON o.id = l.occasion_id"
    )
    return Counter((row.key, row.outcome) for row in rows)


SENT, CAPPED = Counts(sent=1), Counts(cancelled=1)


def test_the_second_of_a_group_within_its_period_is_not_sent(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    add_occasion(pipeline, "a", time(9))
    add_occasion(pipeline, "b", time(10))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(9), time(10)) == [SENT, CAPPED]
    assert outcomes(pipeline) == {("a", "sent"): 1, ("b", NotSentReason.FREQUENCY_CAPPED): 1}


def test_as_many_are_sent_as_the_group_allows(pipeline: Pipeline, clock: SettableClock) -> None:
    put(pipeline, replace(CARE, most_occurrences=2))
    for key, hour in {"a": 9, "b": 10, "c": 11}.items():
        add_occasion(pipeline, key, time(hour))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(9), time(10), time(11)) == [SENT, SENT, CAPPED]


def test_what_was_accepted_before_the_period_no_longer_counts(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """At the very end of it neither: 09:00 to 09:00 is a day."""
    tomorrow = TODAY + A_DAY
    add_occasion(pipeline, "a", time(9))
    add_occasion(pipeline, "b", time(8, 59), on=tomorrow)
    add_occasion(pipeline, "c", time(9), on=tomorrow)
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(9)) == [SENT]
    assert deliver_at(pipeline, clock, time(8, 59), time(9), on=tomorrow) == [CAPPED, SENT]


def test_the_channels_of_one_occurrence_count_once(pipeline: Pipeline, clock: SettableClock) -> None:
    put(pipeline, replace(CARE, most_occurrences=2))
    both = (Channel.EMAIL, Channel.SMS)
    for key, hour in {"a": 9, "b": 10, "c": 11}.items():
        add_occasion(pipeline, key, time(hour), channels=both)
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    for hour, expected in {9: SENT, 10: SENT, 11: CAPPED}.items():
        clock.set(NINE.replace(hour=hour))
        assert pipeline.enqueue() == 2
        assert [deliver_next(pipeline, channel=channel) for channel in both] == [expected] * 2


def test_each_time_of_an_occasion_is_an_occurrence(pipeline: Pipeline, clock: SettableClock) -> None:
    add_occasion(pipeline, "a", time(9), local_times=(time(9), time(10)), honours_preferred_time=False)
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(9), time(10)) == [SENT, CAPPED]


def test_other_groups_and_occasions_without_one_do_not_count(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    put(pipeline, OccasionGroup("sales", 1, A_DAY))
    add_occasion(pipeline, "a", time(9), group=None)
    add_occasion(pipeline, "b", time(10), group="sales")
    add_occasion(pipeline, "c", time(11))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(9), time(10), time(11)) == [SENT] * 3


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (failed(retry_after=timedelta(hours=3)), CAPPED),
        (failed(FailureKind.UNKNOWN, "timeout", retry_after=timedelta(hours=3)), CAPPED),
        (failed(FailureKind.PERMANENT, "http_400"), SENT),
    ],
)
def test_what_is_still_to_be_tried_counts_and_what_is_dead_does_not(
    pipeline: Pipeline, clock: SettableClock, outcome: Outcome, expected: Counts
) -> None:
    add_occasion(pipeline, "a", time(9))
    add_occasion(pipeline, "b", time(10))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    clock.set(NINE)
    pipeline.enqueue()
    deliver_next(pipeline, ScriptedProvider(lambda _: outcome))
    assert deliver_at(pipeline, clock, time(10)) == [expected]


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "first",
    [
        ScriptedProvider(lambda _: replace(failed(retry_after=timedelta(hours=3)), at=NINE)),
        ScriptedProvider(before=die),
    ],
    ids=["a retry", "what a killed worker left"],
)
def test_what_may_have_been_accepted_is_not_held_up_by_the_cap(
    pipeline: Pipeline, clock: SettableClock, first: ScriptedProvider
) -> None:
    """It has passed once, and the cap was lowered meanwhile."""
    put(pipeline, replace(CARE, most_occurrences=2))
    add_occasion(pipeline, "a", time(9))
    add_occasion(pipeline, "b", time(9, 0, 30))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    clock.set(NINE)
    pipeline.enqueue()
    with suppress(KeyboardInterrupt):
        assert deliver_next(pipeline, first) == Counts(retried=1)
    assert deliver_at(pipeline, clock, time(9, 0, 30)) == [SENT]
    put(pipeline, CARE)
    clock.set(NINE + timedelta(hours=2))
    assert pipeline.enqueue() == 1
    assert deliver_next(pipeline) == SENT


def test_what_is_put_off_or_handed_back_is_counted_when_it_is_sent(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    add_occasion(pipeline, "a", time(9), quiet_hours=QuietHours.parse("08:00-12:00"))
    add_occasion(pipeline, "b", time(10))
    add_occasion(pipeline, "c", time(11))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(9)) == [Counts()]
    clock.set(NINE.replace(hour=10))
    pipeline.enqueue()
    assert deliver_next(pipeline, ScriptedProvider(lambda _: NotAttempted())) == Counts()
    pipeline.execute(
        "UPDATE batches SET due_at = :later WHERE state = 'pending' AND due_at = :now",
        later=NINE.replace(hour=13),
        now=clock.now(),
    )
    assert deliver_at(pipeline, clock, time(11), time(12), time(13)) == [SENT, CAPPED, CAPPED]


def test_a_night_before_counts_by_the_day_it_was_accepted(pipeline: Pipeline, clock: SettableClock) -> None:
    """Partitions are read by local date: a message of the month before, accepted in this one, is found."""
    month_end = TODAY - A_DAY
    clock.set(NINE - timedelta(hours=30))
    add_occasion(pipeline, "a", time(23), on=month_end, quiet_hours=QuietHours.parse("22:00-08:00"))
    add_occasion(pipeline, "b", time(9))
    pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    assert deliver_at(pipeline, clock, time(23), on=month_end) == [Counts()]
    assert deliver_at(pipeline, clock, time(8), time(9)) == [SENT, CAPPED]


def test_two_workers_that_claim_two_of_a_group_at_once_do_not_both_pass(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """Both at the same instant, for the same people."""
    first = add_occasion(pipeline, "a", time(9))
    second = add_occasion(pipeline, "b", time(9))
    people = pipeline.add_people(400, dates={})
    pipeline.plan(clock.now())
    clock.set(NINE)
    assert pipeline.enqueue() == 2
    leased = [pipeline.lease(), pipeline.lease()]
    assert {batch.occasion_id for batch in leased} == {first, second}
    start = Barrier(2)

    def deliver(batch: LeasedBatch) -> Counts:
        start.wait(timeout=30)
        return pipeline.deliverer(accepting(pipeline)).deliver(batch, Signal())

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(deliver, leased))
    assert sum(counts.sent for counts in done) == sum(counts.cancelled for counts in done) == len(people)
    rows = pipeline.rows("SELECT user_id FROM message_log WHERE state = 'sent'")
    assert sorted(row.user_id for row in rows) == people


def test_a_claim_waits_for_the_claim_of_another_of_the_group(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """The first worker has counted and not committed: the second must not count yet."""
    add_occasion(pipeline, "a", time(9))
    add_occasion(pipeline, "b", time(9))
    pipeline.add_people(2, dates={})
    pipeline.plan(clock.now())
    clock.set(NINE)
    pipeline.enqueue()
    first, second = pipeline.lease(), pipeline.lease()
    claimer = pipeline.deliverer(accepting(pipeline))._claimer
    with ThreadPoolExecutor(1) as threads, pipeline.engine.begin() as connection:
        claimed = claimer.claim(connection, first, accepting(pipeline))
        assert claimed is not None
        assert len(claimed.ready) == 2
        waiting = threads.submit(lambda: pipeline.deliverer(accepting(pipeline)).deliver(second, Signal()))
        wait_until_blocked(pipeline.engine, waiting)
        connection.commit()
        assert waiting.result(timeout=30) == Counts(cancelled=2)


def test_a_claim_that_waits_for_an_edit_holds_none_of_the_edits_messages(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """Both lock users before messages: the other way round each would wait for the other."""
    add_occasion(pipeline, "a", time(9))
    [user_id] = pipeline.add_people(1, dates={})
    pipeline.plan(clock.now())
    clock.set(NINE)
    pipeline.enqueue()
    batch = pipeline.lease()
    with ThreadPoolExecutor(1) as threads, pipeline.engine.begin() as edit:
        users.lock(edit, [user_id])
        waiting = threads.submit(lambda: pipeline.deliverer(accepting(pipeline)).deliver(batch, Signal()))
        wait_until_blocked(pipeline.engine, waiting)
        edit.execute(text("SET LOCAL lock_timeout = '200ms'"))
        assert pipeline.planner.replan_stored(edit, TENANT, [user_id], now=clock.now()).kept == 1
        edit.commit()
        assert waiting.result(timeout=30) == SENT


# The groups themselves.


def test_groups_are_put_listed_and_removed(pipeline: Pipeline) -> None:
    sales = OccasionGroup("sales", 3, timedelta(days=7))
    put(pipeline, sales)
    put(pipeline, replace(CARE, most_occurrences=5))
    with pipeline.engine.begin() as connection:
        assert occasion_groups.list_all(connection, TENANT) == [replace(CARE, most_occurrences=5), sales]
        assert occasion_groups.list_all(connection, 2) == []
        assert occasion_groups.remove(connection, TENANT, "sales")
        assert not occasion_groups.remove(connection, TENANT, "sales")


def test_a_group_that_an_occasion_names_is_not_removed(pipeline: Pipeline) -> None:
    add_occasion(pipeline, "a", time(9))
    with pipeline.engine.connect() as connection, pytest.raises(Conflict, match="'care'"):
        occasion_groups.remove(connection, TENANT, "care")


def test_an_occasion_names_a_group_that_exists(pipeline: Pipeline, clock: SettableClock) -> None:
    occasion_id = add_occasion(pipeline, "a", time(9), group=None)
    with pipeline.engine.connect() as connection:
        occasion = occasions.by_id(connection, [occasion_id])[occasion_id]
    with pytest.raises(InvalidInput) as refused:
        pipeline.edits.save(replace(occasion, group="core"), now=clock.now())
    assert [error.pointer for error in refused.value.errors] == ["/group"]
    pipeline.edits.save(replace(occasion, group="care"), now=clock.now())


@pytest.mark.parametrize(
    ("key", "most", "period"), [("", 1, A_DAY), ("a", 0, A_DAY), ("a", 40_000, A_DAY), ("a", 1, timedelta())]
)
def test_a_limit_that_means_nothing_is_refused(key: str, most: int, period: timedelta) -> None:
    with pytest.raises(ValueError, match="group"):
        OccasionGroup(key, most, period)
