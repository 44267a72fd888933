"""Edits around the day: a message follows its user until it is claimed, and nobody is greeted twice or not at all."""

from datetime import date, time

import pytest
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.user import UserInput
from scheduler.errors import Conflict
from tests.fixtures.providers import ScriptedProvider, failed
from tests.fixtures.time_travel import MONTHLY, TENANT, TimeTravel, downtime, utc
from worker.channels.port import FailureKind

KIRITIMATI, PAGO, NEW_YORK, TOKYO = (
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "America/New_York",
    "Asia/Tokyo",
)
NINE = {
    # 09:00 on 1 March 2027.
    KIRITIMATI: "2027-02-28 19:00",
    TOKYO: "2027-03-01 00:00",
    "UTC": "2027-03-01 09:00",
    NEW_YORK: "2027-03-01 14:00",
    PAGO: "2027-03-01 20:00",
}


@pytest.fixture
def travel(engine: Engine) -> TimeTravel:
    return TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")))


@pytest.mark.parametrize(
    ("before", "after", "moves_at", "accepted_at"),
    [
        # Before the day, either way: 09:00 where they live on the day.
        (NEW_YORK, TOKYO, "2027-02-27 12:00", NINE[TOKYO]),
        (TOKYO, NEW_YORK, "2027-02-27 12:00", NINE[NEW_YORK]),
        (PAGO, KIRITIMATI, "2027-02-27 12:00", NINE[KIRITIMATI]),
        (KIRITIMATI, PAGO, "2027-02-27 12:00", NINE[PAGO]),
        # On the day, not greeted yet, to where it is past nine: at once.
        (NEW_YORK, TOKYO, "2027-03-01 13:00", "2027-03-01 13:00"),
        # To where the day is over already: at once all the same, for nobody is to be left out.
        (PAGO, KIRITIMATI, "2027-03-01 15:00", "2027-03-01 15:00"),
        (NEW_YORK, KIRITIMATI, "2027-03-01 13:59", "2027-03-01 13:59"),
        # To where it is not yet nine, or the day before still: at nine there.
        (TOKYO, NEW_YORK, "2027-02-28 23:59", NINE[NEW_YORK]),
        (KIRITIMATI, PAGO, "2027-02-28 18:59", NINE[PAGO]),
        # Greeted already, to where the day lasts or is still to come: not again.
        (TOKYO, NEW_YORK, "2027-03-01 00:01", NINE[TOKYO]),
        (KIRITIMATI, PAGO, "2027-02-28 19:01", NINE[KIRITIMATI]),
        (PAGO, KIRITIMATI, "2027-03-01 20:01", NINE[PAGO]),
        # At the very instant at which it is due the edit is first.
        (KIRITIMATI, PAGO, NINE[KIRITIMATI], NINE[PAGO]),
        (PAGO, KIRITIMATI, NINE[PAGO], NINE[PAGO]),
        # After the day.
        (KIRITIMATI, PAGO, "2027-03-02 09:00", NINE[KIRITIMATI]),
        (PAGO, KIRITIMATI, "2027-03-02 09:00", NINE[PAGO]),
    ],
)
def test_a_traveller_is_greeted_once(
    travel: TimeTravel, before: str, after: str, moves_at: str, accepted_at: str
) -> None:
    user_id = travel.add(timezone=before)
    travel.edit_at(moves_at, user_id, timezone=after)
    travel.run("2027-03-04 00:00")
    assert travel.accepted() == [("ann", utc(accepted_at))]
    assert travel.message().local_date == date(2027, 3, 1)


def test_a_restless_traveller_is_greeted_once(travel: TimeTravel) -> None:
    user_id = travel.add(timezone=PAGO)
    route = [KIRITIMATI, PAGO, NEW_YORK, TOKYO]
    for hour in range(72):
        day, hour_of_day = divmod(hour, 24)
        instant = f"2027-{('02-28', '03-01', '03-02')[day]} {hour_of_day:02}:30"
        travel.edit_at(instant, user_id, timezone=route[hour % len(route)])
    travel.run("2027-03-04 00:00")
    assert len(travel.accepted()) == 1
    assert travel.message().state == "sent"


@pytest.mark.parametrize("limit_hours", [25, 48])
def test_a_move_during_downtime_loses_nobody(engine: Engine, limit_hours: int) -> None:
    """The scheduler is down; somebody not greeted yet moves as far east as can be, late."""
    day_off = downtime("2027-03-01 12:00", "2027-03-02 20:00")
    travel = TimeTravel(
        engine,
        SettableClock(utc("2027-02-25 23:50")),
        downtimes=[day_off],
        lateness_limit=f"PT{limit_hours}H",
    )
    user_id = travel.add(timezone=PAGO)
    travel.edit_at("2027-03-02 19:59", user_id, timezone=KIRITIMATI)
    travel.run("2027-03-05 00:00")
    assert travel.accepted() == [("ann", day_off.ends)]


