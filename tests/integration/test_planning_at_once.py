"""Several slices of an occasion at the same time: the same log as in turn, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import pytest
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.occasion import OnceRule, RecurrenceRule
from scheduler.planner import Planner
from scheduler.store import locks, watermarks
from scheduler.store.planning import Planned
from tests.fixtures.planning import ZONES, hold_up
from tests.fixtures.time_travel import TENANT, TimeTravel
from tests.fixtures.waiting import wait_until, wait_until_blocked

NOW: Final = datetime(2027, 3, 1, tzinfo=UTC)
THROUGH: Final = NOW + timedelta(hours=72)
PEOPLE: Final = 70
_MESSAGES: Final = "SELECT user_id, send_at, local_date, slot, timezone FROM message_log ORDER BY 1, 2, 3, 4"
_BATCHES: Final = "SELECT send_at, local_date, slot, user_ids FROM batches ORDER BY 1, 2, 3"


@pytest.fixture
def travel(engine: Engine) -> TimeTravel:
    """Ten users in each of seven zones, and one occasion for all: in each zone's hour a slice of its own."""
    travel = TimeTravel(engine, SettableClock(NOW))
    for number in range(PEOPLE):
        travel.add(str(number), timezone=ZONES[number % len(ZONES)], dates={})
    travel.add_occasion("news", rule=OnceRule(date(2027, 3, 2)), local_times=(time(12),))
    return travel


def planner_of(travel: TimeTravel, slices_at_once: int = 3) -> Planner:
    return Planner(travel.engine, replace(travel.planner.policy, slices_at_once=slices_at_once))


def plan(travel: TimeTravel, go_on: Callable[[], bool] = lambda: True, *, slices_at_once: int = 3) -> Planned:
    """Plan the occasion through the horizon."""
    planner = planner_of(travel, slices_at_once)
    return planner.plan_occasion(travel.occasion("news"), now=NOW, go_on=go_on)


def log(travel: TimeTravel) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """All messages and all batches, as far as they say who gets what and when."""
    with travel.engine.connect() as connection:
        messages, batches = (connection.execute(text(each)).all() for each in (_MESSAGES, _BATCHES))
    return [tuple(row) for row in messages], [tuple(row) for row in batches]


def in_batches(travel: TimeTravel) -> list[int]:
    """The user ids of all batches, in order: with one message a user, each is to be there once."""
    return sorted(user_id for batch in log(travel)[1] for user_id in batch[-1])  # type: ignore[attr-defined]


def ids_of_all(travel: TimeTravel) -> list[int]:
    """By their numbers."""
    with travel.engine.connect() as connection:
        return list(
            connection.execute(text("SELECT id FROM users ORDER BY CAST(external_id AS int)")).scalars()
        )


def planned_for_other_times_than(travel: TimeTravel, local_time: str) -> int:
    """How many messages are for another time of day where their users live now."""
    with travel.engine.connect() as connection:
        statement = text(
            "SELECT count(*) FROM message_log JOIN users u ON u.id = user_id"
            " WHERE CAST(send_at AT TIME ZONE u.timezone AS time) <> CAST(:local_time AS time)"
        )
        return int(connection.execute(statement, {"local_time": local_time}).scalar_one())


def forget_the_plan(travel: TimeTravel) -> None:
    with travel.engine.begin() as connection:
        connection.execute(text("TRUNCATE message_log, batches"))
    set_watermark(travel, None)


def set_watermark(travel: TimeTravel, planned_through: datetime | None) -> None:
    with travel.engine.begin() as connection:
        connection.execute(text("UPDATE occasions SET planned_through = :at"), {"at": planned_through})


def set_refused(travel: TimeTravel, timezone: str | None) -> None:
    """Make what plans for a zone fail, as a full disk would; None: nothing fails any more."""
    with travel.engine.begin() as connection:
        connection.execute(text("ALTER TABLE message_log DROP CONSTRAINT IF EXISTS refused"))
        if timezone is not None:
            connection.execute(
                text(f"ALTER TABLE message_log ADD CONSTRAINT refused CHECK (timezone <> '{timezone}')")
            )


