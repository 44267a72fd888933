"""Groups of writes that wait for somebody else's transaction see what it did, and hold up nobody else for long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any, Final

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from scheduler.clock import SettableClock
from scheduler.domain.access import Actor
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import UserInput, UserPatch
from scheduler.registry import Registry
from scheduler.service import registry_for
from scheduler.settings import Settings
from scheduler.store import erasure, user_writes, users
from scheduler.store.known_occasions import UNCHANGED, WATERMARKS
from scheduler.user_group import Action, UserWrite
from tests.fixtures.statements import sent_directly
from tests.fixtures.waiting import wait_until_blocked

TENANT: Final = 1
NOON: Final = datetime(2027, 3, 1, 12, tzinfo=UTC)
SECRET_KEY: Final = SecretStr("a secret key for tests, of no other use")


@pytest.fixture
def registry(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Its groups wait for as long as a test lets them."""
    monkeypatch.setattr(user_writes, "PATIENCE", "60s")
    return registry_for(Settings(secret_key=SECRET_KEY), engine, SettableClock(NOON))


def person(name: str) -> UserInput:
    return UserInput(external_id=name, first_name="Ann", timezone="UTC")


def writes(*wanted: tuple[Action, str]) -> list[UserWrite]:
    actor = Actor(TENANT, "key:1", frozenset())
    return [UserWrite(TENANT, action, name, person(name), actor) for action, name in wanted]


def written_meanwhile(
    engine: Engine, registry: Registry, group: list[UserWrite], work: Callable[[Connection], object]
) -> list[Any]:
    """The outcomes of a group that waits for a transaction with this `work`; meanwhile somebody else adds `late`."""
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as connection:
            work(connection)
            outcomes = threads.submit(registry._write_group, group)
            wait_until_blocked(engine, outcomes)
            registry.create(TENANT, person("late"))
        return list(outcomes.result(60))


def test_a_group_that_only_adds_sees_what_it_has_waited_for(engine: Engine, registry: Registry) -> None:
    """Who is being deleted has their id again, who has been added since is taken; nobody of them is called erased."""
    gone, _ = (registry.create(TENANT, person(name)).user.id for name in ("gone", "there"))
    tombstone = Tombstones(SECRET_KEY).of(TENANT, "erased")
    with engine.begin() as connection:
        erasure.remember(connection, TENANT, [tombstone], now=NOON)
    names = ("gone", "there", "new", "erased", "late", "new")
    outcomes = written_meanwhile(
        engine,
        registry,
        writes(*[(Action.CREATE, name) for name in names]),
        lambda connection: users.delete(connection, TENANT, gone, now=NOON),
    )
    assert [type(each).__name__ for each in outcomes] == [
        *("WrittenUser", "Conflict", "WrittenUser", "PersonErased", "Conflict", "Later")
    ]
    assert (outcomes[0].user.id, outcomes[0].user.version, outcomes[0].is_new) == (gone, 2, True)
    assert outcomes[2].user.version == 1
    with engine.connect() as connection:
        found = connection.execute(text("SELECT external_id FROM users ORDER BY 1")).scalars().all()
    assert found == ["gone", "late", "new", "there"]


def test_a_group_begins_again_where_somebody_was_added_since_it_looked(
    engine: Engine, registry: Registry
) -> None:
    held = registry.create(TENANT, person("held")).user.id
    outcomes = written_meanwhile(
        engine,
        registry,
        writes((Action.REPLACE, "held"), (Action.PUT, "late"), (Action.CREATE, "new")),
        lambda connection: users.lock(connection, [held]),
    )
    assert [(each.user.version, each.is_new) for each in outcomes] == [(2, False), (2, False), (1, True)]


def test_who_waits_for_a_lock_does_not_hold_up_the_line(
    engine: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their group gives up, and they wait alone."""
    monkeypatch.setattr(user_writes, "PATIENCE", "20ms")
    held = registry.create(TENANT, person("held")).user.id
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as connection:
            users.lock(connection, [held])
            waiting = threads.submit(registry.patch, TENANT, held, UserPatch(last_name="Waited"))
            wait_until_blocked(engine, waiting)
            assert registry.create(TENANT, person("behind")).is_new
            assert not waiting.done()
        assert waiting.result(60).user.version == 2


def born_in_june(name: str) -> UserInput:
    """Somebody for whom nothing is to be planned now."""
    return UserInput(external_id=name, first_name="Ann", timezone="UTC", dates={"birthday": date(1990, 6, 1)})


def know_the_occasions(registry: Registry) -> None:
    """The first creation begins their planning, the next one sees it begun."""
    for name in ("first", "second"):
        registry.create(TENANT, born_in_june(name))


def test_who_has_nothing_to_plan_is_committed_along_unless_the_occasions_are_others_by_now(
    engine: Engine, registry: Registry
) -> None:
    know_the_occasions(registry)
    with sent_directly() as seen:
        assert registry.create(TENANT, born_in_june("along")).is_new
    assert UNCHANGED.statement in [statement for statement, _ in seen]
    assert WATERMARKS.statement not in [statement for statement, _ in seen]
    with engine.begin() as connection:
        connection.execute(text("UPDATE occasions SET planned_through = planned_through + interval '1 hour'"))
    with sent_directly() as seen:
        assert registry.create(TENANT, born_in_june("again")).user.version == 1
    assert [
        statement for statement, _ in seen if statement in (UNCHANGED.statement, WATERMARKS.statement)
    ] == [
        UNCHANGED.statement,
        WATERMARKS.statement,
    ]
    assert added(engine) == ["again", "along", "first", "second"]


def test_who_may_have_been_committed_along_is_not_written_again(engine: Engine, registry: Registry) -> None:
    know_the_occasions(registry)
    with engine.begin() as connection:
        connection.execute(text(_END_AT_COMMIT))
    try:
        with pytest.raises(DBAPIError) as caught:
            registry.create(TENANT, born_in_june("lost"))
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP FUNCTION end_at_commit() CASCADE"))
    assert caught.value.connection_invalidated
    assert added(engine) == ["first", "second"]


_END_AT_COMMIT: Final = """
CREATE FUNCTION end_at_commit() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER end_at_commit AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION end_at_commit()"""


def added(engine: Engine) -> list[str]:
    """Who was added, by the audit log: once each, and is there."""
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT after->>'external_id' FROM audit_log WHERE action = 'create' ORDER BY 1")
        )
        noted = list(found.scalars())
        assert list(connection.execute(text("SELECT external_id FROM users ORDER BY 1")).scalars()) == noted
    return noted
