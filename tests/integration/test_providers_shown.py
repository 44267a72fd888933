"""Providers and their circuits, as the workers tell them and as they are shown by API and command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from api.app import create_app
from deploy.cli import main
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.settings import Settings
from scheduler.store import circuits
from scheduler.store.circuits import StoredCircuit
from tests.fixtures.api import body_of
from tests.fixtures.command_line import daybreak
from tests.fixtures.events import logged_events
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import failed
from tests.fixtures.waiting import wait_until
from worker.alerts import Alerts
from worker.breaker import Circuit, CircuitPolicy
from worker.channels.port import Accepted, FailureKind
from worker.circuit_reporter import FORGET_AFTER, CircuitReporter, Signals

REFUSED = failed(FailureKind.PROVIDER, "http_401")
PROVIDERS = """
[providers.main]
kind = "sendgrid"
api_key = { env = "KEY" }
from_address = "hello@example.org"
messages_per_second = 100
concurrency = 64
[providers.backup]
kind = "outbox"
[channels.email]
providers = ["main", "backup"]
unknown_outcome = "hold"
"""
BROKEN = PROVIDERS.replace("100", '"fast"').replace("channels.email", "channels.emial")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "providers.toml"
    file.write_text(PROVIDERS)
    return file


def told(engine: Engine) -> list[StoredCircuit]:
    with engine.connect() as connection:
        return circuits.all_circuits(connection)


Start = Callable[..., CircuitReporter]


@pytest.fixture
def report(engine: Engine, clock: SettableClock) -> Iterator[Start]:
    """Make the reporter of a process; its thread is started by the test that needs it."""
    with ExitStack() as made:

        def make(process: str, *reported: Circuit, without: tuple[Channel, ...] = ()) -> CircuitReporter:
            signals = Signals(process, Alerts(None))
            for circuit in reported:
                circuit._listener = signals
            reporter = CircuitReporter(engine, clock, process, reported, without, signals)
            made.callback(reporter.close)
            return reporter

        yield make


def test_circuits_are_told_and_told_again(engine: Engine, clock: SettableClock, report: Start) -> None:
    opened = clock.now()
    main, backup = (Circuit(name, clock, CircuitPolicy()) for name in ("main", "backup"))
    reporter = report("a:1", main, backup)
    main.note(REFUSED, 0.0)
    clock.advance(timedelta(seconds=31))
    assert main.begin_probe()
    assert reporter.report()
    now = clock.now()
    assert told(engine) == [
        StoredCircuit("a:1", "backup", "closed", opened, now, 0, None),
        StoredCircuit("a:1", "main", "half-open", opened, now, 1, "http_401"),
    ]
    main.end_probe(Accepted(now), 0.0)
    clock.advance(timedelta(seconds=1))
    assert reporter.report()
    assert told(engine)[1] == StoredCircuit("a:1", "main", "closed", now, clock.now(), 1, "http_401")


def test_a_transition_is_told_at_once_and_an_orderly_end_forgets(
    engine: Engine, report: Start, clock: SettableClock
) -> None:
    main = Circuit("main", clock, CircuitPolicy())
    reporter = report("a:1", main)
    reporter.start()
    main.note(REFUSED, 0.0)
    wait_until(lambda: [each.state for each in told(engine)] == ["open"], "the opening is told")
    reporter.close()
    assert told(engine) == []


def test_processes_that_fell_silent_are_forgotten(
    engine: Engine, clock: SettableClock, report: Start
) -> None:
    report("dead:1", Circuit("main", clock, CircuitPolicy())).report()
    clock.advance(FORGET_AFTER)
    alive = report("a:1", Circuit("main", clock, CircuitPolicy()))
    alive.report()
    assert [each.process for each in told(engine)] == ["a:1", "dead:1"]
    clock.advance(timedelta(seconds=1))
    alive.report()
    assert [each.process for each in told(engine)] == ["a:1"]


def test_a_database_that_fails_disturbs_nobody(engine: Engine, clock: SettableClock, report: Start) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE circuits RENAME TO gone"))
    main = Circuit("main", clock, CircuitPolicy())
    reporter = report("a:1", main)
    assert not reporter.report()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO circuits"))
    assert reporter.report()


def test_batches_that_wait_for_a_channel_without_provider_are_told_once(
    engine: Engine, clock: SettableClock, report: Start
) -> None:
    clock.set(NINE)
    pipeline = Pipeline(engine, clock)
    pipeline.add_due_people(1)
    pipeline.enqueue()
    reporter = report("a:1", Circuit("main", clock, CircuitPolicy()), without=(Channel.EMAIL, Channel.SMS))
    with logged_events("channel_") as events:
        reporter.report()
        assert events == []  # another worker may have a provider for it
        clock.advance(timedelta(seconds=61))
        for _ in range(2):
            reporter.report()
    assert [(event.name, event.level, event.fields["channel"]) for event in events] == [
        ("channel_without_provider", "ERROR", "email")
    ]


def test_the_api_shows_routes_limits_and_circuits_but_no_secret(
    engine: Engine, clock: SettableClock, report: Start, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(api_authentication="none", providers_file=file).read_from({}, {"KEY": "canary-1"})
    client = create_app(settings, engine, clock).test_client()
    main = Circuit("main", clock, CircuitPolicy())
    main.note(REFUSED, 0.0)
    report("a:1", main).report()
    response = client.get("/api/v1/providers")
    assert "canary" not in response.text
    body = body_of(response)
    assert body["channels"][0] == {
        "channel": "email",
        "providers": ["main", "backup"],
        "unknown_outcome": "hold",
    }
    assert body["channels"][1] == {"channel": "sms", "providers": [], "unknown_outcome": None}
    first, *others = body["providers"]
    assert [each["name"] for each in others] == ["backup", "inbox"]
    assert first == {
        "name": "main",
        "kind": "sendgrid",
        "sandbox": False,
        "messages_per_second": 100.0,
        "concurrency": 64,
        "hold": None,
        "bound_messages": 0,
        "circuits": [
            {
                "process": "a:1",
                "state": "open",
                "since": "2027-03-01T12:00:00Z",
                "seen_at": "2027-03-01T12:00:00Z",
                "openings": 1,
                "category": "http_401",
            }
        ],
    }
    assert client.get("/api/v1/providers?x=1").status_code == 400


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str, file: Path) -> Run:
    for name in [name for name in os.environ if name.startswith("DAYBREAK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Run(
        {"DAYBREAK_DATABASE_URL": database_url, "DAYBREAK_PROVIDERS_FILE": str(file), "KEY": "canary-1"}
    )


class Run:
    """Calls `daybreak providers` in this process, on the test's database and file."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str) -> Result:
        result = CliRunner().invoke(main, ["providers", *arguments], env=self.environment)
        assert "canary" not in result.output
        return result