def test_the_log_is_the_same_as_planned_in_turn(travel: TimeTravel) -> None:
    everyone = Planned(added=PEOPLE, batches=len(ZONES))
    assert plan(travel, slices_at_once=1) == everyone
    in_turn, watermark = log(travel), travel.occasion("news").planned_through
    forget_the_plan(travel)
    assert plan(travel) == everyone
    assert log(travel) == in_turn
    assert travel.occasion("news").planned_through == watermark
    assert plan(travel) == Planned()


def test_months_of_downtime_are_planned_in_stretches(travel: TimeTravel) -> None:
    travel.add_occasion("weekly", rule=RecurrenceRule("FREQ=WEEKLY;BYDAY=MO,TH", date(2027, 3, 2)))
    planned = planner_of(travel).plan(now=NOW, through=NOW + timedelta(days=30))
    assert planned.added == len(log(travel)[0]) == (1 + 8) * PEOPLE
    at_once = log(travel)
    forget_the_plan(travel)
    assert planner_of(travel, 1).plan(now=NOW, through=NOW + timedelta(days=30)) == planned
    assert log(travel) == at_once


def test_a_slice_that_fails_holds_the_watermark_and_loses_nothing(travel: TimeTravel) -> None:
    set_refused(travel, "Asia/Kolkata")
    with pytest.raises(Exception, match="refused"):
        plan(travel)
    watermark = travel.occasion("news").planned_through
    assert watermark is not None
    assert watermark <= datetime(2027, 3, 2, 6, tzinfo=UTC)  # noon in Kolkata is at half past
    set_refused(travel, None)
    plan(travel)
    assert [row[0] for row in log(travel)[0]] == in_batches(travel) == ids_of_all(travel)
    assert travel.occasion("news").planned_through == NOW + travel.planner.policy.horizon


def test_it_stops_where_it_may_not_go_on_and_goes_on_from_there(travel: TimeTravel) -> None:
    first = plan(travel, lambda: False)
    assert first.added == PEOPLE // len(ZONES)
    assert travel.occasion("news").planned_through == datetime(2027, 3, 2, tzinfo=UTC)
    plan(travel)
    assert len(in_batches(travel)) == PEOPLE
    assert [row[0] for row in log(travel)[0]] == in_batches(travel)


def test_nobody_keeps_the_old_time_after_an_edit_in_between(travel: TimeTravel) -> None:
    def edit() -> bool:
        travel.change_occasion("news", local_times=(time(13),))
        return True

    assert plan(travel, edit).added < PEOPLE
    plan(travel)
    assert [row[0] for row in log(travel)[0]] == ids_of_all(travel)
    assert planned_for_other_times_than(travel, "13:00") == 0


def test_slices_that_waited_for_an_edit_are_not_written_as_before_it(travel: TimeTravel) -> None:
    set_watermark(travel, NOW)
    with ThreadPoolExecutor(1) as executor:
        with travel.engine.begin() as edit:
            locks.exclude_planning(edit, TENANT)
            edit.execute(text("UPDATE occasions SET version = version + 1, local_times = '{13:00}'"))
            planning = executor.submit(plan, travel)
            wait_until_blocked(travel.engine, planning)
        assert planning.result(timeout=60).added == PEOPLE
    assert planned_for_other_times_than(travel, "13:00") == 0


@pytest.mark.parametrize("slices_at_once", [1, 3])
def test_who_is_overtaken_plans_what_is_left(travel: TimeTravel, slices_at_once: int) -> None:
    def overtake() -> bool:
        travel.planner.plan(now=NOW, through=NOW + timedelta(hours=30))
        return True

    plan(travel, overtake, slices_at_once=slices_at_once)
    assert [row[0] for row in log(travel)[0]] == in_batches(travel) == ids_of_all(travel)
    assert travel.occasion("news").planned_through == NOW + travel.planner.policy.horizon


