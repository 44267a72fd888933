"""The jobs: when they ran and run next, and running one from outside."""

from datetime import timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.models.jobs import JobListAnswer, OneJobAnswer, StartedJobAnswer
from scheduler.clock import SettableClock
from scheduler.store import job_runs, locks
from scheduler.store.job_runs import Trigger
from tests.fixtures.api import add_user, api_client, body_of, places, problem
from tests.fixtures.pipeline import NINE
from tests.fixtures.statements import executed, nodes, plan_of
from tests.fixtures.waiting import wait_until

JOBS: Final = "/api/v1/jobs"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def last_run(client: FlaskClient, job: str) -> dict[str, Any] | None:
    [found] = [each for each in body_of(client.get(JOBS))["jobs"] if each["name"] == job]
    run: dict[str, Any] | None = found["last_run"]
    return run


def test_jobs_say_when_they_run_next(client: FlaskClient) -> None:
    listed = body_of(client.get(JOBS))
    JobListAnswer.model_validate(listed)
    assert [(each["name"], each["next_run_at"], each["last_run"]) for each in listed["jobs"]] == [
        ("precalculate", "2027-03-02T00:00:00Z", None),
        ("enqueue", "2027-03-01T09:01:00Z", None),
        ("recover", "2027-03-01T09:10:00Z", None),
    ]


@pytest.mark.parametrize(
    ("job", "counted"), [("precalculate", "added"), ("enqueue", "enqueued"), ("recover", "planned")]
)
def test_a_job_is_run_from_outside(client: FlaskClient, engine: Engine, job: str, counted: str) -> None:
    add_user(client, dates={"birthday": "1990-03-02"}, timezone="UTC")
    answer = client.post(f"{JOBS}/{job}/run")
    assert answer.status_code == 202
    StartedJobAnswer.model_validate(body_of(answer))
    assert body_of(answer) == {"job": job, "started_at": "2027-03-01T09:00:00Z"}
    wait_until(lambda: (last_run(client, job) or {}).get("state") == "succeeded", "the run")
    run = last_run(client, job)
    assert run is not None
    assert (run["trigger"], counted in run["counts"], run["error"]) == ("manual", True, None)
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT actor, action, subject FROM audit_log WHERE kind = 'job'")
        ).all()
    assert [tuple(row) for row in rows] == [("anonymous", "run", job)]


def test_a_job_that_runs_elsewhere_is_not_run(client: FlaskClient, engine: Engine) -> None:
    with locks.job_lock(engine, "recover") as held:
        assert held
        problem(client.post(f"{JOBS}/recover/run"), 409)
    assert last_run(client, "recover") is None


def test_a_run_that_fails_is_on_record(client: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE delivery_events RENAME TO gone"))
    assert client.post(f"{JOBS}/recover/run").status_code == 202
    wait_until(lambda: (last_run(client, "recover") or {}).get("state") == "failed", "the run")
    run = last_run(client, "recover")
    assert run is not None
    assert "UndefinedTable" in run["error"]


def test_a_run_that_cannot_begin_is_told(client: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE job_runs RENAME TO gone"))
    problem(client.post(f"{JOBS}/recover/run"), 500)


def test_runs_are_paged_the_newest_first(client: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        for number in range(25):
            at = NINE + timedelta(minutes=number // 2)  # two at one instant
            run_id = job_runs.begin(
                connection, "enqueue", Trigger.CRON, planned_at=at, started_at=at, host="h"
            )
            job_runs.finish(connection, run_id, {"enqueued": number}, finished_at=at)
    found: list[int] = []
    query: dict[str, object] = {"limit": 10}
    while True:
        page = body_of(client.get(f"{JOBS}/enqueue", query_string=query))
        OneJobAnswer.model_validate(page)
        found += [run["counts"]["enqueued"] for run in page["job"]["runs"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == list(reversed(range(25)))
    assert body_of(client.get(f"{JOBS}/recover"))["job"]["runs"] == []


def test_a_job_that_there_is_not_is_not_found(client: FlaskClient) -> None:
    problem(client.get(f"{JOBS}/lunch"), 404)
    problem(client.post(f"{JOBS}/lunch/run"), 404)
    assert places(problem(client.get(f"{JOBS}/enqueue?cursor=am9iLXJ1bjp4"), 400)) == ["cursor"]


def test_the_history_is_read_by_its_index(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO job_runs (job, trigger, planned_at, started_at, finished_at, state, counts, host)
            SELECT CASE WHEN n % 1000 = 0 THEN 'precalculate' ELSE 'enqueue' END, 'cron', at, at, at, 'succeeded',
                   '{}', 'h'
            FROM (SELECT n, :nine + n * interval '1 minute' AS at FROM generate_series(1, 50000) n) AS runs"""),
            {"nine": NINE},
        )
        connection.execute(text("ANALYZE job_runs"))
    with engine.connect() as connection:
        [(statement, values)] = executed(
            connection,
            lambda connection: job_runs.page(
                connection, "precalculate", before=(NINE + timedelta(days=30), 1), most=11
            ),
        )
        plan = list(nodes(plan_of(connection, statement, values)))
    assert {node["Index Name"] for node in plan if "Index Name" in node} == {"job_runs_by_job"}
