"""Users who are written together end as if they had been written one after the other, and each has their own answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from random import Random
from threading import Event
from typing import Any, Final

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from scheduler.clock import SettableClock
from scheduler.domain.access import Actor
from scheduler.domain.user import UserInput, UserPatch
from scheduler.registry import Registry
from scheduler.service import registry_for
from scheduler.settings import Settings
from scheduler.store import user_writes
from scheduler.store.database import create_database_engine
from tests.fixtures.databases import DatabaseCopies
from tests.fixtures.waiting import wait_until, wait_until_blocked

TENANT: Final = 1
NOON: Final = datetime(2027, 3, 1, 12, tzinfo=UTC)
SETTINGS: Final = Settings(secret_key=SecretStr("a secret key for tests, of no other use"))
ZONES: Final = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Pacific/Auckland")

Step = Callable[[Registry], object]


def a_registry(engine: Engine) -> Registry:
    return registry_for(SETTINGS, engine, SettableClock(NOON))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups wait for as long as a test lets them."""
    monkeypatch.setattr(user_writes, "PATIENCE", "60s")


@pytest.fixture
def registry(engine: Engine) -> Registry:
    return a_registry(engine)


def person(name: str, **changes: Any) -> UserInput:
    """Somebody born on 2 March, whose message lies within the horizon."""
    values = {
        "external_id": name,
        "first_name": "Ann",
        "email": f"{name}@example.org",
        "timezone": "UTC",
        "dates": {"birthday": date(1990, 3, 2)},
    }
    return UserInput(**values | changes)


def a_life(seed: int) -> list[Step]:
    """What happens to one person, in this order, whoever else is written meanwhile."""
    chance = Random(seed)
    name = f"person-{seed}"
    actor = Actor(TENANT, f"key:{seed}", frozenset(), request_id=f"request-{seed}")

    def values() -> UserInput:
        dates = {"birthday": date(1990, 3, chance.randint(1, 5)), "anniversary": date(2015, 3, 2)}
        return person(
            name,
            timezone=chance.choice(ZONES),
            first_name=f"Ann {chance.randint(0, 99)}",
            attributes={"number": chance.randint(0, 9)},
            dates={each: dates[each] for each in chance.sample(sorted(dates), chance.randint(0, 2))},
        )

    def step() -> Step:
        user, version = values(), chance.choice([None, None, None, 1, 2])
        patch = UserPatch(timezone=user.timezone, dates=dict(user.dates), phone="+442071838750")
        return chance.choice(
            [
                lambda registry: registry.create(TENANT, user, actor=actor),
                lambda registry: registry.put(TENANT, user, expected_version=version, actor=actor),
                lambda registry: registry.replace(TENANT, name, user, expected_version=version, actor=actor),
                lambda registry: registry.patch(TENANT, name, patch, expected_version=version, actor=actor),
                lambda registry: registry.delete(TENANT, name, expected_version=version, actor=actor),
            ]
        )

    return [lambda registry: registry.create(TENANT, values(), actor=actor), *(step() for _ in range(4))]


def answer(registry: Registry, step: Step) -> object:
    """What was answered, without the ids, which follow the order of the threads."""
    try:
        found: Any = step(registry)
    except Exception as error:
        return type(error).__name__
    user = getattr(found, "user", None)
    if user is None:
        return found
    return found.replanned, found.is_new, user.version, user.values, user.created_at


LOOK: Final = (
    """SELECT external_id, first_name, phone, timezone, attributes, version, created_at, updated_at,
              (SELECT jsonb_object_agg(name, value) FROM user_dates d WHERE d.user_id = u.id)
       FROM users u""",
    "SELECT external_id, version, deleted_at FROM deleted_users",
    "SELECT count(*) FROM user_dates WHERE user_id NOT IN (SELECT id FROM users)",
    """SELECT known.external_id, l.occasion_id, l.local_date, l.channel, l.slot, l.state, l.send_at, l.user_version,
              l.timezone, l.year, EXISTS (SELECT FROM batches b WHERE l.user_id = ANY (b.user_ids)
                  AND (b.occasion_id, b.local_date, b.send_at) = (l.occasion_id, l.local_date, l.send_at))
       FROM message_log l
       JOIN (SELECT id, external_id FROM users UNION SELECT user_id, external_id FROM deleted_users) known
           ON known.id = l.user_id""",
    "SELECT actor, request_id, action, kind, before, after, at FROM audit_log",
)


def state(engine: Engine) -> list[Counter[str]]:
    with engine.connect() as connection:
        return [Counter(map(str, connection.execute(text(each)))) for each in LOOK]


