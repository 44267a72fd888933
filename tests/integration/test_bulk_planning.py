"""Planning beside what is there: left as it is where it is known, and where only the primary key knows of it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Connection, Engine, TextClause, event, text

from scheduler.clock import SettableClock
from scheduler.domain.calendar import moments
from scheduler.domain.occasion import Channel, Occasion, OnceRule
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


def plan(engine: Engine, occasion: Occasion) -> tuple[Planned, list[bool]]:
    """Plan all moments at once; with it, whether each statement that plans asks for each row."""
    asked: list[bool] = []

    def keep(_: Connection, statement: object, *_others: object) -> None:
        if isinstance(statement, TextClause) and "INSERT INTO message_log" in statement.text:
            asked.append("ON CONFLICT" in statement.text)

    with engine.begin() as connection:
        zone_times = [(zone, None) for zone in ZONES]
        found = moments(occasion, zone_times, NOW, NOW + timedelta(days=3))
        Partitions().ensure(connection, NOW.date(), NOW.date())
        event.listen(connection, "before_execute", keep)
        planned = bulk_planning.plan_window(connection, occasion, found, now=NOW, batch_size=7)
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
