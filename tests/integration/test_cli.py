"""The command line: what it prints, what it exits with, and what it says when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from deploy.cli import main
from deploy.embedded import EmbeddedServer
from scheduler.store import job_runs, locks, users
from tests.fixtures.command_line import PEOPLE, data_folder, daybreak

BAD_ROWS = (
    b"external_id,first_name,timezone,birth_date\n"
    b"good,Ada,Europe/London,1815-12-10\n"
    b"bad,Bob,Europe/Londn,1900-02-29\n"
)


pytestmark = pytest.mark.usefixtures("command_alone")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, database_url: str) -> "Run":
    return Run(database_url)


class Run:
    """Calls the command in this process, on the test's database."""

    def __init__(self, database_url: str) -> None:
        self.settings = {"DAYBREAK_DATABASE_URL": database_url}

    def __call__(self, *arguments: str, stdin: bytes | None = None, **settings: str) -> Result:
        return CliRunner().invoke(main, list(arguments), input=stdin, env=self.settings | settings)


def test_help_names_every_command_and_loads_none() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in (
        "up",
        "scheduler",
        "worker",
        "api",
        "db",
        "users",
        "jobs",
        "dead-letters",
        "settings",
        "simulate",
        "demo",
    ):
        assert f"\n  {name} " in result.output
    program = "import sys, deploy.cli; sys.exit('sqlalchemy' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=PEOPLE.parents[2]).returncode == 0


@pytest.mark.parametrize(
    "command",
    ["up", "scheduler", "worker", "api", "db", "users import", "jobs run", "jobs status", "settings"],
)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith("daybreak, version 0.")


def test_settings_are_shown_with_source_and_without_secrets(run: Run) -> None:
    text_result = run("settings", DAYBREAK_API_PORT="8123")
    assert "DAYBREAK_API_PORT = 8123  (environment)\n    Port the API listens on." in text_result.output
    assert "DAYBREAK_DATABASE_URL = ********  (environment)" in text_result.output
    described = {each["name"]: each for each in json.loads(run("settings", "--json").stdout)}
    assert described["database_url"]["value"] == "********"
    assert described["horizon"] == {
        "name": "horizon",
        "variable": "DAYBREAK_HORIZON",
        "value": "PT48H",
        "source": "default",
        "meaning": "How far ahead of now messages are planned.",
    }


@pytest.mark.parametrize("command", ["up", "scheduler", "db status", "jobs status", "settings"])
def test_a_wrong_setting_is_one_line_and_exit_code_78(run: Run, command: str) -> None:
    result = run(*command.split(), DAYBREAK_API_PORT="eighty")
    assert result.exit_code == 78
    assert result.output == "daybreak: DAYBREAK_API_PORT: got 'eighty'; takes a port from 1 to 65535\n"


def test_a_database_that_does_not_answer_is_one_line_with_what_to_do(run: Run) -> None:
    result = run("jobs", "status", DAYBREAK_DATABASE_URL="postgres://daybreak:secret@127.0.0.1:1/people")
    assert result.exit_code == 69
    (line,) = result.output.splitlines()
    assert line.startswith("daybreak: the database 'people' at 127.0.0.1:1 cannot be used: ")
    assert "DAYBREAK_DATABASE_URL" in line
    assert "secret" not in line


def test_an_empty_database_asks_for_an_upgrade_and_gets_it(
    run: Run, database_server: EmbeddedServer, request: pytest.FixtureRequest
) -> None:
    name = "cli_empty"
    run.settings["DAYBREAK_DATABASE_URL"] = database_server.create_database(name)
    request.addfinalizer(lambda: database_server.drop_database(name))

    refused = run("jobs", "status")
    assert refused.exit_code == 78
    assert "run `daybreak db upgrade`" in refused.output
    before = run("db", "status", "--json")
    assert before.exit_code == 1
    assert json.loads(before.stdout)["current"] is None

    assert run("db", "upgrade").exit_code == 0
    assert run("db", "upgrade").exit_code == 0
    after = run("db", "status", "--json")
    assert after.exit_code == 0
    assert json.loads(after.stdout)["up_to_date"] is True
    assert "daybreak:***@" in json.loads(after.stdout)["database"]
    assert run("jobs", "status").exit_code == 0


