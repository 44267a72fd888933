"""An occasion that pauses sends nothing, and who resumes it says what becomes of what fell due meanwhile."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
from sqlalchemy import Engine

from api.models.occasions import PausedBacklogAnswer, ResumedOccasionAnswer
from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM
from scheduler.domain.occasion_input import OccasionPatch
from scheduler.errors import Conflict
from scheduler.occasions import BacklogChoice, BacklogWaiting, Occasions
from scheduler.store import batch_holds, occasions
from scheduler.store.backlogs import Backlog
from tests.fixtures.api import api_client, body_of, problem
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import ScriptedProvider, failed
from tests.fixtures.time_travel import TimeTravel, downtime, utc
from tests.fixtures.waiting import wait_until_blocked
from worker.channels.port import FailureKind

TOKYO, NEW_YORK = "Asia/Tokyo", "America/New_York"
KEY = "birthday"


@pytest.fixture
def travel(engine: Engine) -> TimeTravel:
    return TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")))


@pytest.fixture
def service(travel: TimeTravel) -> Occasions:
    return Occasions(travel.engine, travel.planner, travel.clock)


def states(travel: TimeTravel) -> Counter[tuple[str, str | None]]:
    return Counter((message.state, message.reason) for message in travel.messages())


def pause_at(travel: TimeTravel, service: Occasions, instant: str) -> None:
    travel.at(instant, lambda: service.pause(SYSTEM, KEY))


def add_four(travel: TimeTravel) -> None:
    """Due at midnight, at nine and at two in the afternoon of 1 March, and at nine on the 2nd (UTC)."""
    travel.add("tokyo", timezone=TOKYO)
    travel.add("utc")
    travel.add("york", timezone=NEW_YORK)
    travel.add("later", dates={"birthday": date(1990, 3, 2)})


@pytest.mark.parametrize("choice", BacklogChoice)
def test_a_pause_holds_what_falls_due_and_its_end_sends_or_skips_it(
    travel: TimeTravel, service: Occasions, choice: BacklogChoice
) -> None:
    add_four(travel)
    pause_at(travel, service, "2027-03-01 08:00")
    travel.run("2027-03-01 18:00")
    assert travel.accepted() == [("tokyo", utc("2027-03-01 00:00"))]
    assert service.backlog(1, KEY)[1] == Backlog(2, 2, utc("2027-03-01 09:00"))
    with pytest.raises(BacklogWaiting) as waiting:
        service.resume(SYSTEM, KEY, None)
    assert waiting.value.backlog.due == 2
    resumed = service.resume(SYSTEM, KEY, choice)
    assert (resumed.backlog.due, resumed.skipped) == (2, 2 if choice == "skip" else 0)
    travel.run("2027-03-04 00:00")
    later = ("later", utc("2027-03-02 09:00"))
    if choice == "send":
        at_once = [(name, utc("2027-03-01 18:00")) for name in ("utc", "york")]
        assert travel.accepted()[1:] == [*at_once, later]
    else:
        assert travel.accepted()[1:] == [later]
        assert states(travel) == {("sent", None): 2, ("cancelled", "paused"): 2}
    assert travel.count("SELECT count(*) FROM batches WHERE state <> 'done' OR held") == 0


def test_what_is_too_late_by_then_expires(travel: TimeTravel, service: Occasions) -> None:
    add_four(travel)
    pause_at(travel, service, "2027-02-28 12:00")
    travel.run("2027-03-02 12:00")
    assert states(travel) == {("scheduled", None): 4}
    backlog = service.backlog(1, KEY)[1]
    assert (backlog.due, backlog.within_limit, backlog.too_late) == (4, 2, 2)
    travel.at("2027-03-02 12:00", lambda: service.resume(SYSTEM, KEY, BacklogChoice.SEND))
    travel.run("2027-03-04 00:00")
    assert [name for name, _ in travel.accepted()] == ["york", "later"]
    assert states(travel) == {("sent", None): 2, ("expired", "too_late"): 2}


def test_a_pause_goes_on_through_downtime_edits_and_new_users(engine: Engine) -> None:
    travel = TimeTravel(
        engine,
        SettableClock(utc("2027-02-25 23:50")),
        downtimes=[downtime("2027-03-01 08:30", "2027-03-01 20:00")],
    )
    service = Occasions(engine, travel.planner, travel.clock)
    mover = travel.add("mover", timezone=NEW_YORK)
    gone = travel.add("gone")
    pause_at(travel, service, "2027-03-01 08:00")
    travel.at("2027-03-01 12:00", lambda: travel.edit(mover, timezone=TOKYO))
    travel.at("2027-03-01 12:00", lambda: travel.add("new"))
    travel.at("2027-03-01 13:00", lambda: travel.delete(gone))
    travel.run("2027-03-01 23:00")
    assert not travel.accepted()
    assert service.backlog(1, KEY)[1].due == 2
    travel.at("2027-03-01 23:00", lambda: service.resume(SYSTEM, KEY, BacklogChoice.SEND))
    travel.run("2027-03-03 00:00")
    assert sorted(name for name, _ in travel.accepted()) == ["mover", "new"]


def test_an_edit_in_a_pause_holds_for_what_is_to_come(travel: TimeTravel, service: Occasions) -> None:
    add_four(travel)
    pause_at(travel, service, "2027-03-01 08:00")
    travel.at(
        "2027-03-01 08:30",
        lambda: service.patch(SYSTEM, KEY, OccasionPatch.model_validate({"local_times": ["20:00"]})),
    )
    travel.run("2027-03-01 19:00")
    assert service.backlog(1, KEY)[1] == Backlog()
    travel.at("2027-03-01 19:00", lambda: service.resume(SYSTEM, KEY, None))
    travel.run("2027-03-04 00:00")
    assert travel.accepted()[1:] == [
        ("utc", utc("2027-03-01 20:00")),
        ("york", utc("2027-03-02 01:00")),
        ("later", utc("2027-03-02 20:00")),
    ]


def test_one_that_is_turned_off_in_a_pause_has_no_backlog(travel: TimeTravel, service: Occasions) -> None:
    add_four(travel)
    pause_at(travel, service, "2027-03-01 08:00")
    travel.at("2027-03-01 10:00", lambda: service.archive(SYSTEM, KEY))
    travel.run("2027-03-04 00:00")
    occasion, backlog = service.backlog(1, KEY)
    assert (occasion.paused_at, occasion.active, backlog) == (None, False, Backlog())
    assert [name for name, _ in travel.accepted()] == ["tokyo"]
    assert travel.count("SELECT count(*) FROM batches WHERE state <> 'done' OR held") == 0


def test_pausing_and_resuming_twice_is_harmless(travel: TimeTravel, service: Occasions) -> None:
    paused = service.pause(SYSTEM, KEY)
    assert service.pause(SYSTEM, KEY) == paused
    resumed = service.resume(SYSTEM, KEY, None).occasion
    assert service.resume(SYSTEM, KEY, BacklogChoice.SKIP).occasion == resumed
    service.archive(SYSTEM, KEY)
    with pytest.raises(Conflict):
        service.pause(SYSTEM, KEY)


def test_what_is_enqueued_when_the_pause_begins_is_not_sent(engine: Engine) -> None:
    clock = SettableClock(NINE)
    pipeline, provider = Pipeline(engine, clock), ScriptedProvider()
    service = Occasions(engine, pipeline.planner, clock)
    pipeline.add_due_people(3)
    assert pipeline.enqueue() == 1
    service.pause(SYSTEM, KEY)
    pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert (pipeline.enqueue(), provider.received) == (0, [])
    assert pipeline.states() == {"scheduled": 3}
    clock.advance(timedelta(days=2))
    assert pipeline.recover()["expired"] == 0
    service.resume(SYSTEM, KEY, BacklogChoice.SEND)
    assert pipeline.recover()["expired"] == 0  # a worker has held it: it ends at the next claim
    assert pipeline.enqueue() == 1
    pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"expired": 3}


def test_a_retry_that_falls_due_in_a_pause_is_sent_after_it_even_where_the_backlog_is_skipped(
    engine: Engine,
) -> None:
    clock = SettableClock(NINE)
    pipeline = Pipeline(engine, clock)
    service = Occasions(engine, pipeline.planner, clock)
    pipeline.add_due_people(2)
    pipeline.enqueue()
    refusing = ScriptedProvider(answer=lambda _: failed(FailureKind.RETRYABLE))
    pipeline.deliverer(refusing).deliver(pipeline.lease(), Signal())
    service.pause(SYSTEM, KEY)
    clock.advance(timedelta(minutes=5))
    assert pipeline.enqueue() == 0
    service.resume(SYSTEM, KEY, BacklogChoice.SKIP)
    provider = ScriptedProvider()
    for _ in range(pipeline.enqueue()):
        pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"sent": 2}


def test_a_claim_that_meets_the_end_of_a_pause_is_not_held_for_ever(engine: Engine) -> None:
    clock = SettableClock(NINE)
    pipeline = Pipeline(engine, clock)
    service = Occasions(engine, pipeline.planner, clock)
    pipeline.add_due_people(1)
    pipeline.enqueue()
    service.pause(SYSTEM, KEY)
    leased = pipeline.lease()
    with ThreadPoolExecutor(1) as executor:
        with engine.begin() as connection:
            # As far as a resumption has come that is not committed yet.
            occasions.set_paused(connection, 1, None, now=NINE)
            batch_holds.release(connection, 1)
            delivery = executor.submit(pipeline.deliverer(ScriptedProvider()).deliver, leased, Signal())
            wait_until_blocked(engine, delivery)
        delivery.result(timeout=60)
    assert pipeline.rows("SELECT held FROM batches WHERE held") == []
    provider = ScriptedProvider()
    assert pipeline.enqueue() == 1
    pipeline.deliverer(provider).deliver(pipeline.lease(), Signal())
    assert len(provider.received) == 1


def test_planning_beside_a_pause_holds_what_it_plans(engine: Engine) -> None:
    clock = SettableClock(NINE - timedelta(hours=30))
    pipeline = Pipeline(engine, clock)
    service = Occasions(engine, pipeline.planner, clock)
    pipeline.add_people(4)
    service.pause(SYSTEM, KEY)
    pipeline.plan(clock.now())
    clock.set(NINE)
    assert pipeline.enqueue() == 0
    assert service.backlog(1, KEY)[1].due == 4


def test_over_the_api(engine: Engine) -> None:
    clock = SettableClock(NINE - timedelta(hours=1))
    pipeline, client = Pipeline(engine, clock), api_client(engine, clock)
    pipeline.add_due_people(3)
    path = f"/api/v1/occasions/{KEY}"
    assert body_of(client.get(f"{path}/backlog")) == {
        "paused_at": None,
        "backlog": {"due": 0, "within_limit": 0, "too_late": 0, "oldest_at": None},
    }
    paused = body_of(client.post(f"{path}/pause"))["occasion"]
    assert (paused["paused_at"], paused["version"]) == ("2027-03-01T08:00:00Z", 2)
    clock.set(NINE + timedelta(hours=1))
    expected = {"due": 3, "within_limit": 3, "too_late": 0, "oldest_at": "2027-03-01T09:00:00Z"}
    backlog = body_of(client.get(f"{path}/backlog"))
    PausedBacklogAnswer.model_validate(backlog)
    assert backlog["backlog"] == expected
    refused = problem(client.post(f"{path}/resume", json={}), 409)
    assert (refused["type"], refused["backlog"]) == ("/problems/backlog-waiting", expected)
    problem(client.post(f"{path}/resume", json={"backlog": "drop"}), 422)
    response = client.post(f"{path}/resume", json={"backlog": "skip"})
    body = body_of(response)
    ResumedOccasionAnswer.model_validate(body)
    assert (body["skipped"], body["occasion"]["paused_at"], response.headers["ETag"]) == (3, None, '"3"')
    assert pipeline.states() == {"cancelled": 3}
    [row] = pipeline.rows("SELECT after FROM audit_log WHERE action = 'resume'")
    assert (row.after["backlog"], row.after["skipped"]) == ("skip", 3)


def test_a_skip_of_many_batches_takes_them_all(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.occasions._SKIPPED_AT_ONCE", 2)
    clock = SettableClock(NINE - timedelta(hours=1))
    pipeline = Pipeline(engine, clock, batch_size=3)
    service = Occasions(engine, pipeline.planner, clock)
    pipeline.add_due_people(20)
    service.pause(SYSTEM, KEY)
    clock.set(NINE)
    assert service.resume(SYSTEM, KEY, BacklogChoice.SKIP).skipped == 20
    assert pipeline.states() == {"cancelled": 20}
    counted = pipeline.rows("SELECT sum(cancelled_count) AS n FROM batches")
    assert counted[0].n == 20
