"""Imports of all or nothing, and answers line by line: every rejected row, and how far it is."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

from api.imports import REJECTED_ROWS_SHOWN
from api.models.users import ImportAnswer
from scheduler.clock import SettableClock
from scheduler.domain.user import UserInput
from scheduler.importing import chunks
from scheduler.registry import Registry, WrittenUsers
from tests.fixtures.api import USERS, a_user, api_client, body_of, places, problem

CSV = "text/csv"
NDJSON = "application/x-ndjson"
HEADER = "external_id,first_name,timezone,email\n"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def row(number: int, timezone: str = "Europe/London") -> str:
    return f"p{number},Ann,{timezone},ann{number}@example.org\n"


def send(
    client: FlaskClient, body: str, mode: str | None = None, *, form: str = CSV, accept: str | None = None
) -> TestResponse:
    headers = {} if accept is None else {"Accept": accept}
    query = {} if mode is None else {"mode": mode}
    return client.post(
        f"{USERS}/import", data=body, query_string=query, content_type=form, headers=headers, buffered=True
    )


def lines_of(response: TestResponse) -> list[dict[str, Any]]:
    assert response.content_type == NDJSON
    return [json.loads(line) for line in response.data.splitlines()]


def stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM users")).scalar_one())


@pytest.mark.parametrize("accept", [None, NDJSON])
def test_all_or_nothing_writes_nothing_unless_every_row_is_right(
    client: FlaskClient, engine: Engine, accept: str | None
) -> None:
    bad = HEADER + row(1) + row(2, "Mars") + row(3)
    refused = send(client, bad, "all", accept=accept)
    assert refused.status_code == 422
    if accept is None:
        found = problem(refused, 422)
        assert (found["type"], found["read"], found["rejected"]) == ("/problems/import-refused", 3, 1)
        assert [each["line"] for each in found["rejected_rows"]] == [3]
    else:
        rejected, last = lines_of(refused)
        assert (rejected["rejected"]["line"], last["problem"]["status"]) == (3, 422)
    assert stored(engine) == 0
    taken = send(client, bad.replace("Mars", "UTC"), "all", accept=accept)
    assert taken.status_code == 200
    assert stored(engine) == 3


def test_a_database_that_fails_midway_leaves_what_was_written_and_a_repetition_makes_it_whole(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "USERS_PER_CHUNK", 10)
    whole = Registry.upsert
    calls = 0

    def fail_at_third(registry: Registry, tenant_id: int, batch: Sequence[UserInput]) -> WrittenUsers:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OperationalError("COMMIT", {}, Exception("gone"))
        return whole(registry, tenant_id, batch)

    people = HEADER + "".join(map(row, range(100)))
    with monkeypatch.context() as broken:
        broken.setattr(Registry, "upsert", fail_at_third)
        problem(send(client, people, "all"), 503)
        assert 0 < stored(engine) < 100
        calls = 1
        lines = lines_of(send(client, people, "all", accept=NDJSON))
        assert list(lines[0]) == ["progress"]
        assert lines[-1]["problem"]["status"] == 503
    again = body_of(send(client, people, "all"))
    assert again["created"] + again["unchanged"] == stored(engine) == 100
    assert again["unchanged"] > 0


def test_an_answer_in_lines_tells_every_rejected_row_and_ends_with_the_sum(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "USERS_PER_CHUNK", 10)
    count = REJECTED_ROWS_SHOWN + 20
    body = HEADER + "".join(row(number) + row(1000 + number, "Mars") for number in range(count))
    response = send(client, body, accept=NDJSON)
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-transform")
    lines = lines_of(response)
    assert [line["rejected"]["line"] for line in lines if "rejected" in line] == list(
        range(3, 2 * count + 2, 2)
    )
    progress = [line["progress"] for line in lines if "progress" in line]
    assert [step["read"] for step in progress] == sorted(step["read"] for step in progress)
    assert len(body) - 100 < progress[-1]["bytes_read"] <= len(body)
    summary = lines[-1]["summary"]
    ImportAnswer.model_validate(summary | {"rejected_rows": []})
    assert (summary["created"], summary["rejected"], summary["read"]) == (count, count, 2 * count)


def test_lines_come_uncompressed_and_whatever_else_is_preferred(client: FlaskClient, engine: Engine) -> None:
    headers = {"Accept": NDJSON, "Accept-Encoding": "gzip", "Prefer": "return=minimal"}
    response = client.post(
        f"{USERS}/import", data=HEADER + row(1), content_type=CSV, headers=headers, buffered=True
    )
    assert "summary" in lines_of(response)[-1]
    assert stored(engine) == 1


@pytest.mark.parametrize("accept", [None, NDJSON])
@pytest.mark.parametrize("mode", ["all", "good_rows"])
def test_a_file_that_cannot_be_read_at_all_is_a_problem_as_ever(
    client: FlaskClient, mode: str, accept: str | None
) -> None:
    assert places(problem(send(client, "nothing,useful\n1,2\n", mode, accept=accept), 422)) == [""]


def test_what_cannot_be_answered_so_is_refused(client: FlaskClient) -> None:
    problem(send(client, HEADER, accept="image/png"), 406)
    assert places(problem(send(client, HEADER, "some"), 400)) == ["mode"]


@pytest.mark.parametrize(
    "line",
    [
        '{"external_id": "a", "external_id": "b", "first_name": "Ann", "timezone": "UTC"}',
        '{"external_id" :"a","first_name":"Ann","timezone":"UTC","first_name":"Anna"}',
        '{"external_id":"a","first_name":"A","timezone":"UTC","dates":{"a":"1990-03-02","a":"1991-03-02"}}',
        '{"external_id":"a","first_name":"Ann","timezone":"UTC","attributes":{"a":"\\":","a":1}}',
    ],
)
def test_a_name_that_stands_twice_in_an_object_is_refused(client: FlaskClient, line: str) -> None:
    answer = body_of(send(client, line + "\n" + json.dumps(a_user(2)), form=NDJSON))
    assert (answer["created"], answer["rejected"]) == (1, 1)
    [rejected] = answer["rejected_rows"]
    assert "twice" in rejected["errors"][0]["detail"]


def test_what_only_looks_like_a_name_is_text(client: FlaskClient) -> None:
    person = a_user(1, last_name='q":"q', attributes={"a": '{"a":1}', "b": '"b":"b":'})
    answer = body_of(send(client, json.dumps(person), form=NDJSON))
    assert (answer["created"], answer["rejected"]) == (1, 0)


def test_people_without_any_address_are_taken_and_counted(client: FlaskClient) -> None:
    header = "external_id,first_name,timezone,email,phone\n"
    rows = "a,Ann,UTC,,\nb,Bob,UTC,,+442071838750\nc,Cid,UTC,c@example.org,\n"
    answer = body_of(send(client, header + rows))
    assert (answer["created"], answer["without_address"]) == (3, 1)