@pytest.mark.parametrize(
    ("edited_at", "birthday", "accepted"),
    [
        # Before it was sent, it moves with the date: ahead, to the day itself, to a day that is past.
        ("2027-03-01 08:59", date(1990, 3, 2), ["2027-03-02 09:00"]),
        ("2027-02-28 12:00", date(1990, 2, 28), ["2027-02-28 12:00"]),
        ("2027-03-01 08:59", date(1990, 2, 28), []),
        # After it was sent there is none for that year any more, whatever the date.
        ("2027-03-01 09:01", date(1990, 3, 2), ["2027-03-01 09:00"]),
        ("2027-03-01 09:01", date(1990, 12, 31), ["2027-03-01 09:00"]),
        ("2027-03-01 09:01", date(1991, 3, 1), ["2027-03-01 09:00"]),
    ],
)
def test_a_birthday_corrected_on_the_day(
    engine: Engine, edited_at: str, birthday: date, accepted: list[str]
) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")), **MONTHLY)
    user_id = travel.add()
    travel.edit_at(edited_at, user_id, dates={"birthday": birthday})
    travel.run("2028-01-15 00:00")
    assert travel.accepted() == [("ann", utc(instant)) for instant in accepted]


def test_a_corrected_birthday_is_celebrated_the_year_after(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")), **MONTHLY)
    user_id = travel.add()
    travel.edit_at("2027-03-01 10:00", user_id, dates={"birthday": date(1990, 2, 27)})
    travel.run("2028-03-02 00:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 09:00")), ("ann", utc("2028-02-27 09:00"))]


@pytest.mark.parametrize(
    ("edited_at", "chosen", "accepted_at"),
    [
        ("2027-02-28 00:00", time(7), "2027-03-01 07:00"),
        ("2027-03-01 08:00", time(7), "2027-03-01 08:00"),
        ("2027-03-01 08:00", time(23, 59), "2027-03-01 23:59"),
        ("2027-03-01 09:30", time(23, 59), "2027-03-01 09:00"),
        ("2027-02-28 00:00", None, "2027-03-01 09:00"),
    ],
)
def test_a_chosen_time_that_changes(
    travel: TimeTravel, edited_at: str, chosen: time | None, accepted_at: str
) -> None:
    user_id = travel.add(at=time(10) if chosen is None else None)
    travel.edit_at(edited_at, user_id, preferred_time=chosen)
    travel.run("2027-03-03 00:00")
    assert travel.accepted() == [("ann", utc(accepted_at))]


def test_an_edit_of_the_name_alone_changes_the_text_and_nothing_else(engine: Engine) -> None:
    clock = SettableClock(utc("2027-02-25 23:50"))
    provider = ScriptedProvider()
    travel = TimeTravel(engine, clock, provider=provider)
    user_id = travel.add()
    travel.edit_at("2027-03-01 08:59:59", user_id, first_name="Anna")
    travel.run("2027-03-03 00:00")
    assert [message.fields["first_name"] for message in provider.received] == ["Anna"]


def test_an_address_that_goes_and_comes_back(travel: TimeTravel) -> None:
    user_id = travel.add()
    travel.edit_at("2027-02-28 12:00", user_id, email=None)
    travel.edit_at("2027-03-01 15:00", user_id, email="ann@example.org")
    travel.run("2027-03-03 00:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 15:00"))]


@pytest.mark.parametrize("deleted_at", ["2027-02-28 12:00", "2027-03-01 08:59:59", "2027-03-01 09:00"])
def test_a_deleted_user_is_not_written_to(travel: TimeTravel, deleted_at: str) -> None:
    user_id = travel.add()
    travel.at(deleted_at, lambda: travel.delete(user_id))
    travel.run("2027-03-03 00:00")
    assert not travel.accepted()
    assert not travel.messages()


@pytest.mark.parametrize(
    ("deleted_at", "created_at", "accepted_at"),
    [
        ("2027-03-01 08:00", "2027-03-01 08:30", "2027-03-01 09:00"),
        ("2027-03-01 08:00", "2027-03-01 10:00", "2027-03-01 10:00"),
        ("2027-03-01 09:30", "2027-03-01 10:00", "2027-03-01 09:00"),
    ],
)
def test_a_user_deleted_and_created_again_on_the_day_is_greeted_once(
    travel: TimeTravel, deleted_at: str, created_at: str, accepted_at: str
) -> None:
    user_id = travel.add()
    travel.at(deleted_at, lambda: travel.delete(user_id))
    travel.at(created_at, travel.add)
    travel.run("2027-03-03 00:00")
    assert travel.accepted() == [("ann", utc(accepted_at))]
    assert travel.message().user_id == user_id


