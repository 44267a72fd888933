"""`daybreak dead-letters`: what it prints, what it asks, and what it exits with."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from deploy.cli import main
from scheduler.clock import SettableClock
from tests.fixtures.dead_letters import kill, kill_by
from tests.fixtures.pipeline import NINE, Pipeline

pytestmark = pytest.mark.usefixtures("command_alone")


@pytest.fixture
def pipeline(engine: Engine) -> Pipeline:
    return Pipeline(engine, SettableClock(NINE))


class Run:
    """Calls `daybreak dead-letters` in this process, on the test's database."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(
            main, ["dead-letters", *arguments], input=stdin, env={"DAYBREAK_DATABASE_URL": self._url}
        )


@pytest.fixture
def run(database_url: str) -> Run:
    return Run(database_url)


@pytest.mark.parametrize("command", ["", "list", "show", "replay", "discard"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, ["dead-letters", *command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_the_list_shows_the_newest_first_and_counts(run: Run, pipeline: Pipeline) -> None:
    assert run("list").output == "0 dead letters\n"
    first, second, third = kill(pipeline, 3)
    lines = run("list", "--limit", "2").output.splitlines()
    assert lines[0].split()[:3] == ["ID", "DIED", "(UTC)"]
    assert lines[1].split() == (
        f"3 2027-03-01T09:00:05Z 1.{third}.20270301.0.email birthday http_400 scripted 1 the provider said no".split()
    )
    assert lines[3:] == ["3 dead letters: 3 http_400", "the next page: --before 2"]
    assert f"1.{first}.2027" in run("list", "--before", "2").output
    found = json.loads(run("list", "--user", str(second), "--json").stdout)
    assert [letter["id"] for letter in found["dead_letters"]] == [2]
    assert (found["counts"], found["next_before"]) == ({"http_400": 1}, None)


def test_one_letter_is_shown_with_its_attempts(run: Run, pipeline: Pipeline) -> None:
    kill(pipeline, 1)
    output = run("show", "1").output
    assert "last error:      the provider said no\n" in output
    assert "message is:      dead, due at 2027-03-01T09:00:00Z\n" in output
    assert output.splitlines()[-1].split()[-6:] == ["permanent", "http_400", "the", "provider", "said", "no"]
    assert json.loads(run("show", "1", "--json").stdout)["attempts"][0]["number"] == 1
    missing = run("show", "2")
    assert (missing.exit_code, missing.output) == (1, "daybreak: no dead letter '2'\n")


def test_one_letter_is_replayed_without_a_question(run: Run, pipeline: Pipeline) -> None:
    kill(pipeline, 2)
    result = run("replay", "1")
    assert result.exit_code == 0
    assert result.output.startswith("replayed 1, the last of them due at 20")
    assert pipeline.states() == {"retrying": 1, "dead": 1}


def test_several_letters_are_replayed_after_a_question(run: Run, pipeline: Pipeline) -> None:
    kill(pipeline, 3)
    for answer in ("n\n", ""):
        refused = run("replay", "--all", "--rate", "7", stdin=answer)
        assert refused.exit_code == 1
        assert "Replay 3 dead letters at 7 a second?" in refused.output
    assert pipeline.states() == {"dead": 3}
    assert run("replay", "1", "2", stdin="y\n").exit_code == 0
    assert pipeline.states() == {"dead": 1, "retrying": 2}


def test_a_replay_for_programs_asks_nothing_and_says_what_it_did(run: Run, pipeline: Pipeline) -> None:
    kill(pipeline, 3)
    before = datetime.now(UTC)
    result = run("replay", "--category", "http_400", "--rate", "1", "--yes", "--json")
    done = json.loads(result.stdout)
    assert (done["replayed"], done["outcome_unknown"], done["settled"]) == (3, 0, 0)
    assert 2 <= (datetime.fromisoformat(done["last_due_at"]) - before).total_seconds() < 60
    assert json.loads(run("replay", "--all", "--json").stdout)["last_due_at"] is None


def test_unknown_outcomes_are_warned_of(run: Run, pipeline: Pipeline) -> None:
    kill_by(pipeline, ["outcome_unknown"] * 2)
    result = run("replay", "--all", "--yes")
    assert "2 of them died of outcome_unknown: the provider may have accepted them already." in result.stderr
    assert result.stdout.startswith("replayed 2")


def test_letters_are_discarded_with_a_reason(run: Run, pipeline: Pipeline) -> None:
    kill(pipeline, 3)
    assert run("discard", "1", "--reason", "no such mailbox").output == "discarded 1\n"
    assert "Discard 2 dead letters?" in run("discard", "--all", "--reason", "over", stdin="n\n").output
    assert json.loads(run("discard", "--all", "--reason", "over", "--yes", "--json").stdout) == {
        "discarded": 2
    }
    assert "no such mailbox" in run("list", "--discarded").output
    assert pipeline.states() == {"dead": 3}
    assert run("replay", "--all", "--discarded", "--yes").stdout.startswith("replayed 3")


def test_an_id_that_is_no_open_letter_is_told(run: Run, pipeline: Pipeline) -> None:
    kill(pipeline, 2)
    result = run("replay", "1", "7", "--yes")
    assert result.exit_code == 1
    assert result.stderr == "daybreak: 1 of the ids given is not an open dead letter's\n"
    assert result.stdout.startswith("replayed 1")
    assert run("discard", "1", "--reason", "late").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "replay",
        "replay --discarded",
        "replay 1 --all",
        "replay 1 --category x",
        "replay --all --category x",
        "replay 0",
        "replay --all --rate 0",
        "replay --all --died-from yesterday",
        "discard --all",
        "discard --reason x",
        "discard --all --reason=",
        "list --channel pigeon",
    ],
)
def test_wrong_usage_changes_nothing(run: Run, pipeline: Pipeline, arguments: str) -> None:
    kill(pipeline, 1)
    assert run(*arguments.split()).exit_code == 2
    assert pipeline.states() == {"dead": 1}


def test_an_unknown_occasion_is_one_line(run: Run) -> None:
    result = run("list", "--occasion", "easter")
    assert (result.exit_code, result.output) == (1, "daybreak: no occasion 'easter'\n")
