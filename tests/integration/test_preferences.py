"""Suppressions and unsubscribes: each written once, taken back exactly, and kept when a user goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.domain.suppression import SuppressionReason
from scheduler.errors import NotFound
from scheduler.preferences import Preferences
from scheduler.store import preferences as stored
from scheduler.store.preferences import NewSuppression
from tests.fixtures.events import logged_events
from tests.fixtures.pipeline import TENANT, Pipeline, person

EMAIL, SMS = Channel.EMAIL, Channel.SMS
OTHER_TENANT = 2
BOUNCED, COMPLAINED, MANUAL = (
    SuppressionReason.BOUNCED,
    SuppressionReason.COMPLAINED,
    SuppressionReason.MANUAL,
)


@pytest.fixture
def preferences(engine: Engine, clock: SettableClock) -> Preferences:
    return Preferences(engine, clock)


def addresses(engine: Engine, tenant_id: int = TENANT, **filters: object) -> list[str]:
    with engine.connect() as connection:
        found = stored.suppressions(connection, tenant_id, after=0, most=100, **filters)  # type: ignore[arg-type]
    return [each.address for each in found]


def test_the_first_reason_stays(preferences: Preferences, clock: SettableClock) -> None:
    first, is_new = preferences.suppress(TENANT, EMAIL, "Ann@Example.org", BOUNCED, "ses")
    clock.advance(timedelta(hours=1))
    again, is_new_again = preferences.suppress(TENANT, EMAIL, " ann@example.ORG", COMPLAINED, "sendgrid")
    assert (is_new, is_new_again) == (True, False)
    assert first == again
    assert (first.address, first.reason, first.source) == ("ann@example.org", BOUNCED, "ses")


def test_a_suppression_is_of_one_channel_and_one_tenant(preferences: Preferences, engine: Engine) -> None:
    preferences.suppress(TENANT, EMAIL, "ann@example.org", MANUAL, "test")
    assert not preferences.unsuppress(TENANT, SMS, "ann@example.org")
    assert not preferences.unsuppress(OTHER_TENANT, EMAIL, "ann@example.org")
    assert addresses(engine, OTHER_TENANT) == []
    assert preferences.unsuppress(TENANT, EMAIL, "ANN@example.org")
    assert not preferences.unsuppress(TENANT, EMAIL, "ann@example.org")


def test_an_id_of_another_tenant_is_none(preferences: Preferences) -> None:
    entry, _ = preferences.suppress(TENANT, EMAIL, "ann@example.org", MANUAL, "test")
    with pytest.raises(NotFound):
        preferences.unsuppress_by_id(OTHER_TENANT, entry.id)
    preferences.unsuppress_by_id(TENANT, entry.id)
    with pytest.raises(NotFound):
        preferences.unsuppress_by_id(TENANT, entry.id)


def test_many_at_once_count_each_address_once(preferences: Preferences, engine: Engine) -> None:
    preferences.suppress(TENANT, EMAIL, "a1@example.org", MANUAL, "test")
    new = [NewSuppression(EMAIL, f"A{number % 5}@example.org", BOUNCED) for number in range(20)]
    assert preferences.suppress_all(TENANT, [*new, NewSuppression(SMS, "+4930123456", MANUAL)], "file") == 5
    assert preferences.suppress_all(TENANT, new, "file") == 0
    assert preferences.suppress_all(TENANT, [], "file") == 0
    assert len(addresses(engine)) == 6
    assert addresses(engine, channel=SMS) == ["+4930123456"]
    assert addresses(engine, reason=MANUAL) == ["a1@example.org", "+4930123456"]


def test_writers_at_once_agree(preferences: Preferences, engine: Engine) -> None:
    def write(number: int) -> int:
        order = range(50) if number % 2 else reversed(range(50))
        return preferences.suppress_all(
            TENANT, [NewSuppression(EMAIL, f"a{each}@example.org", BOUNCED) for each in order], "file"
        )

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(write, range(16))) == 50


def test_an_unsubscription_is_taken_back_exactly(preferences: Preferences, engine: Engine) -> None:
    [user_id] = Pipeline(engine, SettableClock(preferences._clock.now())).add_people(1)
    birthday = preferences.occasion_id(TENANT, "birthday")
    assert preferences.unsubscribe(TENANT, user_id, EMAIL, birthday, "test")
    assert not preferences.unsubscribe(TENANT, user_id, EMAIL, birthday, "again")
    assert preferences.unsubscribe(TENANT, user_id, EMAIL, None, "test")
    assert not preferences.resubscribe(TENANT, user_id, SMS, None, "test")
    assert not preferences.resubscribe(OTHER_TENANT, user_id, EMAIL, None, "test")
    assert [(each.occasion_id, each.occasion) for each in preferences.of_user(TENANT, user_id)] == [
        (None, None),
        (birthday, "birthday"),
    ]
    assert preferences.resubscribe(TENANT, user_id, EMAIL, None, "test")
    [left] = preferences.of_user(TENANT, user_id)
    assert (left.channel, left.occasion, left.source) == (EMAIL, "birthday", "test")


def test_an_unsubscription_outlives_its_user(engine: Engine, preferences: Preferences) -> None:
    pipeline = Pipeline(engine, SettableClock(preferences._clock.now()))
    user = pipeline.registry.create(TENANT, person(1)).user
    preferences.unsubscribe(TENANT, user.id, EMAIL, None, "test")
    pipeline.registry.delete(TENANT, user.id)
    with pytest.raises(NotFound):
        preferences.of_user(TENANT, user.id)
    again = pipeline.registry.create(TENANT, person(1)).user
    assert again.id == user.id
    assert [each.channel for each in preferences.of_user(TENANT, user.id)] == [EMAIL]


def test_nothing_personal_is_logged(preferences: Preferences) -> None:
    with logged_events() as events:
        preferences.suppress(TENANT, EMAIL, "canary@example.org", MANUAL, "test")
        preferences.unsubscribe(TENANT, 4711, EMAIL, None, "test")
        preferences.resubscribe(TENANT, 4711, EMAIL, None, "test")
        preferences.unsuppress(TENANT, EMAIL, "canary@example.org")
    assert [event.name for event in events] == [
        "address_suppressed",
        "unsubscribed",
        "resubscribed",
        "address_released",
    ]
    assert not any(word in str(events) for word in ("canary", "4711"))
