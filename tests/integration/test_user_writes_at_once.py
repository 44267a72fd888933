"""Two writes of one user at the same time end as if one had come after the other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM
from scheduler.domain.user import UserInput, UserPatch
from scheduler.store import user_writes, users
from scheduler.store.user_writes import NewUser, UserWrites
from scheduler.store.users import StoredUser
from tests.fixtures.time_travel import TENANT, TimeTravel, utc
from tests.fixtures.waiting import wait_until_blocked

BIRTHDAY: Final = {"birthday": date(1990, 3, 1)}
BOTH: Final = {**BIRTHDAY, "anniversary": date(2015, 6, 1)}


@pytest.fixture
def travel(engine: Engine) -> TimeTravel:
    return TimeTravel(engine, SettableClock(utc("2027-03-01 08:00")))


def ann(**changes: Any) -> UserInput:
    """Ann, born on 1 March."""
    values: dict[str, Any] = {
        "external_id": "ann",
        "first_name": "Ann",
        "email": "ann@example.org",
        "timezone": "UTC",
        "dates": BIRTHDAY,
    }
    return UserInput(**values | changes)


def overlapping(
    travel: TimeTravel, first: Callable[[Connection], object], second: Callable[[], object]
) -> None:
    """Begin `second` while `first` is not yet committed, and let both end."""
    with ThreadPoolExecutor(1) as executor:
        with travel.engine.begin() as connection:
            first(connection)
            later = executor.submit(second)
            wait_until_blocked(travel.engine, later)
        later.result(timeout=60)


def write_both_dates(travel: TimeTravel, user_id: int) -> Callable[[Connection], object]:
    def write(connection: Connection) -> object:
        user_writes.lock(connection, TENANT, user_ids=[user_id])
        both = UserWrites(changed={user_id: ann(dates=BOTH)})
        return user_writes.write(connection, TENANT, both, now=travel.clock.now())

    return write


def delete(travel: TimeTravel, user_id: int) -> Callable[[Connection], object]:
    return lambda connection: users.delete(connection, TENANT, user_id, now=travel.clock.now())


def stored(travel: TimeTravel) -> StoredUser:
    with travel.engine.connect() as connection:
        user = users.find_external(connection, TENANT, "ann")
    assert user is not None
    return user


def test_a_change_keeps_what_another_change_has_just_written(travel: TimeTravel) -> None:
    user_id = travel.add()
    patch = UserPatch(phone="+442071838750")
    overlapping(
        travel,
        write_both_dates(travel, user_id),
        lambda: travel.registry.patch(TENANT, user_id, patch),
    )
    assert (stored(travel).values.dates, stored(travel).values.phone) == (BOTH, patch.phone)


def test_a_replacement_leaves_no_date_of_what_it_replaces(travel: TimeTravel) -> None:
    user_id = travel.add()
    overlapping(
        travel,
        write_both_dates(travel, user_id),
        lambda: travel.registry.replace(TENANT, user_id, ann()),
    )
    assert stored(travel).values.dates == BIRTHDAY


def test_an_import_leaves_no_date_of_what_it_replaces(travel: TimeTravel) -> None:
    user_id = travel.add()
    overlapping(travel, write_both_dates(travel, user_id), lambda: travel.registry.upsert(TENANT, [ann()]))
    assert stored(travel).values.dates == BIRTHDAY


def test_an_import_leaves_no_date_of_a_user_who_was_just_added(travel: TimeTravel) -> None:
    both = UserWrites(new=[NewUser(ann(dates=BOTH), SYSTEM, None)])
    overlapping(
        travel,
        lambda connection: user_writes.write(connection, TENANT, both, now=travel.clock.now()),
        lambda: travel.registry.upsert(TENANT, [ann()]),
    )
    assert stored(travel).values.dates == BIRTHDAY


def test_a_deletion_leaves_nothing_personal_that_was_just_written(travel: TimeTravel) -> None:
    user_id = travel.add()
    overlapping(travel, write_both_dates(travel, user_id), lambda: travel.registry.delete(TENANT, user_id))
    assert travel.count("SELECT count(*) FROM user_dates") == 0


@pytest.mark.parametrize("by_import", [False, True])
def test_a_user_added_again_while_they_are_deleted_keeps_their_history(
    travel: TimeTravel, by_import: bool
) -> None:
    """Under another id they would be sent today's message a second time."""

    def add_again() -> object:
        if by_import:
            return travel.registry.upsert(TENANT, [ann()])
        return travel.registry.create(TENANT, ann())

    user_id = travel.add()
    travel.run("2027-03-01 10:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 09:00"))]
    overlapping(travel, delete(travel, user_id), add_again)
    travel.run("2027-03-01 11:00")
    assert stored(travel).id == user_id
    assert len(travel.accepted()) == 1


def test_an_external_id_whose_user_was_renamed_is_free_again(travel: TimeTravel) -> None:
    """Deleted, added again under the old id, renamed: the id is theirs, the external id is not."""
    user_id = travel.add()
    travel.delete(user_id)
    assert travel.add() == user_id
    travel.edit(user_id, external_id="anna")
    assert travel.add() != user_id
    travel.registry.upsert(TENANT, [ann(first_name="Another Ann")])
    with travel.engine.connect() as connection:
        names = connection.execute(text("SELECT external_id, first_name FROM users ORDER BY id")).all()
    assert [tuple(name) for name in names] == [("anna", "Ann"), ("ann", "Another Ann")]