@pytest.mark.parametrize(
    ("edit", "reason"), [({"email": None}, "no_address"), (None, "user_deleted")], ids=["address", "user"]
)
def test_a_retry_ends_with_what_it_was_addressed_to(
    engine: Engine, edit: dict[str, None] | None, reason: str
) -> None:
    clock = SettableClock(utc("2027-02-25 23:50"))
    provider = ScriptedProvider(answer=lambda _: failed(FailureKind.RETRYABLE))
    travel = TimeTravel(engine, clock, provider=provider, retry_base_seconds=3600.0)
    user_id = travel.add()
    gone = (lambda: travel.delete(user_id)) if edit is None else (lambda: travel.edit(user_id, **edit))
    travel.at("2027-03-01 09:00:06", gone)
    travel.run("2027-03-03 00:00")
    message = travel.message()
    assert (message.state, message.reason) == ("cancelled", reason)
    assert len(provider.received) == 1


def test_a_retry_is_not_sent_a_second_time_because_of_an_edit(engine: Engine) -> None:
    clock = SettableClock(utc("2027-02-25 23:50"))
    provider = ScriptedProvider(answer=lambda _: failed(FailureKind.RETRYABLE))
    travel = TimeTravel(engine, clock, provider=provider, retry_base_seconds=3600.0, retry_max_attempts=2)
    user_id = travel.add()
    travel.edit_at("2027-03-01 09:00:06", user_id, timezone=NEW_YORK, dates={"birthday": date(1990, 3, 2)})
    travel.run("2027-03-05 00:00")
    assert len(provider.received) == 2
    assert len(set(provider.keys)) == 1
    assert travel.message().state == "dead"


def test_an_occasion_that_moves_takes_its_messages_along(travel: TimeTravel) -> None:
    travel.add("utc")
    travel.add("tokyo", timezone=TOKYO)
    travel.add("york", timezone=NEW_YORK)
    # In Tokyo they have been greeted, in UTC ten is past, in New York it is still to come.
    travel.at("2027-03-01 08:30", lambda: travel.change_occasion(local_times=(time(7),)))
    travel.run("2027-03-03 00:00")
    assert travel.accepted() == [
        ("tokyo", utc("2027-03-01 00:00")),
        ("utc", utc("2027-03-01 08:30")),
        ("york", utc("2027-03-01 12:00")),
    ]


def test_an_occasion_with_one_time_fewer_sends_one_message_fewer(travel: TimeTravel) -> None:
    travel.change_occasion(local_times=(time(9), time(18)))
    travel.add()
    travel.at("2027-03-01 12:00", lambda: travel.change_occasion(local_times=(time(9),)))
    travel.run("2027-03-03 00:00")
    assert travel.accepted() == [("ann", utc("2027-03-01 09:00"))]
    assert len(travel.messages()) == 1


def test_an_occasion_that_paused_makes_nothing_up(engine: Engine) -> None:
    travel = TimeTravel(engine, SettableClock(utc("2027-02-25 23:50")), **MONTHLY)
    for month in range(3, 9):
        travel.add(f"m{month}", dates={"birthday": date(1990, month, 10)})
    travel.at("2027-04-20 00:00", lambda: travel.change_occasion(active=False))
    travel.at("2027-07-10 12:00", lambda: travel.change_occasion(active=True))
    travel.run("2027-09-01 00:00")
    assert [external_id for external_id, _ in travel.accepted()] == ["m3", "m4", "m7", "m8"]
    assert {message.state for message in travel.messages()} == {"sent"}


def test_an_occasion_edited_by_two_is_edited_once(travel: TimeTravel) -> None:
    first = travel.occasion()
    travel.change_occasion(name="Birthdays")
    with pytest.raises(Conflict):
        travel.edits.save(first, now=travel.clock.now())


def test_people_imported_long_before_the_scheduler_first_starts_are_all_accounted_for(engine: Engine) -> None:
    never_ran = downtime("2027-02-20 00:00", "2027-03-01 12:00")
    travel = TimeTravel(engine, SettableClock(utc("2027-02-22 00:00")), downtimes=[never_ran])
    days = [date(1990, 2, 22 + day) for day in range(7)] + [date(1990, 3, 1)]
    people = [
        UserInput(
            external_id=f"{day:%m%d}",
            first_name="Ann",
            email="a@example.org",
            timezone="UTC",
            dates={"birthday": day},
        )
        for day in days
    ]
    travel.registry.upsert(TENANT, people)
    travel.run("2027-03-03 00:00")
    assert [message.local_date.replace(year=1990) for message in travel.messages()] == days
    assert {message.state for message in travel.messages()} == {"sent", "expired"}
    assert [external_id for external_id, _ in travel.accepted()] == ["0301"]
