"""Planning a window: beside what is there, and for people with times of their own, by whichever statement."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from random import Random

import pytest
from sqlalchemy import Connection, Engine, TextClause, event, text

from scheduler.clock import SettableClock
from scheduler.domain.calendar import moments
from scheduler.domain.occasion import Channel, Occasion, OnceRule, YearlyRule
from scheduler.domain.user import UserInput
from scheduler.store import bulk_planning
from scheduler.store.partitions import Partitions
from scheduler.store.planning import Planned
from tests.fixtures.time_travel import TENANT, TimeTravel

NOW = datetime(2027, 3, 1, tzinfo=UTC)
ZONES = ("Africa/Lagos", "Europe/Berlin", "Asia/Tokyo")
PEOPLE = 30


@pytest.fixture
def occasion(engine: Engine) -> Occasion:
    """One for thirty users in three zones, two of which share their instant, on two channels."""
    travel = TimeTravel(engine, SettableClock(NOW))
    travel.registry.upsert(
        TENANT,
        [
            UserInput(
                external_id=str(number),
                first_name="Ann",
                email="ann@example.org",
                phone="+4915112345678",
                timezone=ZONES[number % len(ZONES)],
            )
            for number in range(PEOPLE)
        ],
    )
    return travel.add_occasion(
        "news",
        rule=OnceRule(date(2027, 3, 2)),
        local_times=(time(12),),
        channels=(Channel.SMS, Channel.EMAIL),
    )


def plan(
    engine: Engine, occasion: Occasion, times: Sequence[time | None] = (None,)
) -> tuple[Planned, list[bool]]:
    """Plan all moments at once; with it, whether each statement that plans asks for each row."""
    asked: list[bool] = []

    def keep(_: Connection, statement: object, *_others: object) -> None:
        if isinstance(statement, TextClause) and "INSERT INTO message_log" in statement.text:
            asked.append("ON CONFLICT" in statement.text)

    with engine.begin() as connection:
        zone_times = [(zone, at) for zone in ZONES for at in times]
        found = moments(occasion, zone_times, NOW, NOW + timedelta(days=3))
        Partitions().ensure(connection, NOW.date(), NOW.date())
        event.listen(connection, "before_execute", keep)
        planned = bulk_planning.plan_window(connection, occasion, found, now=NOW, batch_size=7)
        assert connection.execute(text("SHOW enable_indexscan")).scalar_one() == "on"
    return planned, asked


def messages_in_order(engine: Engine) -> Sequence[tuple[object, ...]]:
    """Everything that identifies them and their instants, in the order in which they lie on disk."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT send_at, CAST(channel AS text), user_id, timezone, local_date FROM message_log ORDER BY ctid"
            )
        )
        return [tuple(row) for row in rows]


def test_what_users_have_planned_themselves_is_left_out(engine: Engine, occasion: Occasion) -> None:
    first, asked = plan(engine, occasion)
    assert (first, asked) == (Planned(added=2 * PEOPLE, batches=10), [False])
    written = messages_in_order(engine)
    assert list(written) == sorted(written)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM message_log WHERE user_id % 2 = 0"))
    again, asked = plan(engine, occasion)
    assert asked == [False]
    assert (again.added, again.already_there) == (PEOPLE, PEOPLE)
    assert sorted(messages_in_order(engine)) == sorted(written)


def test_what_only_the_key_knows_of_is_left_as_it_is(engine: Engine, occasion: Occasion) -> None:
    plan(engine, occasion)
    written = sorted(messages_in_order(engine))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM batches"))
        connection.execute(text("DELETE FROM message_log WHERE user_id % 2 = 0"))
    again, asked = plan(engine, occasion)
    assert asked == [False, True]
    assert (again.added, again.already_there) == (PEOPLE, PEOPLE)
    assert sorted(messages_in_order(engine)) == written


@pytest.mark.parametrize(
    "rule", [OnceRule(date(2027, 3, 2)), YearlyRule("birthday", 0)], ids=["undated", "dated"]
)
def test_everyone_gets_what_the_calendar_says_of_them_alone(
    engine: Engine, rule: OnceRule | YearlyRule
) -> None:
    random = Random(15)
    times = [None, time(9), time(9, 30), time(12), time(0), time(23, 59)]
    people = [
        UserInput(
            external_id=str(number),
            first_name="Ann",
            email=None if random.random() < 0.1 else "ann@example.org",
            phone=None if random.random() < 0.5 else "+4915112345678",
            timezone=random.choice(ZONES),
            preferred_time=random.choice(times),
            dates={"birthday": date(1990, 3, random.randint(1, 4))},
        )
        for number in range(200)
    ]
    travel = TimeTravel(engine, SettableClock(NOW))
    travel.registry.upsert(TENANT, people)
    with engine.connect() as connection:
        ids = {
            row.external_id: row.id for row in connection.execute(text("SELECT id, external_id FROM users"))
        }
    occasion = travel.add_occasion(
        "news",
        rule=rule,
        local_times=(time(9), time(18)),
        honours_preferred_time=True,
        channels=(Channel.EMAIL, Channel.SMS),
    )
    owed = sorted(
        (moment.send_at, moment.local_date, moment.slot, channel, ids[each.external_id], each.timezone)
        for each in people
        for moment in moments(occasion, [(each.timezone, each.preferred_time)], NOW, NOW + timedelta(days=3))
        if moment.month_day in (None, 300 + each.dates["birthday"].day)
        for channel, address in (("email", each.email), ("sms", each.phone))
        if address is not None
    )
    planned, asked = plan(engine, occasion, times)
    assert (planned.added, planned.already_there, asked) == (len(owed), 0, [isinstance(rule, YearlyRule)])
    assert everything(engine, occasion) == (owed, batches_of(owed))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM batches"))
        connection.execute(text("DELETE FROM message_log WHERE user_id % 3 = 0"))
    again, asked = plan(engine, occasion, times)
    assert (asked[-1], again.added + again.already_there) == (True, len(owed))
    missing = [message for message in owed if message[4] % 3 == 0]
    assert everything(engine, occasion) == (owed, batches_of(missing))


def everything(
    engine: Engine, occasion: Occasion
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Of an occasion: the messages, and the batches with their instants and users."""
    columns = "send_at, local_date, slot, CAST(channel AS text)"
    with engine.connect() as connection:
        messages, batches = (
            connection.execute(text(f"{each} WHERE occasion_id = :id"), {"id": occasion.id}).all()
            for each in (
                f"SELECT {columns}, user_id, timezone FROM message_log",
                f"SELECT {columns}, user_ids FROM batches",
            )
        )
    return sorted(map(tuple, messages)), sorted(map(tuple, batches))


def batches_of(messages: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """How messages, in order, are put together: what agrees in all but the users, seven at a time."""
    found: list[tuple[object, ...]] = []
    for key, members in groupby(messages, key=lambda message: message[:4]):
        user_ids = [message[4] for message in members]
        found += [(*key, user_ids[first : first + 7]) for first in range(0, len(user_ids), 7)]
    return found
