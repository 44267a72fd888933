"""An edit of an occasion is replanned some users at a time, and nothing is sent, lost or doubled meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import time, timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM
from scheduler.domain.occasion import Occasion, SameDayPolicy
from scheduler.domain.occasion_input import OccasionInput, OccasionPatch
from scheduler.domain.user import UserPatch
from scheduler.occasion_edits import OccasionEdits
from scheduler.occasions import Occasions
from scheduler.store import occasions
from scheduler.store.database import in_transaction
from scheduler.store.planning import Replanned
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, TENANT, Pipeline, person
from tests.fixtures.providers import ScriptedProvider

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE - HOUR)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


@pytest.fixture
def edits(pipeline: Pipeline) -> OccasionEdits:
    """Takes two users at a time."""
    return OccasionEdits(pipeline.engine, pipeline.planner, users_at_once=2)


def birthday(pipeline: Pipeline) -> Occasion:
    with pipeline.engine.connect() as connection:
        return occasions.by_id(connection, [1])[1]


def begin(pipeline: Pipeline, edits: OccasionEdits, **changes: object) -> Occasion:
    """Edit the birthday and replan two users."""
    changed = replace(birthday(pipeline), **changes)  # type: ignore[arg-type]
    now = pipeline.clock.now()
    in_transaction(pipeline.engine, lambda connection: edits.change(connection, changed, now=now))
    step = edits.replan(changed, go_on=lambda: False)
    assert not step.is_done
    return birthday(pipeline)


def deliver_due(pipeline: Pipeline) -> list[str]:
    """Enqueue and deliver what is due now; the keys that the provider got."""
    provider = ScriptedProvider()
    for _ in range(pipeline.enqueue()):
        pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    return provider.keys


def due(pipeline: Pipeline) -> Counter[str]:
    rows = pipeline.rows("SELECT to_char(send_at AT TIME ZONE 'UTC', 'DD HH24:MI') AS at FROM message_log")
    return Counter(row.at for row in rows)


def test_all_are_replanned_piece_by_piece(pipeline: Pipeline, edits: OccasionEdits) -> None:
    pipeline.add_due_people(7)
    changed = replace(birthday(pipeline), local_times=(time(12),))
    assert edits.save(changed, now=pipeline.clock.now()) == Replanned(moved=7)
    assert due(pipeline) == {"01 12:00": 7}
    assert birthday(pipeline).replan_from is None


def test_nothing_is_sent_before_the_last_user_is_replanned(
    pipeline: Pipeline, edits: OccasionEdits, clock: SettableClock
) -> None:
    pipeline.add_due_people(5)
    begin(pipeline, edits, local_times=(time(9, 30),))
    clock.set(NINE)
    assert deliver_due(pipeline) == []
    clock.set(NINE + HOUR)
    assert deliver_due(pipeline) == []
    pipeline.recover()
    assert birthday(pipeline).replan_from is None
    assert due(pipeline) == {"01 09:30": 5}
    clock.advance(timedelta(seconds=3))
    assert len(deliver_due(pipeline)) == 5
    assert pipeline.states() == {"sent": 5}


def test_what_falls_due_by_the_new_rule_before_ones_turn_is_sent_all_the_same(
    pipeline: Pipeline, edits: OccasionEdits, clock: SettableClock
) -> None:
    """Also where nothing is made up for whoever is late on the same day."""
    pipeline.add_due_people(5)
    begin(pipeline, edits, local_times=(time(12), time(9, 15)), same_day=SameDayPolicy.SKIP)
    clock.set(NINE + HOUR)
    edits.finish()
    assert due(pipeline) == {"01 12:00": 5, "01 09:15": 5}
    clock.advance(timedelta(seconds=3))
    assert len(deliver_due(pipeline)) == 5


def test_a_second_edit_takes_over_from_the_first(
    pipeline: Pipeline, edits: OccasionEdits, clock: SettableClock
) -> None:
    pipeline.add_due_people(6)
    first = begin(pipeline, edits, local_times=(time(11),))
    clock.advance(timedelta(minutes=10))
    second = begin(pipeline, edits, local_times=(time(13),))
    assert (first.replan_from, second.replan_from) == (NINE - HOUR, NINE - HOUR)
    edits.finish()
    assert due(pipeline) == {"01 13:00": 6}


def test_users_who_are_edited_added_and_deleted_in_between_are_right(
    pipeline: Pipeline, edits: OccasionEdits
) -> None:
    ids = pipeline.add_due_people(6)
    begin(pipeline, edits, local_times=(time(12),))
    pipeline.registry.patch(TENANT, ids[0], UserPatch(timezone="Europe/Berlin"))
    pipeline.registry.patch(TENANT, ids[5], UserPatch(timezone="Europe/Berlin"))
    pipeline.registry.delete(TENANT, ids[4])
    pipeline.registry.create(TENANT, person(100))
    edits.finish()
    assert due(pipeline) == {"01 11:00": 2, "01 12:00": 4}


def test_several_may_replan_at_once(pipeline: Pipeline, edits: OccasionEdits) -> None:
    pipeline.add_due_people(60)
    changed = begin(pipeline, edits, local_times=(time(12),))

    def work(_: int) -> Replanned:
        return edits.replan(changed).replanned

    with ThreadPoolExecutor(4) as executor:
        total = sum(executor.map(work, range(4)), Replanned())
    assert total == Replanned(moved=58)
    assert due(pipeline) == {"01 12:00": 60}


def test_edits_of_users_planning_and_edits_of_the_occasion_at_once(
    pipeline: Pipeline, edits: OccasionEdits, clock: SettableClock
) -> None:
    ids = pipeline.add_due_people(30)
    zones = ["Europe/Berlin", "UTC", "Asia/Tokyo", "America/New_York"]
    service = Occasions(pipeline.engine, pipeline.planner, clock)

    def edit_user(number: int) -> None:
        pipeline.registry.patch(TENANT, ids[number % 30], UserPatch(timezone=zones[number % 4]))

    def edit_occasion(number: int) -> None:
        patch = OccasionPatch.model_validate({"local_times": [f"{number % 24:02}:00"]})
        service.patch(SYSTEM, "birthday", patch)

    def plan(number: int) -> None:
        now = clock.now()
        pipeline.planner.plan(now=now, through=now + timedelta(hours=48 + number % 5))

    calls: list[Callable[[int], None]] = [edit_user, edit_occasion, plan, edit_user]
    with ThreadPoolExecutor(6) as executor:
        for done in [executor.submit(calls[number % 4], number) for number in range(80)]:
            done.result(timeout=120)
    service.patch(SYSTEM, "birthday", OccasionPatch.model_validate({"local_times": ["20:00"]}))
    rows = pipeline.rows("""
        SELECT l.user_id, to_char(l.send_at AT TIME ZONE u.timezone, 'DD HH24:MI') AS at
        FROM message_log l JOIN users u ON u.id = l.user_id""")
    assert len({row.user_id for row in rows}) == len(rows) == 30
    # In Tokyo eight in the evening of the day is past: they are written to at once.
    assert {row.at for row in rows} <= {"01 20:00", "01 17:00"}


def test_whoever_is_added_while_an_occasion_is_created_is_planned_for_it(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    service = Occasions(pipeline.engine, pipeline.planner, clock)

    def create(number: int) -> None:
        service.create(
            SYSTEM,
            OccasionInput.model_validate(
                {
                    "key": f"daily-{number}",
                    "name": "Daily",
                    "rule": {"kind": "fixed", "month": 3, "day": 2},
                    "subject": "s",
                    "body": "b",
                }
            ),
        )

    def add(number: int) -> None:
        pipeline.registry.create(TENANT, person(number, dates={}))

    with ThreadPoolExecutor(8) as executor:
        jobs = [executor.submit(create if number % 4 == 0 else add, number) for number in range(40)]
        for job in jobs:
            job.result(timeout=60)
    assert pipeline.states() == {"scheduled": 30 * 10}


def test_a_request_that_runs_out_of_time_says_so_and_the_recovery_goes_on(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(3)
    service = Occasions(pipeline.engine, pipeline.planner, clock, request_seconds=0)
    given = {
        "key": "name-day",
        "name": "N",
        "rule": {"kind": "rrule", "rrule": "FREQ=DAILY", "starts_on": "2027-03-01"},
        "subject": "s",
        "body": "b",
    }
    written = service.create(SYSTEM, OccasionInput.model_validate(given))
    assert not written.is_done
    pipeline.plan(clock.now())
    assert pipeline.states()["scheduled"] == 3 + 2 * 3
