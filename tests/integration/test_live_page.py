"""The live page and the overview it asks for: complete, cheap to ask again, and discreet."""

from __future__ import annotations

import re
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from scheduler.clock import SettableClock
from scheduler.jobs.run import JobRunner
from scheduler.store.job_runs import Trigger
from tests.fixtures.api import api_client, problem
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import ScriptedProvider

OVERVIEW = "/api/v1/overview"
STATIC = Path(__file__).parents[2] / "api" / "static"
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def deliver_due(pipeline: Pipeline) -> None:
    for _ in range(pipeline.enqueue()):
        pipeline.deliverer(ScriptedProvider()).deliver(pipeline.lease(), Signal())


def overview(client: FlaskClient) -> dict[str, Any]:
    body: dict[str, Any] = client.get(OVERVIEW).get_json()
    return body


def test_the_page_may_load_and_run_only_what_comes_from_here(client: FlaskClient) -> None:
    with client.get("/") as page:
        assert (page.status_code, page.mimetype) == (200, "text/html")
        policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_all_that_the_page_names_is_there(client: FlaskClient) -> None:
    with client.get("/") as page:
        named = re.findall(r'(?:src|href)="(/[^"]*)"', page.get_data(as_text=True))
    assert {"/static/live.css", "/static/live.js", "/static/world.svg", OVERVIEW} <= set(named)
    for address in named:
        with client.get(address) as answer:
            assert answer.status_code == 200


@pytest.mark.parametrize("name", ["live.html", "live.css", "live.js", "world.svg", "favicon.svg"])
def test_nothing_comes_from_another_host_or_runs_inline(name: str) -> None:
    source = (STATIC / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?:)?//[\w-]+\.\w|@import|innerHTML|eval\(", source)
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", source)


def test_the_script_finds_every_element_it_asks_for() -> None:
    asked = set(re.findall(r'byId\("([\w-]+)"\)', (STATIC / "live.js").read_text("utf-8")))
    present = set(re.findall(r'id="([\w-]+)"', (STATIC / "live.html").read_text("utf-8")))
    assert asked <= present


def test_an_empty_system_has_an_overview(client: FlaskClient) -> None:
    body = overview(client)
    assert (body["sent"], body["coming"], body["zones"]) == ([], [], [])
    assert [job["job"] for job in body["jobs"]] == ["precalculate", "enqueue", "recover"]
    assert body["totals"]["users"] == 0


def test_the_overview_shows_what_went_out_and_what_comes(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    pipeline.add_people(1, first_name="Aroha", last_name="Ngata")
    pipeline.add_due_people(1, first=1, timezone="Africa/Lagos", preferred_time=time(12))
    JobRunner(pipeline.engine, pipeline.clock).run("recover", lambda: {"expired": 0}, Trigger.START)
    coming = overview(client)["coming"]
    assert coming[0] | {"due_at": "2027-03-01T09:00:00Z", "local_time": "09:00", "messages": 1} == coming[0]
    deliver_due(pipeline)
    clock.advance(2 * SECOND)
    body = overview(client)
    assert (
        body["sent"][0]
        | {
            "person": "Aroha N.",
            "timezone": "UTC",
            "local_time": "09:00",
            "greeting": "Happy birthday",
            "channel": "email",
            "lateness_seconds": 5.2,
        }
        == body["sent"][0]
    )
    assert body["zones"][0] == {
        "timezone": "Africa/Lagos",
        "utc_offset_minutes": 60,
        "latitude": 6.45,
        "longitude": 3.4,
    }
    assert body["jobs"][2]["last"]["state"] == "succeeded"
    assert body["jobs"][2]["next_at"] == "2027-03-01T09:10:00Z"


def test_nobody_is_named_in_full_and_no_address_is_shown(client: FlaskClient, pipeline: Pipeline) -> None:
    pipeline.add_due_people(2, last_name="Ngata")
    deliver_due(pipeline)
    answer = client.get(OVERVIEW).text
    assert "Ann0 N." in answer
    assert "Ngata" not in answer
    assert "@" not in answer
    assert "+49" not in answer


def test_who_has_it_already_is_told_so_and_hears_the_time_all_the_same(
    client: FlaskClient, clock: SettableClock
) -> None:
    tag = client.get(OVERVIEW).headers["ETag"]
    clock.advance(SECOND)
    again = client.get(OVERVIEW, headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Daybreak-Now"] == "2027-03-01T09:00:01.000+00:00"


def test_the_database_is_asked_once_a_second_however_many_look(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    before = client.get(OVERVIEW).headers["ETag"]
    pipeline.add_people(1)
    assert client.get(OVERVIEW).headers["ETag"] == before
    clock.advance(SECOND)
    assert client.get(OVERVIEW).headers["ETag"] != before


def test_a_failed_read_is_tried_again_at_once(
    client: FlaskClient, engine: Engine, pipeline: Pipeline
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE batches RENAME TO away"))
    problem(client.get(OVERVIEW), 500)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO batches"))
    assert client.get(OVERVIEW).status_code == 200


def test_an_unknown_parameter_is_refused(client: FlaskClient) -> None:
    problem(client.get(f"{OVERVIEW}?tenant=2"), 400)
