"""The ticks of the three jobs: what each does at its instant, and that a missed or doubled one changes nothing."""

from datetime import UTC, datetime, time

import pytest
from freezegun.api import FrozenDateTimeFactory
from sqlalchemy import Engine

from scheduler.clock import Clock, SettableClock, SystemClock
from scheduler.cron import Cron
from scheduler.jobs.run import JobRunner
from scheduler.service import jobs_for
from scheduler.settings import Settings
from scheduler.store import job_runs
from scheduler.store.job_runs import JobRun
from tests.fixtures.time_travel import TimeTravel, utc

MIDNIGHT = "2027-03-01 00:00"


def cron_on(engine: Engine, clock: Clock) -> Cron:
    settings = Settings()
    jobs = jobs_for(settings, engine, clock)
    expressions = {
        "precalculate": settings.precalculate_cron,
        "enqueue": settings.enqueue_cron,
        "recover": settings.recover_cron,
    }
    return Cron(JobRunner(engine, clock), jobs.precalculate, jobs.enqueue, jobs.recover, clock, expressions)


def latest_run(engine: Engine, job: str) -> JobRun:
    with engine.connect() as connection:
        return job_runs.latest(connection, [job])[job]


def people_through_the_day(travel: TimeTravel) -> None:
    for hour in range(24):
        travel.add(f"p{hour:02}", at=time(hour))


def test_the_daily_tick_plans_through_the_horizon(engine: Engine, freezer: FrozenDateTimeFactory) -> None:
    freezer.move_to(datetime(2027, 2, 25, tzinfo=UTC))
    travel = TimeTravel(engine, SettableClock(utc("2027-02-20 00:00")))
    people_through_the_day(travel)
    cron = cron_on(engine, SystemClock())
    cron.precalculate_tick()
    assert not travel.messages()
    freezer.move_to(datetime(2027, 2, 27, 12, tzinfo=UTC))
    cron.precalculate_tick()
    assert [message.send_at.hour for message in travel.messages()] == list(range(12))
    run = latest_run(engine, "precalculate")
    assert (run.state, run.started_at) == ("succeeded", datetime(2027, 2, 27, 12, tzinfo=UTC))
    assert run.counts["added"] == 12


def test_a_daily_tick_that_comes_twice_plans_once(engine: Engine, freezer: FrozenDateTimeFactory) -> None:
    freezer.move_to(datetime(2027, 2, 28, tzinfo=UTC))
    travel = TimeTravel(engine, SettableClock(utc("2027-02-20 00:00")))
    people_through_the_day(travel)
    cron = cron_on(engine, SystemClock())
    cron.precalculate_tick()
    cron_on(engine, SystemClock()).precalculate_tick()
    assert len(travel.messages()) == 24
    assert latest_run(engine, "precalculate").counts["added"] == 0


def test_a_daily_tick_that_never_came_is_made_up_by_the_recovery(
    engine: Engine, freezer: FrozenDateTimeFactory
) -> None:
    freezer.move_to(datetime(2027, 2, 28, 6, 10, tzinfo=UTC))
    travel = TimeTravel(engine, SettableClock(utc("2027-02-20 00:00")))
    people_through_the_day(travel)
    cron_on(engine, SystemClock()).recover_tick()
    # Half the horizon ahead, at every tick of the recovery: what is due is there a day before it is due.
    assert [message.send_at.hour for message in travel.messages()] == list(range(7))
    assert latest_run(engine, "recover").counts["planned"] == 7


@pytest.mark.parametrize("first", ["precalculate", "recover"])
def test_the_daily_tick_and_the_recovery_at_one_instant(
    engine: Engine, first: str, freezer: FrozenDateTimeFactory
) -> None:
    freezer.move_to(datetime(2027, 2, 28, tzinfo=UTC))
    travel = TimeTravel(engine, SettableClock(utc("2027-02-20 00:00")))
    people_through_the_day(travel)
    cron = cron_on(engine, SystemClock())
    ticks = [cron.precalculate_tick, cron.recover_tick]
    for tick in ticks if first == "precalculate" else reversed(ticks):
        tick()
    assert len(travel.messages()) == 24
    assert travel.count("SELECT count(*) FROM batches") == 24


def test_the_tick_of_a_minute_enqueues_each_batch_at_its_second(engine: Engine) -> None:
    clock = SettableClock(utc("2027-02-27 23:50"))
    travel = TimeTravel(engine, clock)
    travel.change_occasion(local_times=(time(9), time(9, 0, 17), time(9, 0, 59), time(9, 1)))
    travel.add()
    clock.set(utc("2027-03-01 09:00"))
    cron_on(engine, clock).enqueue_tick()
    assert travel.count("SELECT count(*) FROM batches WHERE enqueued_at = due_at") == 3
    assert travel.count("SELECT count(*) FROM batches WHERE state = 'pending'") == 1
    assert utc("2027-03-01 09:00:59") < clock.now() < utc("2027-03-01 09:01")
    clock.set(utc("2027-03-01 09:01"))
    cron_on(engine, clock).enqueue_tick()
    assert travel.count("SELECT count(*) FROM batches WHERE enqueued_at = due_at") == 4


def test_minutes_that_were_missed_are_made_up_by_the_next(engine: Engine) -> None:
    clock = SettableClock(utc("2027-02-27 23:50"))
    travel = TimeTravel(engine, clock)
    people_through_the_day(travel)
    clock.set(utc("2027-03-01 12:00:30"))
    cron_on(engine, clock).enqueue_tick()
    assert travel.count("SELECT count(*) FROM batches WHERE state = 'enqueued'") == 13
    assert latest_run(engine, "enqueue").counts["enqueued"] == 13


def test_what_nobody_took_waits_and_the_recovery_leaves_it_alone(engine: Engine) -> None:
    """PostgreSQL is the broker: what is enqueued is in the queue."""
    clock = SettableClock(utc("2027-02-27 23:50"))
    travel = TimeTravel(engine, clock)
    travel.add()
    clock.set(utc("2027-03-01 09:00"))
    cron = cron_on(engine, clock)
    cron.enqueue_tick()
    clock.set(utc("2027-03-01 09:20"))
    cron.recover_tick()
    assert latest_run(engine, "recover").counts["lapsed_enqueued"] == 0
    assert travel.count("SELECT count(*) FROM batches WHERE state = 'enqueued'") == 1
    travel.run("2027-03-01 10:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 09:20"))]


def test_the_simulation_ticks_at_the_instants_of_the_expressions(engine: Engine) -> None:
    travel = TimeTravel(
        engine,
        SettableClock(utc("2027-02-27 22:35")),
        recover_cron="*/30 * * * *",
        precalculate_cron="15 3 * * *",
    )
    travel.add()
    travel.run("2027-03-01 12:00")
    with engine.connect() as connection:
        latest = job_runs.latest(connection, ["precalculate", "recover", "enqueue"])
    assert latest["precalculate"].started_at == utc("2027-03-01 03:15")
    # From the first daily run on there is nothing left for the recovery to plan.
    assert latest["recover"].started_at == utc("2027-02-28 03:00")
    assert latest["enqueue"].started_at == utc("2027-03-01 09:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 09:00"))]