def test_a_database_that_a_newer_release_has_used_is_left_alone(run: Run, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in (["jobs", "status"], ["db", "upgrade"]):
        result = run(*command)
        assert result.exit_code == 78
        assert "a newer Daybreak has used it" in result.output


def test_people_are_imported_with_a_summary(run: Run, engine: Engine) -> None:
    result = run("users", "import", str(PEOPLE))
    assert result.exit_code == 0
    assert result.output.startswith("300 rows: 300 created, 0 updated, 0 unchanged, 0 rejected\n")
    assert "columns without meaning here, left out: country, city\nmessages: " in result.output
    with engine.connect() as connection:
        assert users.count(connection, 1) == 300
    assert not PEOPLE.with_name("people.csv.rejected.csv").exists()


def test_rejected_rows_are_listed_in_a_file_beside_and_the_good_ones_kept(
    run: Run, engine: Engine, tmp_path: Path
) -> None:
    file = tmp_path / "some people.csv"
    file.write_bytes(BAD_ROWS)
    result = run("users", "import", str(file))
    assert result.exit_code == 1
    assert "2 rows: 1 created, 0 updated, 0 unchanged, 1 rejected" in result.output
    assert "did you mean 'Europe/London'?" in result.output
    assert (tmp_path / "some people.csv.rejected.csv").read_text() == (
        "line,external_id,reasons\n"
        "3,bad,/timezone: unknown time zone 'Europe/Londn'; did you mean 'Europe/London'?; "
        "/dates/birthday: must be a real date written YYYY-MM-DD\n"
    )
    with engine.connect() as connection:
        assert users.find_external(connection, 1, "good") is not None


def test_standard_input_and_json_serve_programs(run: Run, tmp_path: Path) -> None:
    line = b'{"external_id": "u1", "first_name": "Ada", "timezone": "UTC"}\n{}\n'
    rejected = tmp_path / "refused.csv"
    arguments = ["users", "import", "-", "--format", "ndjson", "--rejected", str(rejected), "--json"]
    result = run(*arguments, stdin=line)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "read": 2,
        "created": 1,
        "updated": 0,
        "unchanged": 0,
        "without_address": 1,
        "rejected": 1,
        "rejected_file": str(rejected),
        "replanned": {"planned": 0, "moved": 0, "kept": 0, "removed": 0},
        "ignored_columns": [],
    }
    assert rejected.read_text().startswith("line,external_id,reasons\n2,,")


@pytest.mark.parametrize("name", ["people.ndjson", "people.jsonl"])
def test_the_name_of_a_file_tells_its_form(run: Run, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"external_id": "u1", "first_name": "Ada", "timezone": "UTC"}\n')
    assert "1 created" in run("users", "import", str(file)).output


def test_a_file_that_cannot_be_read_says_why(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text("name,zone\nAda,UTC\n")
    unusable = run("users", "import", str(file))
    assert unusable.exit_code == 65
    assert "names.csv: the header lacks the columns external_id, first_name, timezone" in unusable.output
    assert run("users", "import", str(tmp_path / "absent.csv")).exit_code == 2


def test_a_list_of_rejected_rows_that_cannot_be_written_says_so(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_bytes(BAD_ROWS)
    result = run("users", "import", str(file), "--rejected", str(tmp_path / "absent" / "list.csv"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.output


def test_a_job_runs_by_hand_and_is_recorded(run: Run, engine: Engine) -> None:
    run("users", "import", str(PEOPLE))
    result = run("jobs", "run", "precalculate", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["job"], answer["ran"]) == ("precalculate", True)
    with engine.connect() as connection:
        recorded = job_runs.latest(connection, ["precalculate"])["precalculate"]
    assert recorded.trigger is job_runs.Trigger.MANUAL
    assert dict(recorded.counts) == answer["counts"]
    assert run("jobs", "run", "recover").output.startswith("recover: ")
    assert run("jobs", "run", "enqueue").output.startswith("enqueue: ")
    assert run("jobs", "run", "tidy").exit_code == 2


def test_a_job_that_a_scheduler_is_running_is_left_to_it(run: Run, engine: Engine) -> None:
    with locks.job_lock(engine, "enqueue") as held:
        assert held
        result = run("jobs", "run", "enqueue")
        as_json = run("jobs", "run", "enqueue", "--json")
    assert (result.exit_code, as_json.exit_code) == (75, 75)
    assert result.output == "enqueue: nothing done, a scheduler is running it at this moment\n"
    assert json.loads(as_json.stdout) == {"job": "enqueue", "ran": False, "counts": {}}


def test_the_status_of_jobs_shows_last_and_next_runs(run: Run) -> None:
    run("jobs", "run", "recover")
    lines = run("jobs", "status", DAYBREAK_RECOVER_CRON="*/5 * * * *").output.splitlines()
    assert [line.split()[0] for line in lines] == ["JOB", "precalculate", "enqueue", "recover"]
    assert "never" in lines[1]
    assert "*/5 * * * *" in lines[3]
    assert "manual" in lines[3]
    states = {state["job"]: state for state in json.loads(run("jobs", "status", "--json").stdout)}
    assert states["enqueue"]["last_run"] is None
    assert states["recover"]["last_run"]["state"] == "succeeded"
    assert states["precalculate"]["cron"] == "0 0 * * *"


def test_without_an_address_a_command_brings_its_own_database_and_keeps_the_data(tmp_path: Path) -> None:
    with data_folder() as folder:
        settings = {"DATA_DIR": str(folder)}
        imported = daybreak("users", "import", str(PEOPLE), "--json", settings=settings, cwd=tmp_path)
        assert imported.returncode == 0, imported.stderr
        assert b"bringing the database's schema from nothing to" in imported.stderr
        assert json.loads(imported.stdout)["created"] == 300
        again = daybreak(
            "users", "import", "-", "--json", settings=settings, cwd=tmp_path, stdin=PEOPLE.read_bytes()
        )
        assert json.loads(again.stdout)["unchanged"] == 300
        assert again.stderr == b""
        assert not (folder / "postgresql" / "postmaster.pid").exists()
