import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.jobs.run import JobRunner
from scheduler.store.database import create_database_engine
from scheduler.store.job_runs import Trigger
from tests.fixtures.api import OPEN, api_client, body_of, problem


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def test_a_system_in_order_says_so_and_when_its_jobs_ran(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    JobRunner(engine, clock).run("precalculate", lambda: {"added": 3}, Trigger.MANUAL)
    assert body_of(client.get("/health/live")) == {"status": "ok"}
    assert body_of(client.get("/health/ready")) == {"status": "ok"}
    body = body_of(client.get("/health"))
    assert (body["status"], body["database"]) == ("ok", "ok")
    assert body["schema"]["revision"]
    assert body["jobs"]["precalculate"] == {
        "state": "succeeded",
        "trigger": "manual",
        "planned_at": "2027-03-01T12:00:00Z",
        "started_at": "2027-03-01T12:00:00Z",
        "finished_at": "2027-03-01T12:00:00Z",
        "counts": {"added": 3},
    }
    assert body["jobs"]["enqueue"] is None


def test_a_database_of_another_release_is_not_ready(client: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert client.get("/health/live").status_code == 200
    for path in ("/health/ready", "/health"):
        found = problem(client.get(path), 503)
        assert found["type"] == "/problems/not-ready"
        assert found["database"] == "ok"
        assert found["schema"]["revision"] == "0000"


def test_without_a_database_the_process_lives_and_is_not_ready(clock: SettableClock) -> None:
    away = create_database_engine(
        "postgresql://nobody@127.0.0.1:1/none", pool_size=1, application_name="daybreak-tests"
    )
    client = create_app(OPEN, away, clock).test_client()
    assert body_of(client.get("/health/live")) == {"status": "ok"}
    for path in ("/health/ready", "/health"):
        response = client.get(path)
        assert problem(response, 503)["database"] == "unavailable"
        assert response.headers["Retry-After"]
