"""Plans, edits and workers at the same time: one user, one message."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, time, timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.user import UserInput
from scheduler.store import batches, messages
from scheduler.store.batches import LeasedBatch
from scheduler.store.direct import answers
from tests.fixtures.time_travel import TimeTravel, utc
from tests.fixtures.waiting import wait_until_blocked

THREADS = 10
CALLS = 50


@pytest.fixture
def travel(engine: Engine) -> TimeTravel:
    return TimeTravel(engine, SettableClock(utc("2027-02-27 23:50")))


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Call all in ten threads that begin together; raises what any of them raised."""
    together = Barrier(THREADS)

    def work(mine: list[Callable[[], Any]]) -> list[Any]:
        together.wait(timeout=60)
        return [call() for call in mine]

    with ThreadPoolExecutor(THREADS) as executor:
        results = list(executor.map(work, [calls[number::THREADS] for number in range(THREADS)]))
    return [result for mine in results for result in mine]


def a_user(external_id: str) -> UserInput:
    """Somebody born on 1 March."""
    return UserInput(
        external_id=external_id,
        first_name="Ann",
        email="ann@example.org",
        timezone="UTC",
        dates={"birthday": date(1990, 3, 1)},
    )


def lease(travel: TimeTravel) -> LeasedBatch:
    """Lease the batch that is due at nine, for a worker of the test's own."""
    travel.clock.set(utc("2027-03-01 09:00"))
    with travel.engine.begin() as connection:
        batches.enqueue_due(connection, now=travel.clock.now(), most=10)
        leased = batches.lease_oldest(
            connection,
            travel.occasion().channels[0],
            worker="tester",
            expires_at=travel.clock.now() + timedelta(seconds=60),
        )
    assert leased is not None
    return leased


def test_fifty_plannings_of_one_user_make_one_message(travel: TimeTravel) -> None:
    travel.clock.set(utc("2027-02-20 00:00"))
    travel.add()
    now = utc("2027-02-28 00:00")
    planned = at_once([lambda: travel.planner.plan(now=now, through=now + timedelta(hours=48))] * CALLS)
    assert sum(each.added for each in planned) == 1
    assert travel.count("SELECT count(*) FROM batches") == 1
    assert travel.message().state == "scheduled"


def test_fifty_edits_of_one_user_make_one_message(travel: TimeTravel) -> None:
    user_id = travel.add()
    zones = ["Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC", "Asia/Tokyo", "America/New_York"]

    def edit(number: int) -> None:
        travel.edit(user_id, timezone=zones[number % len(zones)], preferred_time=time(number % 24))

    at_once([partial(edit, number) for number in range(CALLS)])
    travel.run("2027-03-04 00:00")
    assert len(travel.accepted()) == 1
    assert travel.message().state == "sent"


def test_edits_and_plannings_of_one_user_make_one_message(travel: TimeTravel) -> None:
    user_id = travel.add(dates={"birthday": date(1990, 3, 20)})
    now = utc("2027-02-28 00:00")
    days = [1, 2, 20]

    def edit(number: int) -> None:
        travel.edit(user_id, dates={"birthday": date(1990, 3, days[number % 3])})

    def plan(number: int) -> None:
        travel.planner.plan(now=now, through=now + timedelta(hours=48 + number))

    at_once([partial((edit, plan)[number % 2], number) for number in range(CALLS)])
    travel.edit(user_id, dates={"birthday": date(1990, 3, 2)})
    travel.run("2027-03-25 00:00")
    assert travel.accepted() == [("ann", utc("2027-03-02 09:00"))]


def test_a_user_added_by_fifty_imports_at_once_gets_one_message(travel: TimeTravel) -> None:
    user = travel.registry.create(1, a_user("first")).user.values
    both = [user, a_user("second")]
    at_once([lambda: travel.registry.upsert(1, both)] * CALLS)
    travel.run("2027-03-04 00:00")
    assert sorted(external_id for external_id, _ in travel.accepted()) == ["first", "second"]


def test_an_edit_that_meets_a_claim_does_not_win_a_second_message(travel: TimeTravel) -> None:
    """The worker has claimed and not committed when the birthday is moved: the year is spent all the same."""
    user_id = travel.add()
    batch = lease(travel)
    with ThreadPoolExecutor(1) as executor:
        with travel.engine.begin() as connection:
            assert answers(connection, [messages.claiming(batch)])[0].changed == 1
            edit = executor.submit(travel.edit, user_id, dates={"birthday": date(1990, 3, 2)})
            wait_until_blocked(travel.engine, edit)
        edit.result(timeout=60)
    assert travel.message().state == "sending"
    travel.run("2027-03-05 00:00")
    assert [external_id for external_id, _ in travel.accepted()] == ["ann"]
    assert travel.message().local_date == date(2027, 3, 1)


def test_a_deletion_that_meets_a_claim_leaves_the_message_to_its_worker(travel: TimeTravel) -> None:
    user_id = travel.add()
    batch = lease(travel)
    with ThreadPoolExecutor(1) as executor:
        with travel.engine.begin() as connection:
            answers(connection, [messages.claiming(batch)])
            deletion = executor.submit(travel.delete, user_id)
            wait_until_blocked(travel.engine, deletion)
        assert deletion.result(timeout=60).removed == 0
    # That worker never comes back; its lease lapses, and the next one finds nobody to write to.
    travel.run("2027-03-02 00:00")
    assert not travel.accepted()
    assert (travel.message().state, travel.message().reason) == ("cancelled", "user_deleted")


def test_a_claim_that_meets_an_edit_follows_it(travel: TimeTravel) -> None:
    user_id = travel.add()
    batch = lease(travel)

    def claim() -> int:
        with travel.engine.begin() as connection:
            return answers(connection, [messages.claiming(batch)])[0].changed

    with ThreadPoolExecutor(1) as executor:
        with travel.engine.begin() as connection:
            connection.execute(text("UPDATE users SET timezone = 'America/Lima', version = version + 1"))
            replanned = travel.planner.replan_stored(connection, 1, [user_id], now=travel.clock.now())
            claiming = executor.submit(claim)
            wait_until_blocked(travel.engine, claiming)
        assert claiming.result(timeout=60) == 0
    assert replanned.moved == 1
    travel.run("2027-03-05 00:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 14:00"))]


def test_a_message_of_an_older_version_of_its_user_is_planned_anew_and_sent(travel: TimeTravel) -> None:
    """Planning that saw the user before an edit, by a clock far ahead, leaves such a message behind."""
    travel.add()
    with travel.engine.begin() as connection:
        connection.execute(text("UPDATE users SET version = version + 1, first_name = 'Anna'"))
    travel.run("2027-03-03 00:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 09:00"))]
    assert travel.message().attempt == 1


def test_a_worker_gone_for_good_while_the_scheduler_runs_leaves_nothing_open(travel: TimeTravel) -> None:
    """Claimed, never answered, and no worker comes back within the lateness limit."""
    travel.add()
    batch = lease(travel)
    with travel.engine.begin() as connection:
        answers(connection, [messages.claiming(batch)])
    for hour in range(1, 30):
        travel.clock.set(utc("2027-03-01 09:00") + timedelta(hours=hour))
        travel.simulation.jobs.recover.run(travel.clock.now())
        travel.simulation.jobs.enqueue.run(travel.clock.now())
    travel.run("2027-03-04 00:00")
    assert not travel.accepted()
    assert (travel.message().state, travel.message().reason) == ("dead", "outcome_unknown")
