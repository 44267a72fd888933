"""One occasion that cannot be planned harms nobody else's, and no other part of the recovery."""

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.occasion import OnceRule
from scheduler.domain.user import UserInput
from tests.fixtures.time_travel import TENANT, TimeTravel

NOW = datetime(2027, 3, 1, tzinfo=UTC)


@pytest.fixture
def travel(engine: Engine) -> TimeTravel:
    """Two occasions for one user, the first of which will fail to be planned."""
    travel = TimeTravel(engine, SettableClock(NOW))
    travel.registry.upsert(
        TENANT, [UserInput(external_id="ann", first_name="Ann", email="ann@example.org", timezone="UTC")]
    )
    for key in ("broken", "sound"):
        travel.add_occasion(key, rule=OnceRule(date(2027, 3, 2)))
    return travel


def break_planning_of(engine: Engine, occasion: str) -> None:
    """Make the statement that plans `occasion` fail, as a full disk or a lock would."""
    with engine.begin() as connection:
        [occasion_id] = connection.execute(
            text("SELECT id FROM occasions WHERE key = :key"), {"key": occasion}
        ).scalars()
        connection.execute(
            text(f"ALTER TABLE message_log ADD CONSTRAINT refused CHECK (occasion_id <> {occasion_id})")
        )


def test_the_other_occasions_are_planned_and_the_error_is_raised(engine: Engine, travel: TimeTravel) -> None:
    break_planning_of(engine, "broken")
    with pytest.raises(Exception, match="refused"):
        travel.simulation.jobs.precalculate.run(NOW)
    assert [message.occasion for message in travel.messages()] == ["sound"]


def test_recovery_expires_and_lapses_all_the_same(engine: Engine, travel: TimeTravel) -> None:
    travel.simulation.jobs.precalculate.run(NOW)
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM message_log USING occasions o WHERE o.key = 'broken' AND occasion_id = o.id")
        )
        connection.execute(
            text("UPDATE occasions SET planned_through = :now WHERE key = 'broken'"), {"now": NOW}
        )
    break_planning_of(engine, "broken")
    with pytest.raises(Exception, match="refused"):
        travel.simulation.jobs.recover.run(NOW + timedelta(days=30))
    assert [(message.occasion, message.state) for message in travel.messages()] == [("sound", "expired")]
