"""Quiet hours: nothing disturbs at night, nothing is lost to it, whatever is edited meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey, NotSentReason
from scheduler.domain.occasion import Channel
from scheduler.domain.quiet_hours import QuietHours
from scheduler.domain.retry import RetryPolicy
from scheduler.domain.user import UserPatch
from scheduler.store import occasions
from scheduler.store.batches import Counts
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import LATENESS_LIMIT, NINE, TENANT, Pipeline, person
from tests.fixtures.providers import AT, ScriptedProvider, failed
from worker.channels.port import Accepted, NotAttempted, Outcome, OutgoingMessage

NIGHT = QuietHours.parse("22:00-08:00")
ELEVEN = datetime(2027, 3, 1, 23, tzinfo=UTC)
MORNING = datetime(2027, 3, 2, 8, tzinfo=UTC)
FIRST_OF_MARCH = date(2027, 3, 1)
MOST_ROUNDS = 5


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    retry = RetryPolicy(max_attempts=3, base_seconds=2.0, cap_seconds=2.0)
    return Pipeline(engine, clock, retry=retry, quiet_hours=NIGHT)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def deliver_due(pipeline: Pipeline, provider: ScriptedProvider, channel: Channel = Channel.EMAIL) -> Counts:
    """Enqueue and deliver all that is due now, what that makes due at once as well."""
    total = Counts()
    for _ in range(MOST_ROUNDS):
        enqueued = pipeline.enqueue()
        for _ in range(enqueued):
            total += pipeline.deliverer(provider).deliver(pipeline.lease(channel=channel), Signal())
        if not enqueued:
            return total
    raise AssertionError("what is due does not come to an end")


def add_at_eleven(pipeline: Pipeline, clock: SettableClock, count: int = 1, **changes: Any) -> list[int]:
    """People in UTC whose messages fall due at 23:00, at night; the clock is set to it."""
    people = pipeline.add_due_people(count, **{"preferred_time": time(23), **changes})
    clock.set(ELEVEN)
    return people


def defer_at_eleven(pipeline: Pipeline, clock: SettableClock, count: int = 1, **changes: Any) -> list[int]:
    """The same, and put off to the morning."""
    people = add_at_eleven(pipeline, clock, count, **changes)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts()
    assert due(pipeline) == [(MORNING, "quiet_hours")] * count
    return people


def due(pipeline: Pipeline) -> list[tuple[datetime, str]]:
    """When what is scheduled falls due, and why then."""
    rows = pipeline.rows(
        "SELECT send_at, CAST(time_rule AS text) AS rule FROM message_log WHERE state = 'scheduled'"
        " ORDER BY send_at, user_id"
    )
    return [(row.send_at, row.rule) for row in rows]


def sent_at_all_hours(
    pipeline: Pipeline, clock: SettableClock, until: datetime
) -> list[tuple[str, datetime]]:
    """Let the hours pass up to `until`; the key and the instant of all that is sent, in order."""
    sent: list[tuple[str, datetime]] = []

    def answer(message: OutgoingMessage) -> Outcome:
        sent.append((message.id, clock.now()))
        return Accepted(clock.now())

    while clock.now() <= until:
        deliver_due(pipeline, ScriptedProvider(answer))
        clock.advance(timedelta(minutes=15))
    return sent


def key(user_id: int, local_date: date = FIRST_OF_MARCH) -> str:
    return MessageKey(1, user_id, local_date, 0, Channel.EMAIL).text


def change_occasion(pipeline: Pipeline, **changes: Any) -> None:
    with pipeline.engine.connect() as connection:
        occasion = occasions.by_id(connection, [1])[1]
    pipeline.edits.save(replace(occasion, **changes), now=pipeline.clock.now())


def test_what_falls_due_at_night_is_sent_in_the_morning_once(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    clock.set(MORNING - timedelta(seconds=1))
    assert pipeline.enqueue() == 0
    clock.set(MORNING)
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts(sent=1)
    assert provider.keys == [key(user_id)]
    assert pipeline.batch_states() == {"done": 2}


def test_people_of_several_zones_hear_in_their_own_morning(pipeline: Pipeline, clock: SettableClock) -> None:
    zones = ["America/New_York", "UTC", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Kiritimati"]
    ids: dict[str, int] = {}
    for number, timezone in enumerate(zones):
        [ids[timezone]] = pipeline.add_people(1, first=number, timezone=timezone, preferred_time=time(23))
    starts = utc("2027-02-28T12:00")
    pipeline.plan(starts)
    clock.set(starts)
    sent = sent_at_all_hours(pipeline, clock, utc("2027-03-02T16:00"))
    assert sent == [
        (key(ids["Pacific/Kiritimati"]), utc("2027-03-01T18:00")),
        (key(ids["Asia/Kathmandu"]), utc("2027-03-02T02:15")),
        (key(ids["Europe/Berlin"]), utc("2027-03-02T07:00")),
        (key(ids["UTC"]), utc("2027-03-02T08:00")),
        (key(ids["America/New_York"]), utc("2027-03-02T13:00")),
    ]


@pytest.mark.parametrize(
    ("day", "due_at", "morning"),
    [
        # The hour from 02:00 is skipped, or comes twice.
        (date(2027, 3, 28), "2027-03-28T01:30", "2027-03-28T06:00"),
        (date(2027, 10, 31), "2027-10-31T00:30", "2027-10-31T07:00"),
    ],
)
def test_the_night_is_as_long_as_it_is_where_clocks_change(
    pipeline: Pipeline, clock: SettableClock, day: date, due_at: str, morning: str
) -> None:
    born = {"birthday": day.replace(year=1990)}
    [user_id] = pipeline.add_people(1, timezone="Europe/Berlin", dates=born, preferred_time=time(2, 30))
    clock.set(utc(due_at) - timedelta(hours=12))
    pipeline.plan(clock.now())
    assert due(pipeline)[0][0] == utc(due_at)
    assert sent_at_all_hours(pipeline, clock, utc(morning)) == [(key(user_id, day), utc(morning))]


def test_an_occasions_own_hours_win_over_those_of_the_settings(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_due_people(1, preferred_time=time(23))
    change_occasion(pipeline, quiet_hours=QuietHours.parse("12:00-12:00"))
    clock.set(ELEVEN)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)


def test_an_occasion_may_have_quiet_hours_where_the_settings_have_none(engine: Engine) -> None:
    pipeline = Pipeline(engine, SettableClock(NINE))
    pipeline.add_due_people(1)
    change_occasion(pipeline, quiet_hours=QuietHours.parse("08:00-10:00"))
    assert deliver_due(pipeline, ScriptedProvider()) == Counts()
    assert due(pipeline) == [(NINE + timedelta(hours=1), "quiet_hours")]


@pytest.mark.parametrize("channel", [Channel.WEBHOOK, Channel.IN_APP])
def test_what_disturbs_nobody_goes_at_any_hour(
    pipeline: Pipeline, clock: SettableClock, channel: Channel
) -> None:
    change_occasion(pipeline, channels=(channel,))
    add_at_eleven(pipeline, clock, webhook_url="https://example.org/hook")
    assert deliver_due(pipeline, ScriptedProvider(), channel) == Counts(sent=1)


def test_only_those_who_sleep_are_put_off(pipeline: Pipeline, clock: SettableClock) -> None:
    """One instant, one batch: 23:00 in UTC is 18:00 in New York."""
    asleep = pipeline.add_people(2, preferred_time=time(23))
    awake = pipeline.add_people(2, first=2, preferred_time=time(18), timezone="America/New_York")
    pipeline.plan(NINE)
    clock.set(ELEVEN)
    provider = ScriptedProvider()
    assert pipeline.enqueue() == 1
    assert pipeline.deliverer(provider).deliver(pipeline.lease(), Signal()) == Counts(sent=2)
    assert set(provider.keys) == set(map(key, awake))
    [ticket] = pipeline.rows("SELECT send_at, due_at, attempt, user_ids FROM batches WHERE state = 'pending'")
    assert tuple(ticket) == (MORNING, MORNING, 0, asleep)


def test_a_retry_waits_for_the_morning_and_counts_its_lateness_from_there(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """The first attempt was two seconds before the night."""
    [user_id] = pipeline.add_due_people(1, preferred_time=time(21, 59))
    clock.set(ELEVEN.replace(hour=21, minute=59, second=59))
    at = clock.now()
    again = replace(failed(retry_after=timedelta(hours=1)), at=at)
    assert deliver_due(pipeline, ScriptedProvider(lambda _: again)) == Counts(retried=1)
    clock.advance(timedelta(seconds=2))
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts()
    assert provider.received == []
    [message] = pipeline.rows(
        "SELECT CAST(state AS text), attempt, send_at, CAST(time_rule AS text), batch_id FROM message_log"
    )
    assert tuple(message) == ("retrying", 1, MORNING, "quiet_hours", None)
    [ticket] = pipeline.rows("SELECT send_at, due_at, attempt FROM batches WHERE state = 'pending'")
    assert tuple(ticket) == (MORNING, MORNING, 1)
    clock.set(MORNING + LATENESS_LIMIT)
    assert clock.now() > at + LATENESS_LIMIT
    assert deliver_due(pipeline, provider) == Counts(sent=1)
    assert provider.keys == [key(user_id)]
    assert {row.attempt for row in pipeline.rows("SELECT attempt FROM message_log")} == {2}


def test_what_is_too_late_at_night_expires_at_once(pipeline: Pipeline, clock: SettableClock) -> None:
    add_at_eleven(pipeline, clock)
    clock.set(ELEVEN + LATENESS_LIMIT + timedelta(seconds=1))
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(expired=1)
    assert [row.reason for row in pipeline.rows("SELECT reason FROM message_log")] == [NotSentReason.TOO_LATE]


def test_lateness_counts_from_the_morning(pipeline: Pipeline, clock: SettableClock) -> None:
    defer_at_eleven(pipeline, clock)
    clock.set(MORNING + LATENESS_LIMIT)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)


def test_put_off_for_lack_of_a_worker_until_the_next_night_it_waits_for_the_next_morning(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    defer_at_eleven(pipeline, clock)
    clock.set(MORNING + timedelta(hours=15))
    assert deliver_due(pipeline, ScriptedProvider()) == Counts()
    assert due(pipeline) == [(MORNING + timedelta(days=1), "quiet_hours")]


def test_a_worker_whose_clock_is_behind_does_not_put_off_what_is_due(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """Else it would put it off to the same instant, and be given it again at once, until its clock catches up."""
    defer_at_eleven(pipeline, clock)
    clock.set(MORNING)
    assert pipeline.enqueue() == 1
    batch = pipeline.lease()
    clock.set(MORNING - timedelta(seconds=2))
    assert pipeline.deliverer(ScriptedProvider()).deliver(batch, Signal()) == Counts(sent=1)


def test_a_restart_in_the_night_changes_nothing(pipeline: Pipeline, clock: SettableClock) -> None:
    """What was put off lives in the database: another process finds it, and recovery does not hurry it."""
    people = defer_at_eleven(pipeline, clock, 3)
    clock.advance(timedelta(hours=2))
    restarted = Pipeline(pipeline.engine, clock, quiet_hours=NIGHT)
    assert restarted.recover()["expired"] == 0
    assert restarted.plan(clock.now()) == 0
    assert restarted.enqueue() == 0
    clock.set(MORNING)
    restarted.recover()
    provider = ScriptedProvider()
    assert deliver_due(restarted, provider) == Counts(sent=3)
    assert sorted(provider.keys) == sorted(map(key, people))


def test_a_worker_killed_at_the_claim_leaves_nothing_half_put_off(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """Of one instant, some asleep, some awake; the awake are being sent to as the worker dies."""
    pipeline.add_people(2, preferred_time=time(23))
    pipeline.add_people(2, first=2, preferred_time=time(18), timezone="America/New_York")
    pipeline.plan(NINE)
    clock.set(ELEVEN)
    pipeline.enqueue()

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.deliverer(ScriptedProvider(before=die)).deliver(pipeline.lease("killed"), Signal())
    assert pipeline.states() == {"scheduled": 2, "sending": 2}
    clock.advance(timedelta(minutes=2))
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=2)
    clock.set(MORNING)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=2)


def test_what_is_handed_back_at_night_is_put_off_once(pipeline: Pipeline, clock: SettableClock) -> None:
    """A batch that comes back again and again for those who are awake leaves those asleep alone."""
    pipeline.add_people(2, preferred_time=time(23))
    pipeline.add_people(2, first=2, preferred_time=time(18), timezone="America/New_York")
    pipeline.plan(NINE)
    clock.set(ELEVEN)
    deliverer = pipeline.deliverer(ScriptedProvider(lambda _: NotAttempted()))
    for _ in range(5):
        assert pipeline.enqueue() == 1
        deliverer.deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"scheduled": 4}
    assert pipeline.batch_states() == {"pending": 2}


def test_retries_that_are_handed_back_at_night_are_put_off_once(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_people(2, preferred_time=time(21, 59))
    pipeline.add_people(2, first=2, preferred_time=time(16, 59), timezone="America/New_York")
    pipeline.plan(NINE)
    clock.set(ELEVEN.replace(hour=21, minute=59))
    again = replace(failed(retry_after=timedelta(hours=1)), at=clock.now())
    deliver_due(pipeline, ScriptedProvider(lambda _: again))
    clock.set(ELEVEN)
    deliverer = pipeline.deliverer(ScriptedProvider(lambda _: NotAttempted()))
    for _ in range(5):
        assert pipeline.enqueue() == 1
        deliverer.deliver(pipeline.lease(), Signal())
    assert pipeline.states() == {"retrying": 4}
    assert pipeline.batch_states() == {"done": 1, "pending": 2}
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=2)
    clock.set(MORNING)
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=2)


# Edits through the register.


def test_an_edit_before_the_night_is_followed(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = pipeline.add_due_people(1, preferred_time=time(23))
    clock.set(NINE)
    pipeline.registry.patch(TENANT, user_id, UserPatch(preferred_time=time(21)))
    assert sent_at_all_hours(pipeline, clock, MORNING) == [(key(user_id), ELEVEN - timedelta(hours=2))]


def test_an_edit_at_night_leaves_the_morning_and_says_the_new_name(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    clock.advance(timedelta(hours=3))
    edited = pipeline.registry.patch(TENANT, user_id, UserPatch(first_name="Zoë")).replanned
    assert (edited.kept, edited.moved, edited.removed) == (1, 0, 0)
    assert due(pipeline) == [(MORNING, "quiet_hours")]
    assert pipeline.batch_states() == {"done": 1, "pending": 1}
    clock.set(MORNING)
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts(sent=1)
    assert [message.fields["first_name"] for message in provider.received] == ["Zoë"]


def test_an_edit_after_the_night_leaves_what_is_due_due(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    clock.set(MORNING + timedelta(hours=1))
    pipeline.registry.patch(TENANT, user_id, UserPatch(first_name="Zoë"))
    assert due(pipeline) == [(MORNING, "quiet_hours")]
    assert deliver_due(pipeline, ScriptedProvider()) == Counts(sent=1)


def test_who_moves_east_at_night_hears_when_it_is_day_there(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    clock.advance(timedelta(minutes=30))
    pipeline.registry.patch(TENANT, user_id, UserPatch(timezone="Asia/Tokyo"))
    # 08:30 in Tokyo.
    assert sent_at_all_hours(pipeline, clock, MORNING) == [(key(user_id), ELEVEN + timedelta(minutes=30))]


def test_who_moves_a_little_east_at_night_hears_earlier(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    pipeline.registry.patch(TENANT, user_id, UserPatch(timezone="Europe/Berlin"))
    sent = sent_at_all_hours(pipeline, clock, MORNING)
    assert sent == [(key(user_id), MORNING - timedelta(hours=1))]


def test_who_moves_west_at_night_hears_at_their_hour_or_the_morning_after(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    clock.advance(timedelta(hours=2))
    pipeline.registry.patch(TENANT, user_id, UserPatch(timezone="America/New_York"))
    # 20:00 on 1 March there: their own 23:00 is still to come, and at night.
    assert due(pipeline) == [(utc("2027-03-02T04:00"), "exact")]
    sent = sent_at_all_hours(pipeline, clock, utc("2027-03-02T16:00"))
    assert sent == [(key(user_id), utc("2027-03-02T13:00"))]


def test_who_moves_away_and_back_at_night_hears_once(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    for timezone in ("America/New_York", "UTC", "Europe/Berlin", "UTC"):
        clock.advance(timedelta(minutes=30))
        pipeline.registry.patch(TENANT, user_id, UserPatch(timezone=timezone))
        deliver_due(pipeline, ScriptedProvider())
    sent = sent_at_all_hours(pipeline, clock, utc("2027-03-03T16:00"))
    assert sent == [(key(user_id), MORNING)]


def test_who_moves_after_the_night_hears_by_the_hour_there(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    clock.set(MORNING + timedelta(minutes=5))
    pipeline.registry.patch(TENANT, user_id, UserPatch(timezone="America/New_York"))
    # 03:05 on 2 March there.
    sent = sent_at_all_hours(pipeline, clock, utc("2027-03-02T16:00"))
    assert sent == [(key(user_id), utc("2027-03-02T13:05"))]


def test_who_turns_out_to_be_born_on_another_day_is_sent_nothing(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    pipeline.registry.patch(TENANT, user_id, UserPatch(dates={"birthday": date(1990, 7, 1)}))
    assert pipeline.states() == {}
    assert sent_at_all_hours(pipeline, clock, MORNING) == []


def test_who_is_deleted_at_night_is_sent_nothing(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    pipeline.registry.delete(TENANT, user_id)
    assert pipeline.states() == {}
    assert sent_at_all_hours(pipeline, clock, MORNING) == []


def test_a_user_added_at_night_on_the_day_itself_hears_in_the_morning(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    clock.set(ELEVEN)
    pipeline.plan(clock.now())
    user_id = pipeline.registry.create(TENANT, person(1)).user.id
    assert sent_at_all_hours(pipeline, clock, MORNING) == [(key(user_id), MORNING)]


def test_an_occasion_edited_at_night_keeps_what_was_put_off(pipeline: Pipeline, clock: SettableClock) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    change_occasion(pipeline, subject="All the best", quiet_hours=QuietHours.parse("21:00-09:00"))
    assert due(pipeline) == [(MORNING, "quiet_hours")]
    sent = sent_at_all_hours(pipeline, clock, MORNING + timedelta(hours=2))
    assert sent == [(key(user_id), MORNING + timedelta(hours=1))]


def stale_version(pipeline: Pipeline) -> None:
    """What planning leaves that read a user before an edit which was committed first."""
    pipeline.execute("UPDATE users SET version = version + 1")


def test_what_was_put_off_and_is_stale_is_replanned_and_sent(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    [user_id] = defer_at_eleven(pipeline, clock)
    stale_version(pipeline)
    clock.set(MORNING)
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts(sent=1)
    assert provider.keys == [key(user_id)]


def test_what_nights_put_off_out_of_the_reach_of_edits_is_neither_lost_nor_sent_twice(
    pipeline: Pipeline, clock: SettableClock
) -> None:
    """Workers that are there at night only, for a week: replanning looks back three days."""
    [user_id] = defer_at_eleven(pipeline, clock)
    for _ in range(7):
        clock.advance(timedelta(days=1))
        assert deliver_due(pipeline, ScriptedProvider()) == Counts()
        pipeline.registry.patch(TENANT, user_id, UserPatch(first_name="Zoë"))
        assert pipeline.states() == {"scheduled": 1}
    stale_version(pipeline)
    clock.set(MORNING + timedelta(days=7))
    provider = ScriptedProvider()
    assert deliver_due(pipeline, provider) == Counts(sent=1)
    assert provider.keys == [key(user_id)]


def test_a_thousand_put_off_twice_leave_one_ticket_a_batch(pipeline: Pipeline, clock: SettableClock) -> None:
    defer_at_eleven(pipeline, clock, 1_000)
    assert pipeline.batch_states() == Counter(done=2, pending=2)
    clock.set(MORNING)
    assert deliver_due(pipeline, ScriptedProvider(lambda _: Accepted(AT))) == Counts(sent=1_000)
