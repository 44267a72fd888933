"""Downtime: everything within its lateness limit is made up, everything else expires with a reason."""

from datetime import date, time, timedelta

from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.retry import RetryPolicy
from tests.fixtures.providers import ScriptedProvider, failed
from tests.fixtures.time_travel import MONTHLY, TimeTravel, downtime, utc
from worker.channels.port import FailureKind

START = "2027-02-27 23:50"
HOURS = [time(hour) for hour in range(24)]


def an_hour_each(travel: TimeTravel, *days: date) -> dict[str, str]:
    """Somebody for each hour of each day; returns when each is to be greeted, in UTC."""
    return {
        external_id: f"{day} {hour:%H:%M}"
        for day in days
        for hour in HOURS
        if travel.add(
            external_id := f"{day:%m%d}-{hour:%H}", at=hour, dates={"birthday": day.replace(year=1990)}
        )
    }


def test_a_day_of_downtime_is_made_up_in_full(engine: Engine) -> None:
    day_off = downtime("2027-03-01 00:00", "2027-03-02 00:00")
    travel = TimeTravel(engine, SettableClock(utc(START)), downtimes=[day_off])
    due = an_hour_each(travel, date(2027, 2, 28), date(2027, 3, 1), date(2027, 3, 2))
    travel.run("2027-03-04 00:00")
    accepted = dict(travel.accepted())
    assert len(travel.accepted()) == len(accepted) == len(due)
    assert {message.state for message in travel.messages()} == {"sent"}
    for external_id, instant in due.items():
        expected = day_off.ends if day_off.covers(utc(instant)) else utc(instant)
        assert accepted[external_id] == expected


def test_what_is_later_than_its_limit_expires_and_is_counted(engine: Engine) -> None:
    day_off = downtime("2027-03-01 00:00", "2027-03-02 02:00")
    travel = TimeTravel(engine, SettableClock(utc(START)), downtimes=[day_off])
    due = an_hour_each(travel, date(2027, 3, 1), date(2027, 3, 2))
    travel.run("2027-03-04 00:00")
    # 26 hours late; the one at 01:00 is exactly 25 hours late, and 25 hours is the limit.
    (expired,) = [message for message in travel.messages() if message.state != "sent"]
    assert (expired.state, expired.reason, expired.attempt) == ("expired", "too_late", 0)
    assert expired.send_at == utc("2027-03-01 00:00")
    assert {external_id for external_id, _ in travel.accepted()} == due.keys() - {"0301-00"}
    assert travel.count("SELECT sum(expired_count) FROM batches") == 1
    assert travel.count("SELECT sum((counts ->> 'expired')::int) FROM job_runs WHERE job = 'recover'") == 1


def test_an_occasion_may_be_more_patient_or_less(engine: Engine) -> None:
    day_off = downtime("2027-03-01 06:00", "2027-03-02 16:00")
    travel = TimeTravel(engine, SettableClock(utc(START)), downtimes=[day_off])
    travel.change_occasion("birthday", lateness_limit=timedelta(hours=31))
    travel.change_occasion("anniversary", lateness_limit=timedelta(hours=6))
    for day in (date(2027, 3, 1), date(2027, 3, 2)):
        before = day.replace(year=1990)
        travel.add(f"{day:%m%d}", dates={"birthday": before, "anniversary": before})
    travel.run("2027-03-04 00:00")
    assert [(message.occasion, message.local_date.day, message.state) for message in travel.messages()] == [
        ("anniversary", 1, "expired"),
        ("birthday", 1, "sent"),
        ("anniversary", 2, "expired"),
        ("birthday", 2, "sent"),
    ]


def test_months_of_downtime_end_with_everybody_accounted_for(engine: Engine) -> None:
    travel = TimeTravel(
        engine,
        SettableClock(utc("2027-02-28 23:50")),
        downtimes=[downtime("2027-03-03 12:00", "2027-08-03 12:00")],
        **{**MONTHLY, "horizon": timedelta(hours=48)},
    )
    people = [date(1990, month, day) for month in range(3, 9) for day in (2, 3, 4, 17)]
    for born in people:
        travel.add(f"{born:%m%d}", timezone="Europe/Rome", dates={"birthday": born})
    travel.run("2027-08-20 00:00")
    states = {f"{message.local_date:%m%d}": message.state for message in travel.messages()}
    assert states.keys() == {f"{born:%m%d}" for born in people}
    sent = {"0302", "0303", "0803", "0804", "0817"}
    assert {day for day, state in states.items() if state == "sent"} == sent
    assert set(states.values()) == {"sent", "expired"}
    assert {external_id for external_id, _ in travel.accepted()} == sent


def test_downtime_from_before_the_plan_until_after_the_day_loses_nobody(engine: Engine) -> None:
    """The daily run that would have planned them is missed as well; the recovery at start plans the gap."""
    travel = TimeTravel(
        engine,
        SettableClock(utc("2027-02-22 23:50")),
        downtimes=[downtime("2027-02-24 00:00", "2027-03-01 12:00")],
    )
    due = an_hour_each(travel, date(2027, 2, 28), date(2027, 3, 1))
    travel.run("2027-03-03 00:00")
    expired = {message.send_at for message in travel.messages() if message.state == "expired"}
    assert expired == {utc(f"2027-02-28 {hour:02}:00") for hour in range(11)}
    assert len(travel.messages()) == len(due)
    assert len(travel.accepted()) == len(due) - len(expired)


def test_a_move_east_while_planning_is_behind_loses_nobody(engine: Engine) -> None:
    """In New York the day's greeting was never planned, in Tokyo it lies before what was: the edit plans first."""
    travel = TimeTravel(
        engine,
        SettableClock(utc("2027-02-26 00:00")),
        downtimes=[downtime("2027-02-27 06:01", "2027-03-01 20:00")],
        precalculate_cron="0 6 * * *",
    )
    user_id = travel.add(timezone="America/New_York")
    travel.edit_at("2027-03-01 16:00", user_id, timezone="Asia/Tokyo")
    travel.run("2027-03-03 00:00")
    [message] = travel.messages()
    assert (message.state, message.local_date, message.timezone) == ("sent", date(2027, 3, 1), "Asia/Tokyo")
    assert len(travel.accepted()) == 1


def test_restarts_in_quick_succession_send_nothing_twice(engine: Engine) -> None:
    pauses = [
        downtime(f"2027-03-01 {hour:02}:{minute:02}", f"2027-03-01 {hour:02}:{minute + 7:02}")
        for hour in range(24)
        for minute in (0, 8, 50)
    ]
    travel = TimeTravel(engine, SettableClock(utc(START)), downtimes=pauses)
    due = an_hour_each(travel, date(2027, 3, 1))
    travel.run("2027-03-03 00:00")
    assert sorted(travel.accepted()) == [
        (external_id, utc(instant) + timedelta(minutes=7)) for external_id, instant in sorted(due.items())
    ]


def test_a_retry_that_waits_through_the_downtime_is_made_up_or_expires(engine: Engine) -> None:
    provider = ScriptedProvider(answer=lambda _: failed(FailureKind.RETRYABLE))
    clock = SettableClock(utc(START))
    travel = TimeTravel(
        engine,
        clock,
        provider=provider,
        downtimes=[downtime("2027-03-01 09:00:30", "2027-03-02 12:00")],
    )
    travel.change_occasion(retry=RetryPolicy(max_attempts=50, base_seconds=3600, cap_seconds=3600))
    travel.add()
    travel.run("2027-03-03 00:00")
    message = travel.message()
    assert (message.state, message.reason, message.attempt) == ("expired", "too_late", 1)
    assert len(provider.received) == 1
