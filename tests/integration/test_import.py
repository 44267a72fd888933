"""The import on a real database: what is stored, and what is planned by it."""

import csv
import json
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.domain.user import UserInput
from scheduler.domain.zones import zone
from scheduler.importing import ImportForm, ImportSummary, RejectedRow, chunks, import_users
from scheduler.planner import Planner, PlanningPolicy
from scheduler.registry import Registry
from scheduler.store import users
from scheduler.store.database import create_database_engine
from scheduler.store.planning import Replanned
from tests.fixtures.command_line import PEOPLE

HORIZON = timedelta(hours=48)
PLANNED = "SELECT external_id, local_date, send_at FROM message_log JOIN users ON users.id = user_id"


@pytest.fixture
def registry(engine: Engine, clock: SettableClock) -> Registry:
    planner = Planner(engine, PlanningPolicy(horizon=HORIZON, lateness_limit=timedelta(hours=25)))
    return Registry(engine, planner, clock)


def import_csv(registry: Registry, content: bytes) -> tuple[ImportSummary, list[RejectedRow]]:
    rejected: list[RejectedRow] = []
    lines = content.splitlines(keepends=True)
    return import_users(registry, 1, lines, ImportForm.csv, rejected.append), rejected


def fail(row: RejectedRow) -> None:
    pytest.fail(str(row))


def celebrations(now: datetime) -> Iterable[tuple[str, date, datetime]]:
    """Worked out apart from the product: 09:00 on each person's days, from their local morning on."""
    with PEOPLE.open(encoding="utf-8", newline="") as file:
        for person in csv.DictReader(file):
            for column in ("birth_date", "anniversary_date"):
                if not person[column]:
                    continue
                told = date.fromisoformat(person[column])
                for days in range(-1, 5):
                    day = now.date() + timedelta(days=days)
                    there = now.astimezone(zone(person["timezone"]))
                    send_at = datetime.combine(day, time(9), zone(person["timezone"])).astimezone(UTC)
                    is_due = day == there.date() or now < send_at < now + HORIZON
                    if (day.month, day.day) == (told.month, told.day) and day.year > told.year and is_due:
                        yield person["external_id"], day, max(send_at, now)


def test_an_import_stores_everyone_and_plans_what_is_due(
    registry: Registry, engine: Engine, clock: SettableClock
) -> None:
    summary, rejected = import_csv(registry, PEOPLE.read_bytes())
    assert (summary.read, summary.created, rejected) == (300, 300, [])
    with engine.connect() as connection:
        assert users.count(connection, 1) == 300
        planned = {tuple(row) for row in connection.execute(text(PLANNED))}
        stored = users.find_external(connection, 1, "aaronha01")
    expected = set(celebrations(clock.now()))
    # The planner looks an hour past the horizon.
    assert expected <= planned
    assert {row for row in planned if row[2] < clock.now() + HORIZON} == expected
    assert summary.replanned.planned == len(planned) > 0
    assert stored is not None
    assert (stored.values.first_name, stored.values.last_name) == ("Hank", "Aaron")
    assert stored.values.dates == {"birthday": date(1934, 2, 5), "anniversary": date(1954, 4, 13)}


def test_to_import_again_changes_no_message(registry: Registry, engine: Engine) -> None:
    first, _ = import_csv(registry, PEOPLE.read_bytes())
    second, _ = import_csv(registry, PEOPLE.read_bytes())
    assert first.created == second.unchanged == 300
    assert (second.created, second.updated, second.replanned) == (0, 0, Replanned())


def test_an_import_moves_and_removes_what_it_changes(registry: Registry, clock: SettableClock) -> None:
    header = b"external_id,first_name,timezone,email,birth_date\n"
    import_csv(
        registry,
        header
        + b"moves,Ada,Europe/London,a@example.com,1990-03-02\n"
        + b"leaves,Bob,Europe/London,b@example.com,1990-03-02\n",
    )
    summary, _ = import_csv(
        registry,
        header
        + b"moves,Ada,America/New_York,a@example.com,1990-03-02\n"
        + b"leaves,Bob,Europe/London,b@example.com,1990-09-02\n",
    )
    assert (summary.updated, summary.replanned.moved, summary.replanned.removed) == (2, 1, 1)


def test_ndjson_and_csv_store_the_same(registry: Registry, engine: Engine) -> None:
    columns = {"external_id": "u1", "first_name": "Zoë", "timezone": "Asia/Tokyo", "preferred_time": "07:30"}
    content = ",".join([*columns, "birth_date"]) + "\n" + ",".join([*columns.values(), "2000-02-29"]) + "\n"
    import_csv(registry, content.encode())
    with engine.connect() as connection:
        from_csv = users.find_external(connection, 1, "u1")
    line = json.dumps(columns | {"dates": {"birthday": "2000-02-29"}}).encode()
    import_users(registry, 1, [line], ImportForm.ndjson, fail)
    with engine.connect() as connection:
        from_ndjson = users.find_external(connection, 1, "u1")
    assert from_csv is not None
    assert from_ndjson is not None
    assert from_csv.values == from_ndjson.values
    # Whoever is as they were has not changed, by their version either.
    assert from_ndjson.version == from_csv.version


def test_values_are_stored_as_they_were_read(registry: Registry, engine: Engine) -> None:
    people = [
        UserInput(external_id="\\N", first_name="\\N", timezone="UTC"),
        UserInput(
            external_id="a\\b\"c,d{e}'",
            first_name="\\.",
            last_name="\\",
            email="o'neil+x@example.org",
            phone="+442071838750",
            push_token="\\x01\\t:",
            webhook_url="https://example.org/a?b=\\n",
            timezone="Asia/Tokyo",
            locale="pt-BR",
            preferred_time=time(0, 0),
            dates={"z_1": date(1, 1, 1), "birthday": date(2000, 2, 29), "later": date(9999, 12, 31)},
            attributes={"text": 'a\\b "c" \\n é 😀', "number": -1.5, "yes": True, "nothing": None},
        ),
    ]
    for done in ("created", "updated"):
        lines = [person.model_dump_json(exclude_defaults=True).encode() for person in people]
        summary = import_users(registry, 1, lines, ImportForm.ndjson, fail)
        assert getattr(summary, done) == len(people)
        with engine.connect() as connection:
            stored = [users.find_external(connection, 1, person.external_id) for person in people]
        assert [each and each.values for each in stored] == people
        people = [person.model_copy(update={"first_name": "\\\\"}) for person in people]


def test_the_chunks_before_a_failure_are_kept(
    registry: Registry, engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "USERS_PER_CHUNK", 500)

    def cut_off_after(count: int) -> Iterable[bytes]:
        yield b"external_id,first_name,timezone\n"
        for number in range(count):
            yield b"u%d,Ada,UTC\n" % number
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        import_users(registry, 1, cut_off_after(1_200), ImportForm.csv, fail)
    other = create_database_engine(database_url, pool_size=1, application_name="daybreak-tests")
    with other.connect() as connection:
        assert users.count(connection, 1) == 1_000
    other.dispose()
