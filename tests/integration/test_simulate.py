"""`daybreak simulate` against an independent computation: who is due when, by the standard library alone."""

import csv
import json
from calendar import isleap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.fixtures.command_line import PEOPLE, daybreak

LEAP_DAYS = ("2027-02-26T00:00:00Z", "2027-03-03T00:00:00Z")
CLOCK_CHANGES = ("2027-03-13T11:30:00Z", "2027-03-16T00:00:00Z")
YEAR_END = ("2027-12-20T00:00:00Z", "2028-01-10T00:00:00Z")

Due = set[tuple[str, str, str, str, str]]


@dataclass(frozen=True)
class Simulated:
    """What a run wrote: its lines, and its summary."""

    messages: Sequence[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def due(self) -> Due:
        """What was sent, as `expected_due` has it."""
        return {
            (each["user"], each["occasion"], each["local_date"], each["timezone"], each["send_at"])
            for each in self.messages
        }


def simulate(folder: Path, window: tuple[str, str], *options: str, people: Path = PEOPLE) -> Simulated:
    """Run the command on the sample."""
    output = folder / "out.ndjson"
    starts, ends = window
    finished = daybreak(
        "simulate", "--people", str(people), "--from", starts, "--until", ends,
        "--output", str(output), "--json", *options,
        settings={}, cwd=folder,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr.decode()
    assert not finished.stderr
    lines = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    return Simulated(lines, json.loads(finished.stdout))


def expected_due(window: tuple[str, str]) -> Due:
    """Every birthday and anniversary at 09:00 local time in the window, 29 February on the 28th where need be."""
    starts, ends = map(datetime.fromisoformat, window)
    with PEOPLE.open(encoding="utf-8", newline="") as file:
        people = list(csv.DictReader(file))
    zones = {name: standard_zone(name) for name in {person["timezone"] for person in people}}
    found: Due = set()
    for person in people:
        for occasion, column in (("birthday", "birth_date"), ("anniversary", "anniversary_date")):
            for day in celebrations(person[column], starts.year - 1, ends.year + 1):
                local = datetime(day.year, day.month, day.day, 9, tzinfo=zones[person["timezone"]])
                send_at = local.astimezone(UTC)
                if starts <= send_at < ends:
                    instant = f"{send_at:%Y-%m-%dT%H:%M:%SZ}"
                    found.add((person["external_id"], occasion, str(day), person["timezone"], instant))
    return found


def celebrations(written: str, first_year: int, last_year: int) -> Iterator[date]:
    """The days on which a date is celebrated; none for no date."""
    if not written:
        return
    original = date.fromisoformat(written)
    for year in range(max(first_year, original.year + 1), last_year + 1):
        is_moved = (original.month, original.day) == (2, 29) and not isleap(year)
        yield date(year, 2, 28) if is_moved else original.replace(year=year)


def standard_zone(name: str) -> ZoneInfo:
    """The zone by the rules of the tzdata package, which those of the system may differ from."""
    path = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def test_the_expectation_moves_everybody_born_on_the_leap_day_to_the_28th() -> None:
    with PEOPLE.open(encoding="utf-8", newline="") as file:
        born = {row["external_id"] for row in csv.DictReader(file) if row["birth_date"].endswith("-02-29")}
    on_the_28th = {each[0] for each in expected_due(LEAP_DAYS) if each[1:3] == ("birthday", "2027-02-28")}
    assert len(born) == 14
    assert born <= on_the_28th


@pytest.mark.parametrize("window", [LEAP_DAYS, CLOCK_CHANGES, YEAR_END], ids=["leap", "clocks", "new_year"])
def test_everybody_is_greeted_at_nine_exactly_once(tmp_path: Path, window: tuple[str, str]) -> None:
    expected = expected_due(window)
    simulated = simulate(tmp_path, window)
    assert simulated.due == expected
    assert len(simulated.messages) == len(expected) > 0
    assert all(each["accepted_at"] == each["send_at"] for each in simulated.messages)
    assert {(each["channel"], each["attempt"]) for each in simulated.messages} == {("email", 1)}
    took_seconds = simulated.summary.pop("took_seconds")
    assert took_seconds > 0
    assert simulated.summary == {
        "people": 300,
        "rejected": 0,
        "planned": len(expected),
        "sent": len(expected),
        "expired": 0,
        "dead": 0,
        "cancelled": 0,
        "unfinished": 0,
        "duplicates": 0,
        "worst_lateness_seconds": 0.0,
    }


def test_a_downtime_changes_when_but_not_what(tmp_path: Path) -> None:
    back_at = "2027-02-28T05:00:00Z"
    simulated = simulate(
        tmp_path, LEAP_DAYS, "--downtime", f"2027-02-27T03:00:00Z/{back_at}", "--lateness-limit", "PT48H"
    )
    assert simulated.due == expected_due(LEAP_DAYS)
    assert len({each["id"] for each in simulated.messages}) == len(simulated.messages)
    assert simulated.summary["duplicates"] == 0
    for each in simulated.messages:
        is_delayed = "2027-02-27T03:00:00Z" <= each["send_at"] < back_at
        assert each["accepted_at"] == (back_at if is_delayed else each["send_at"])
    accepted = [each["accepted_at"] for each in simulated.messages]
    assert accepted == sorted(accepted)
    lateness = datetime.fromisoformat(back_at) - min(
        datetime.fromisoformat(each["send_at"])
        for each in simulated.messages
        if each["accepted_at"] == back_at
    )
    assert (
        simulated.summary["worst_lateness_seconds"]
        == lateness.total_seconds()
        > timedelta(hours=12).total_seconds()
    )


def test_a_downtime_beyond_the_window_is_followed_to_its_end(tmp_path: Path) -> None:
    simulated = simulate(tmp_path, LEAP_DAYS, "--downtime", "2027-03-01T00:00:00Z/PT60H")
    expected = expected_due(LEAP_DAYS)
    assert simulated.due < expected
    assert simulated.summary["planned"] == len(expected)
    assert simulated.summary["expired"] == len(expected) - len(simulated.messages)
    # The default limit is 25 hours.
    assert {each["send_at"] < "2027-03-02T11:00:00Z" for each in simulated.messages} == {True, False}
    late = [each for each in simulated.messages if each["send_at"] >= "2027-03-01T00:00:00Z"]
    assert {each["accepted_at"] for each in late} == {"2027-03-03T12:00:00Z"}
    assert min(each["send_at"] for each in late) >= "2027-03-02T11:00:00Z"


def test_without_an_output_the_lines_are_the_output(tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text(
        "external_id,first_name,email,timezone,birth_date,preferred_time\n"
        "ann,Ann,ann@example.org,Asia/Kathmandu,1990-03-01,07:30\n"
        "bob,Bob,bob@example.org,Asia/Kathmandoo,1990-03-01,\n",
        "utf-8",
    )
    finished = daybreak(
        "simulate", "--people", str(people), "--from", LEAP_DAYS[0], "--until", LEAP_DAYS[1],
        settings={}, cwd=tmp_path,
    )  # fmt: skip
    assert finished.returncode == 0
    assert json.loads(finished.stdout) == {
        "id": "1.1.20270301.0.email",
        "user": "ann",
        "occasion": "birthday",
        "channel": "email",
        "local_date": "2027-03-01",
        "timezone": "Asia/Kathmandu",
        "send_at": "2027-03-01T01:45:00Z",
        "accepted_at": "2027-03-01T01:45:00Z",
        "attempt": 1,
    }
    told = finished.stderr.decode()
    assert "line 3 is left out: /timezone: unknown time zone 'Asia/Kathmandoo'" in told
    assert "people          1 (1 rejected)" in told
    assert "sent            1\n" in told


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--from", "2027-03-01", "--until", LEAP_DAYS[1]],
            "'2027-03-01' is no instant; write one with its zone",
        ),
        (["--from", LEAP_DAYS[1], "--until", LEAP_DAYS[0]], "--until must lie after --from"),
        (["--from", LEAP_DAYS[0], "--until", LEAP_DAYS[1], "--downtime", "PT2H"], "'PT2H' is no interval"),
        (["--from", LEAP_DAYS[0], "--until", LEAP_DAYS[1], "--lateness-limit", "0"], "a duration above zero"),
        (
            ["--from", LEAP_DAYS[0], "--until", LEAP_DAYS[1], "--output", "missing/out.ndjson"],
            "missing/out.ndjson",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_simulated(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    finished = daybreak("simulate", "--people", str(PEOPLE), *arguments, settings={}, cwd=tmp_path)
    assert finished.returncode != 0
    assert not finished.stdout
    assert complaint in finished.stderr.decode()
    assert "Traceback" not in finished.stderr.decode()


def test_a_file_that_is_no_file_of_people_is_refused(tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("name;town\n", "utf-8")
    finished = daybreak(
        "simulate", "--people", str(people), "--from", LEAP_DAYS[0], "--until", LEAP_DAYS[1],
        settings={}, cwd=tmp_path,
    )  # fmt: skip
    assert finished.returncode == 65
    assert "the header lacks the columns" in finished.stderr.decode()
    assert finished.stderr.count(b"\n") == 1