@contextmanager
def database(copies: DatabaseCopies) -> Iterator[Engine]:
    with copies.copy() as url:
        engine = create_database_engine(url, pool_size=10, application_name="daybreak-tests")
        yield engine
        engine.dispose()


def test_what_is_written_together_is_as_if_written_in_turn(database_copies: DatabaseCopies) -> None:
    people = range(160)
    with database(database_copies) as serial_engine, database(database_copies) as engine:
        serial = a_registry(serial_engine)
        in_turn = [[answer(serial, step) for step in a_life(seed)] for seed in people]
        together, sizes = a_registry(engine), group_sizes(engine)

        def live(seed: int) -> list[object]:
            return [answer(together, step) for step in a_life(seed)]

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(live, people)) == in_turn
        assert max(sizes) > 2
        assert state(engine) == state(serial_engine)
        kinds = {each if isinstance(each, str) else "answered" for life in in_turn for each in life}
        assert kinds == {"answered", "Conflict", "NotFound", "VersionConflict"}


def group_sizes(engine: Engine) -> list[int]:
    """How many entries each transaction makes in the audit log."""
    sizes: list[int] = []

    def count(connection: Connection) -> None:
        mine = "SELECT count(*) FROM audit_log WHERE xmin = CAST(pg_current_xact_id_if_assigned() AS xid)"
        sizes.append(connection.execute(text(mine)).scalar_one())

    event.listen(engine, "commit", count)
    return sizes


def test_of_several_who_add_the_same_person_one_does(engine: Engine, registry: Registry) -> None:
    other_process = a_registry(create_database_engine(str_url(engine), pool_size=4, application_name="other"))
    registries = [registry, other_process] * 4

    def add(each: Registry, name: str) -> object:
        return answer(each, lambda registry: registry.create(TENANT, person(name)))

    with ThreadPoolExecutor(8) as threads:
        for number in range(10):
            name = f"twin-{number}"
            found = list(threads.map(lambda each, name=name: add(each, name), registries))
            assert (
                sorted(isinstance(each, str) and each == "Conflict" for each in found) == [False] + [True] * 7
            )
    assert sum(state(engine)[0].values()) == 10
    other_process._engine.dispose()


def str_url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@contextmanager
def gathered(engine: Engine, registry: Registry, *steps: Step) -> Iterator[list[Future[Any]]]:
    """Steps that are one group, which waits for a user whom the yielded transaction holds; it ends with the block."""
    held = registry.create(TENANT, person("held")).user.id
    with ThreadPoolExecutor(len(steps) + 2) as threads, engine.connect() as holder:
        holder.execute(text("SELECT FROM users WHERE id = :id FOR UPDATE"), {"id": held})
        first = threads.submit(registry.patch, TENANT, held, UserPatch(last_name="First"))
        wait_until_blocked(engine, first)
        futures: list[Future[Any]] = [first]
        line = registry._writer._lines
        for step in (lambda each: each.patch(TENANT, held, UserPatch(last_name="Second")), *steps):
            futures.append(threads.submit(step, registry))
            wait_until(lambda: len(line[TENANT]) == len(futures) - 1, "it is in line")
        yield futures
        holder.rollback()


def test_what_is_wrong_with_one_is_wrong_with_no_other(engine: Engine, registry: Registry) -> None:
    registry.create(TENANT, person("ann"))
    bob = registry.create(TENANT, person("bob")).user.id
    nobody: dict[str, Any] = {"first_name": ""}
    steps: list[Step] = [
        lambda registry: registry.create(TENANT, person("new")),
        lambda registry: registry.create(TENANT, person("ann")),
        lambda registry: registry.patch(TENANT, bob, UserPatch(last_name="X"), expected_version=7),
        lambda registry: registry.patch(TENANT, 999_999, UserPatch(last_name="X")),
        lambda registry: registry.patch(TENANT, "ann", UserPatch(external_id="bob")),
        lambda registry: registry.patch(TENANT, "ann", UserPatch.model_construct({"first_name"}, **nobody)),
        lambda registry: registry.delete(TENANT, "a\0b"),
        lambda registry: registry.patch(TENANT, "ann", UserPatch(dates={"birthday": date(2028, 1, 1)})),
        lambda registry: registry.delete(TENANT, bob),
        lambda registry: registry.create(TENANT, person("bob")),
    ]
    sizes = group_sizes(engine)
    with gathered(engine, registry, *steps) as futures:
        pass
    failures = [type(each.exception()).__name__ for each in futures]
    assert failures == [
        *("NoneType", "NoneType", "NoneType", "Conflict", "VersionConflict", "NotFound", "Conflict"),
        *("ValidationError", "NotFound", "InvalidInput", "NoneType"),
        "Conflict",  # bob was still there when his group was decided
    ]
    assert sizes == [1, 1, 3]
    with engine.connect() as connection:
        names = connection.execute(text("SELECT external_id, last_name FROM users ORDER BY 1")).all()
    assert [tuple(each) for each in names] == [("ann", ""), ("held", "Second"), ("new", "")]


