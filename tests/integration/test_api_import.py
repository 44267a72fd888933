import io
import json

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from api.imports import MOST_IMPORT_BYTES, REJECTED_ROWS_SHOWN
from scheduler.clock import SettableClock
from scheduler.importing import MAX_ROW_BYTES
from tests.fixtures.api import USERS, a_user, api_client, body_of, places, problem

CSV = "text/csv"
NDJSON = "application/x-ndjson"
HEADER = "external_id,first_name,last_name,email,timezone,birth_date\n"
NOTHING = {"planned": 0, "moved": 0, "kept": 0, "removed": 0}


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def row(number: int, timezone: str = "Europe/London") -> str:
    return f"p{number},Ann,Example,ann{number}@example.org,{timezone},1990-03-02\n"


def send(client: FlaskClient, body: str | bytes, content_type: str = CSV) -> TestResponse:
    return client.post(f"{USERS}/import", data=body, content_type=content_type)


def test_rows_are_created_planned_and_told(client: FlaskClient) -> None:
    response = send(client, HEADER + row(1) + row(2), "text/csv; charset=UTF-8")
    assert response.status_code == 200
    assert body_of(response) == {
        "mode": "good_rows",
        "read": 2,
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "without_address": 0,
        "rejected": 0,
        "rejected_rows": [],
        "replanned": NOTHING | {"planned": 2},
        "ignored_columns": [],
    }
    assert body_of(client.get(f"{USERS}/external/p2"))["user"]["dates"] == {"birthday": "1990-03-02"}


def test_the_same_rows_again_update_and_send_nothing_twice(client: FlaskClient) -> None:
    send(client, HEADER + row(1))
    again = body_of(send(client, HEADER + row(1) + row(2)))
    assert (again["created"], again["updated"], again["unchanged"]) == (1, 0, 1)
    assert again["replanned"] == NOTHING | {"planned": 1}
    other = row(2).replace("Ann,", "Anna,")
    changed = body_of(send(client, HEADER + row(1) + other))
    assert (changed["created"], changed["updated"], changed["unchanged"]) == (0, 1, 1)
    assert changed["replanned"] == NOTHING | {"kept": 1}


def test_bad_rows_are_listed_with_their_line_and_the_good_ones_kept(client: FlaskClient) -> None:
    response = send(client, HEADER + row(1) + row(2, "Mars") + "p3,,,,,\n" + "short\n" + row(5))
    assert (response.status_code, body_of(response)["read"], body_of(response)["created"]) == (200, 5, 2)
    assert body_of(response)["rejected"] == 3
    told = body_of(response)["rejected_rows"]
    assert [(each["line"], each["external_id"]) for each in told] == [(3, "p2"), (4, "p3"), (5, None)]
    assert [error["pointer"] for error in told[1]["errors"]] == ["/first_name", "/timezone"]


def test_ndjson_rows_are_taken_alike(client: FlaskClient) -> None:
    lines = [json.dumps(a_user(1)), json.dumps(a_user(2, timezone="Mars")), "{", json.dumps(a_user(4))]
    response = send(client, "\n".join(lines), NDJSON)
    assert (body_of(response)["created"], body_of(response)["rejected"]) == (2, 2)
    assert [each["line"] for each in body_of(response)["rejected_rows"]] == [2, 3]


def test_the_first_rejected_rows_are_listed_and_all_are_counted(client: FlaskClient) -> None:
    count = REJECTED_ROWS_SHOWN + 5
    response = send(client, HEADER + "".join(row(number, "Mars") for number in range(count)))
    assert body_of(response)["rejected"] == count
    assert len(body_of(response)["rejected_rows"]) == REJECTED_ROWS_SHOWN


@pytest.mark.parametrize("content_type", [CSV, NDJSON])
@pytest.mark.parametrize("body", [b"nothing,useful\n1,2\n", b"\xff\xfe\x00", b"[1]"])
def test_a_file_that_cannot_be_used_is_refused_whole(
    client: FlaskClient, body: bytes, content_type: str
) -> None:
    assert places(problem(send(client, body, content_type), 422)) == [""]


def test_rows_no_reader_could_take_are_rejected(client: FlaskClient) -> None:
    long = f"p2,{'x' * (3 * MAX_ROW_BYTES)},Example,a@example.org,Europe/London,1990-03-02\n"
    body = (
        (HEADER + row(1) + long).encode()
        + b"p3,\xff,,,Europe/London,\n"
        + b"p4,\0,,,UTC,\n"
        + row(5).encode()
    )
    response = send(client, body)
    assert [each["line"] for each in body_of(response)["rejected_rows"]] == [3, 4, 5]
    assert body_of(response)["created"] == 2


class Endless:
    """Rows for as long as somebody reads, and how much was read."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.sent = 0
        self.left = HEADER.encode()

    def read(self, size: int = -1, /) -> bytes:
        while len(self.left) < size and self.sent < self.rows:
            self.left += row(self.sent).encode()
            self.sent += 1
        data, self.left = self.left[:size], self.left[size:]
        return data


def stream(client: FlaskClient, body: Endless | io.BytesIO, **environment: object) -> TestResponse:
    return client.post(
        f"{USERS}/import",
        content_type=CSV,
        environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, **environment},
    )


def test_a_body_without_a_length_is_imported_as_it_comes(client: FlaskClient) -> None:
    body = Endless(5_000)
    assert body_of(stream(client, body))["created"] == 5_000
    assert body.sent == 5_000


def test_an_import_may_be_larger_than_other_bodies_and_is_limited_by_its_own(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.imports.MOST_IMPORT_BYTES", 200_000)
    problem(stream(client, Endless(1_000_000)), 413)
    problem(stream(client, Endless(1), CONTENT_LENGTH=str(MOST_IMPORT_BYTES)), 413)


def test_a_body_that_breaks_off_within_a_row_takes_no_half_row(client: FlaskClient) -> None:
    body = HEADER + row(1) + "p2,Ann,Example,ann2@example.org,Europe/London,1990-03-0"
    problem(stream(client, io.BytesIO(body.encode()), CONTENT_LENGTH=str(len(body) + 2)), 400)
    problem(client.get(f"{USERS}/external/p2"), 404)