def test_an_edit_looks_as_far_as_a_plan_with_a_longer_horizon_has_written(travel: TimeTravel) -> None:
    """The scheduler was told of the horizon first; the API goes by the old one of 48 hours."""
    daily = travel.add_occasion(
        "daily", rule=RecurrenceRule("FREQ=DAILY", date(2027, 3, 2)), local_times=(time(12),)
    )
    in_auckland, in_honolulu = ids_of_all(travel)[0], ids_of_all(travel)[6]
    of_honolulu = (
        f"SELECT count(*) FROM message_log WHERE occasion_id = {daily.id} AND user_id = {in_honolulu}"
    )
    planner = planner_of(travel, 2)
    planner.create_partitions(NOW)
    with ThreadPoolExecutor(1) as executor:
        with travel.engine.connect() as holding_up:
            hold_up(holding_up, in_auckland, daily.id, date(2027, 3, 2))
            planning = executor.submit(planner.plan, now=NOW, through=NOW + timedelta(hours=96))
            wait_until(lambda: travel.count(of_honolulu) == 2, "the other slices are written")
            travel.edit(in_honolulu, last_name="Lee")
        planning.result(timeout=60)
    assert travel.count(of_honolulu) == 3


def test_a_user_who_comes_first_does_not_end_the_first_plan_of_an_occasion(travel: TimeTravel) -> None:
    with ThreadPoolExecutor(1) as executor:
        with travel.engine.begin() as blocking:
            blocking.execute(text("LOCK TABLE message_log IN SHARE MODE"))
            planning = executor.submit(plan, travel)
            wait_until_blocked(travel.engine, planning)
            with travel.engine.begin() as adding:
                watermarks.begin(adding, [travel.occasion("news").id], now=NOW)
        assert planning.result(timeout=60).added == PEOPLE


def test_who_moves_after_being_planned_ahead_of_the_watermark_is_planned_once(travel: TimeTravel) -> None:
    plan(travel)
    set_watermark(travel, NOW)
    ids = ids_of_all(travel)
    for number in (0, 6):
        travel.edit(ids[number], timezone="America/New_York")
    assert plan(travel).already_there == PEOPLE
    travel.run("2027-03-04 00:00")
    accepted = dict(travel.accepted())
    assert len(travel.accepted()) == len(accepted) == PEOPLE
    noon_there = datetime(2027, 3, 2, 17, tzinfo=UTC)
    assert (accepted["0"], accepted["6"]) == (noon_there, noon_there)


def test_plans_at_the_same_time_make_one_message_for_each(travel: TimeTravel) -> None:
    with ThreadPoolExecutor(4) as executor:
        for each in [executor.submit(plan, travel, slices_at_once=2) for _ in range(8)]:
            each.result(timeout=60)
    assert [row[0] for row in log(travel)[0]] == in_batches(travel) == ids_of_all(travel)
    assert travel.occasion("news").planned_through == NOW + travel.planner.policy.horizon


def test_users_who_move_meanwhile_get_one_message_each(travel: TimeTravel) -> None:
    ids = ids_of_all(travel)

    def move(number: int) -> None:
        travel.edit(ids[number], timezone=ZONES[(number * 5 + 3) % len(ZONES)])

    with ThreadPoolExecutor(5) as executor:
        planning = executor.submit(plan, travel)
        moving = [executor.submit(move, number) for number in range(0, PEOPLE, 2)]
        planning.result(timeout=60)
        for each in moving:
            each.result(timeout=60)
    travel.run("2027-03-04 00:00")
    assert sorted(external_id for external_id, _ in travel.accepted()) == sorted(map(str, range(PEOPLE)))
    assert planned_for_other_times_than(travel, "12:00") == 0