def test_the_command_shows_the_same(run: Run, engine: Engine, clock: SettableClock, report: Start) -> None:
    main_circuit = Circuit("main", clock, CircuitPolicy())
    main_circuit.note(REFUSED, 0.0)
    report("a:1", main_circuit).report()
    shown = run()
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["email", "main,", "backup", "hold"] in lines
    assert ["sms", "none:", "its", "messages", "wait"] in lines
    [line] = [line for line in lines if line[:1] == ["main"]]
    assert line[:5] == ["main", "sendgrid", "100", "64", "open"]
    assert "(http_401)" in line
    assert "silent" not in shown.output
    fields = json.loads(run("--json").output)
    assert fields["channels"]["email"] == {"providers": ["main", "backup"], "unknown_outcome": "hold"}
    assert fields["circuits"][0]["state"] == "open"
    with engine.begin() as connection:
        connection.execute(text("UPDATE circuits SET seen_at = timestamptz '2026-01-01 00:00:00+00'"))
    assert "open, silent since 00:00:00 UTC" in run().output


def test_the_check_needs_no_database_and_finds_wrong_options(run: Run, file: Path) -> None:
    run.environment["DAYBREAK_DATABASE_URL"] = ""
    assert run("--check").exit_code == 0
    file.write_text(PROVIDERS.replace("from_address", "form_address"))
    wrong = run("--check")
    assert (wrong.exit_code, wrong.output.count("\n")) == (78, 1)
    assert wrong.output.startswith("daybreak: provider main (sendgrid): ")
    file.write_text(PROVIDERS.replace("sendgrid", "sendgird"))
    assert "did you mean 'sendgrid'?" in run("--check").output


@pytest.mark.parametrize("command", [["settings"], ["worker"], ["providers", "--check"]])
def test_a_broken_file_ends_every_command_with_one_line(
    tmp_path: Path, file: Path, database_url: str, command: list[str]
) -> None:
    file.write_text(BROKEN)
    settings = {"PROVIDERS_FILE": str(file), "DATABASE_URL": database_url}
    ended = daybreak(*command, settings=settings, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (78, b"")
    [line] = ended.stderr.decode().splitlines()
    for part in (
        f"{file}: ",
        "providers.main.api_key: the environment variable KEY is not set",
        "providers.main.messages_per_second: takes a number",
        "channels.emial: there is no channel 'emial'; did you mean 'email'?",
    ):
        assert part in line


def test_a_worker_with_an_unknown_kind_ends_with_one_line(
    tmp_path: Path, file: Path, database_url: str
) -> None:
    file.write_text(PROVIDERS.replace("outbox", "outbocks").replace('{ env = "KEY" }', '"key"'))
    settings = {"PROVIDERS_FILE": str(file), "DATABASE_URL": database_url}
    ended = daybreak("worker", settings=settings, cwd=tmp_path)
    assert ended.returncode == 78
    assert ended.stderr.decode().splitlines()[-1] == (
        "provider backup: there is no kind 'outbocks'; did you mean 'outbox'?"
    )


def test_a_provider_is_held_and_resumed_by_command(run: Run, engine: Engine) -> None:
    assert run("hold", "main", "--reason", "moving").output == "main: on hold\n"
    assert "main is on hold since" in run().output
    [held] = json.loads(run("--json").output)["holds"]
    assert (held["provider"], held["held_by"], held["reason"]) == ("main", "cli", "moving")
    assert run("resume", "main").output == "main: resumed\n"
    assert run("resume", "main").output == "main: was not on hold\n"
    assert json.loads(run("--json").output)["holds"] == []
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT actor, action FROM audit_log ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("cli", "hold"), ("cli", "resume")]


def test_what_is_no_provider_is_not_held_by_command(run: Run) -> None:
    for arguments in (("hold", "nobody", "--reason", "x"), ("resume", "nobody")):
        result = run(*arguments)
        assert (result.exit_code, result.output.strip()) == (1, "daybreak: no provider 'nobody'")
    assert run("hold", "main").exit_code == 2