def test_who_commits_for_themselves_waits_for_no_group(engine: Engine) -> None:
    """As a request with an idempotency key, whose commit notes that it took effect."""
    is_apart = Event()
    registry = registry_for(SETTINGS, engine, SettableClock(NOON), is_apart.is_set)
    with gathered(engine, registry, lambda each: each.create(TENANT, person("in-line"))):
        is_apart.set()
        assert registry.create(TENANT, person("apart")).is_new
        is_apart.clear()


def test_two_writes_of_one_user_are_never_of_one_group(engine: Engine, registry: Registry) -> None:
    steps: list[Step] = [
        lambda registry: registry.create(TENANT, person("ann")),
        lambda registry: registry.put(TENANT, person("ann", last_name="Again")),
        lambda registry: registry.create(TENANT, person("ann")),
    ]
    sizes = group_sizes(engine)
    with gathered(engine, registry, *steps) as [*_, created, put, refused]:
        pass
    assert (created.result().is_new, put.result().is_new, put.result().user.version) == (True, False, 2)
    assert type(refused.exception()).__name__ == "Conflict"
    assert sizes == [1, 1, 2, 1]


WAITING: Final = """
FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


def cut(engine: Engine, sessions: int) -> None:
    """End the sessions that wait for a lock, once there are so many."""

    def are_waiting() -> bool:
        with engine.connect() as connection:
            return bool(connection.execute(text(f"SELECT count(*) {WAITING}")).scalar_one() == sessions)

    wait_until(are_waiting, "they wait for a lock")
    with engine.begin() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) {WAITING}"))


def test_a_group_whose_connection_is_cut_is_written_one_by_one(engine: Engine, registry: Registry) -> None:
    steps: list[Step] = [
        lambda registry, name=name: registry.create(TENANT, person(name))  # type: ignore[misc]
        for name in ("a", "b", "c")
    ]
    with gathered(engine, registry, *steps) as [first, second, *others]:
        cut(engine, 1)  # the group of the first alone, which is then written by itself
        cut(engine, 2)  # that, and the group of all others
        assert [each.result(30).user.version for each in others] == [1, 1, 1]
        assert isinstance(first.exception(30), DBAPIError)
    assert second.result(30).user.version == 2
    with engine.connect() as connection:
        names = connection.execute(text("SELECT external_id, last_name FROM users ORDER BY 1")).all()
        entries = connection.execute(text("SELECT action FROM audit_log ORDER BY 1")).scalars().all()
    assert [tuple(each) for each in names] == [("a", ""), ("b", ""), ("c", ""), ("held", "Second")]
    assert entries == ["change", "create", "create", "create", "create"]


def test_nothing_is_answered_before_the_commit(engine: Engine, registry: Registry) -> None:
    entered, goes_on = Event(), Event()

    def wait(_: Connection) -> None:
        entered.set()
        assert goes_on.wait(30)

    event.listen(engine, "commit", wait)
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(registry.create, TENANT, person(name)) for name in "ab"]
        assert entered.wait(30)
        seen = state(engine)
        assert not any(each.done() for each in futures)
        goes_on.set()
        assert [each.result(30).user.version for each in futures] == [1, 1]
    assert not seen[0]


def test_a_commit_whose_outcome_is_unknown_is_an_error_for_all_and_not_repeated(
    engine: Engine, registry: Registry
) -> None:
    with gathered(engine, registry, *[lambda registry: registry.create(TENANT, person("x"))]) as [
        first,
        *others,
    ]:
        end_sessions_that_commit(engine)
    for each in [first, *others]:
        assert isinstance(each.exception(), DBAPIError)
    with engine.connect() as connection:
        names = connection.execute(text("SELECT external_id, last_name FROM users")).all()
    assert [tuple(each) for each in names] == [("held", "")]


def end_sessions_that_commit(engine: Engine) -> None:
    killer = create_database_engine(str_url(engine), pool_size=1, application_name="killer")

    def end(connection: Connection) -> None:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        if connection.execute(text("SELECT pg_current_xact_id_if_assigned()")).scalar_one() is None:
            return
        with killer.begin() as ending:
            ending.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        killer.dispose()

    event.listen(engine, "commit", end)
