"""`daybreak suppressions`: what it prints, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy.cli import main

pytestmark = pytest.mark.usefixtures("command_alone")


class Run:
    """Calls `daybreak suppressions` in this process, on the test's database."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(
            main, ["suppressions", *arguments], input=stdin, env={"DAYBREAK_DATABASE_URL": self._url}
        )


@pytest.fixture
def run(database_url: str) -> Run:
    return Run(database_url)


@pytest.mark.parametrize("command", ["", "list", "add", "remove", "import"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, ["suppressions", *command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_an_address_comes_shows_and_goes(run: Run) -> None:
    assert run("list").output == "no addresses\n"
    assert run("add", "email", "Ann@Example.org", "--reason", "complained").output == "added\n"
    again = run("add", "email", "ann@example.org")
    assert again.exit_code == 0
    assert again.output.startswith("was there already: complained, since 20")
    heading, line = run("list").output.splitlines()
    assert heading.split()[0] == "ID"
    assert line.endswith("email    complained  command line  ann@example.org")
    assert run("remove", "email", "ANN@example.org").output == "removed\n"
    gone = run("remove", "email", "ann@example.org")
    assert (gone.exit_code, gone.output) == (1, "was not on the list\n")


def test_a_wrong_address_is_refused_without_repeating_it(run: Run) -> None:
    result = run("add", "email", "canary")
    assert result.exit_code == 65
    assert result.output == "daybreak: ADDRESS: must be an e-mail address such as name@example.com\n"
    assert run("add", "in_app", "x").exit_code == 2


def test_the_list_goes_by_pages_and_filters(run: Run) -> None:
    for number in range(3):
        run("add", "email", f"a{number}@example.org")
    run("add", "sms", "+442071838750", "--reason", "bounced")
    first = json.loads(run("list", "--limit", "2", "--json").stdout)
    rest = json.loads(run("list", "--after", str(first["next_after"]), "--json").stdout)
    listed = [each["address"] for each in first["suppressions"] + rest["suppressions"]]
    assert listed == ["a0@example.org", "a1@example.org", "a2@example.org", "+442071838750"]
    assert rest["next_after"] is None
    assert f"--after {first['next_after']}" in run("list", "--limit", "2").output
    assert len(json.loads(run("list", "--channel", "sms", "--json").stdout)["suppressions"]) == 1
    assert len(json.loads(run("list", "--reason", "manual", "--json").stdout)["suppressions"]) == 3


def test_a_file_is_imported_once_and_its_wrong_lines_are_listed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bounces.csv"
    file.write_bytes(
        b"email,created\n"
        + b"".join(b"a%d@example.org,1\n" % number for number in range(4_500))
        + b"A7@Example.org,2\ncanary,3\n"
    )
    result = run("import", str(file), "--reason", "bounced")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "4,502 addresses: 4,500 added, 1 known already, 1 rejected",
        "  line 4503: must be an e-mail address such as name@example.com",
        f"all rejected rows, with the reasons: {file}.rejected.csv",
    ]
    rejected = Path(f"{file}.rejected.csv").read_text()
    assert rejected == "line,reasons\n4503,must be an e-mail address such as name@example.com\n"
    again = json.loads(run("import", str(file), "--json").stdout)
    assert (again["added"], again["known"], again["rejected"]) == (0, 4_501, 1)
    assert (
        len(
            json.loads(run("list", "--reason", "bounced", "--limit", "1000", "--json").stdout)["suppressions"]
        )
        == 1000
    )


def test_standard_input_and_other_channels(run: Run) -> None:
    result = run("import", "-", "--channel", "sms", stdin=b"+442071838750\n")
    assert (result.exit_code, result.stdout) == (0, "1 addresses: 1 added, 0 known already, 0 rejected\n")


def test_a_file_that_cannot_be_read_says_why(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "wide.csv"
    file.write_text("a@example.org\n", encoding="utf-16")
    result = run("import", str(file))
    assert result.exit_code == 65
    assert f"{file}: the file is not UTF-8 text" in result.output
    assert run("import", str(tmp_path / "absent.csv")).exit_code == 2
