"""`daybreak occasions`: what it prints, and what it exits with."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from deploy.cli import main
from scheduler.clock import SystemClock
from tests.fixtures.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("command_alone")


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["occasions", *arguments], env={"DAYBREAK_DATABASE_URL": url})


@pytest.mark.parametrize("command", ["", "list", "show", "pause", "resume"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, ["occasions", *command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_occasions_are_listed_and_shown(url: str) -> None:
    lines = run(url, "list").output.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["birthday", "yearly", "active", "email"],
        ["anniversary", "yearly", "active", "email"],
    ]
    assert [each["key"] for each in json.loads(run(url, "list", "--json").output)] == [
        "birthday",
        "anniversary",
    ]
    assert json.loads(run(url, "show", "birthday").output)["rule"]["date_name"] == "birthday"
    unknown = run(url, "show", "nobody")
    assert (unknown.exit_code, unknown.output) == (1, "daybreak: no occasion 'nobody'\n")


def test_a_pause_ends_with_a_word_on_its_backlog(url: str, engine: Engine) -> None:
    assert run(url, "pause", "birthday").output.startswith("birthday pauses since ")
    assert "paused" in run(url, "list").output
    Pipeline(engine, SystemClock()).add_people_due_now(3)
    assert json.loads(run(url, "show", "birthday").output)["backlog"]["due"] == 3
    refused = run(url, "resume", "birthday")
    assert refused.exit_code == 2
    assert "3 messages fell due in the pause" in refused.output
    assert run(url, "resume", "birthday", "--backlog", "skip").output == (
        "birthday goes on: 0 messages of the backlog to send, 3 skipped\n"
    )
    with engine.connect() as connection:
        actors = (
            connection.execute(text("SELECT actor FROM audit_log WHERE kind = 'occasion'")).scalars().all()
        )
    assert actors == ["system", "system"]
