"""Whatever is sent, the answer is a problem with a 4xx status, nothing is written, and nothing personal is logged."""

import io
import json
from collections.abc import Iterator
from contextlib import closing

import pytest
from flask.testing import FlaskClient
from loguru import logger
from pydantic import SecretStr
from sqlalchemy import Engine, text

from api import server
from api.app import create_app
from api.bodies import MOST_BODY_BYTES
from scheduler.clock import SettableClock
from scheduler.store import user_queries
from scheduler.store.database import create_database_engine
from tests.fixtures.api import OPEN, USERS, a_user, add_user, api_client, body_of, places, problem

JSON = "application/json"
OCCASIONS = "/api/v1/occasions"
CANARY = "canary-7f3a"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lambda line: lines.append(str(line)), format="{message} {extra} {exception}")
    yield lines
    logger.remove(handler)


def user_text(**raw: str) -> str:
    """A user's body in which the values of `raw` stand as they are."""
    body = a_user() | {name: f"<{name}>" for name in raw}
    written = json.dumps(body)
    for name, value in raw.items():
        written = written.replace(f'"<{name}>"', value)
    return written


MALFORMED = {
    "empty": b"",
    "no JSON": b"{",
    "two values": b"{} {}",
    "deep arrays": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep behind an open string": b'{"a": [' + b"[" * 500 + b'"' + b'\\"' * 100_000,
    "NaN": user_text(attributes='{"a": NaN}').encode(),
    "Infinity": user_text(attributes='{"a": -Infinity}').encode(),
    "beyond a double": user_text(attributes='{"a": 1e999}').encode(),
    "an endless integer": user_text(attributes='{"a": ' + "9" * 10_000 + "}").encode(),
    "a name twice": b'{"first_name": "A", "first_name": "B"}',
    "a name twice inside": user_text(dates='{"birthday": "2000-01-01", "birthday": "2000-01-02"}').encode(),
    "a surrogate as a name, twice": b'{"\\ud800": 1, "\\ud800": 2}',
    "UTF-16": json.dumps(a_user()).encode("utf-16"),
    "UTF-16 without a mark": json.dumps(a_user()).encode("utf-16-le"),
    "UTF-8 with a mark": json.dumps(a_user()).encode("utf-8-sig"),
    "Latin-1": user_text(first_name='"Zoë"').replace("\\u00eb", "ë").encode("latin-1"),
    "encoded surrogates": b'{"first_name": "\xed\xa0\x80"}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_no_strict_json_is_malformed(client: FlaskClient, engine: Engine, body: bytes) -> None:
    user = add_user(client, 2)
    for response in (
        client.post(USERS, data=body, content_type=JSON),
        client.put(f"{USERS}/{user['id']}", data=body, content_type=JSON),
        client.patch(f"{USERS}/{user['id']}", data=body, content_type=JSON),
    ):
        problem(response, 400)
    assert body_of(client.get(USERS))["users"] == [user]


INVALID = {
    "an array": ("[]", ""),
    "a number": ("1", ""),
    "null": ("null", ""),
    "NUL in a name": (user_text(first_name='"A\\u0000"'), "/first_name"),
    "half a surrogate pair": (user_text(first_name='"\\ud800"'), "/first_name"),
    "half a surrogate pair in an attribute": (user_text(attributes='{"a": "\\udfff"}'), "/attributes/a"),
    "NUL in an attribute": (user_text(attributes='{"a": "\\u0000"}'), "/attributes/a"),
    "a surrogate as the name of an attribute": (
        user_text(attributes='{"\\ud800": 1}'),
        "/attributes/\ufffd\ufffd\ufffd",
    ),
    "a surrogate as the name of a field": (user_text()[:-1] + ', "\\ud800": 1}', ""),
    "an object as an attribute": (user_text(attributes='{"a": {}}'), "/attributes/a"),
    "an attribute beyond exact integers": (user_text(attributes='{"a": 1e300}'), "/attributes/a"),
    "a line break in a name": (user_text(last_name='"A\\r\\nBcc: x"'), "/last_name"),
    "a number for a name": (user_text(first_name="1"), "/first_name"),
    "an unknown zone": (user_text(timezone='"Mars/Olympus"'), "/timezone"),
    "an offset for a zone": (user_text(timezone='"+02:00"'), "/timezone"),
    "a path for a zone": (user_text(timezone='"../../etc/passwd"'), "/timezone"),
    "29 February 2023": (user_text(dates='{"birthday": "2023-02-29"}'), "/dates/birthday"),
    "a birthday in the future": (user_text(dates='{"birthday": "2027-03-03"}'), "/dates/birthday"),
    "a timestamp for a date": (user_text(dates='{"birthday": 0}'), "/dates/birthday"),
    "a time that is none": (user_text(preferred_time='"24:00"'), "/preferred_time"),
    "seconds": (user_text(preferred_time='"09:00:30"'), "/preferred_time"),
    "a name that is too long": (user_text(first_name=json.dumps("x" * 101)), "/first_name"),
    "an unknown field": (user_text()[:-1] + ', "nickname": 1}', "/nickname"),
}


@pytest.mark.parametrize(("body", "place"), INVALID.values(), ids=INVALID.keys())
def test_a_body_that_breaks_a_rule_is_refused_with_the_place(
    client: FlaskClient, body: str, place: str
) -> None:
    found = problem(client.post(USERS, data=body, content_type=JSON), 422)
    assert places(found) == [place]
    assert body_of(client.get(USERS))["users"] == []


def test_all_that_is_wrong_with_a_body_is_said_at_once(client: FlaskClient) -> None:
    """What the database or the clock is asked for, too: a birthday, the texts of an occasion."""
    wrong = a_user(
        timezone="Europe/Lodnon",
        email="x",
        phone="0171 123",
        dates={"birthday": "2999-01-01", "wedding": "2023-02-30"},
        nickname=1,
    )
    found = problem(client.post(USERS, json=wrong), 422)
    assert sorted(places(found)) == [
        "/dates/birthday",
        "/dates/wedding",
        "/email",
        "/nickname",
        "/phone",
        "/timezone",
    ]
    assert "did you mean 'Europe/London'?" in json.dumps(found)
    user = add_user(client)
    change = {"dates": {"birthday": "2999-01-01"}, "email": "x"}
    refused = client.patch(f"{USERS}/{user['id']}", json=change)
    assert places(problem(refused, 422)) == ["/email", "/dates/birthday"]
    occasion = {"key": "A B", "subject": "Hello {{ nobody }}", "body": "{% if %}", "channels": ["pigeon"]}
    found = problem(client.post(OCCASIONS, json=occasion), 422)
    assert sorted(places(found)) == ["/body", "/channels/0", "/key", "/name", "/rule", "/subject"]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=utf-16",
    ],
)
def test_another_media_type_is_unsupported(client: FlaskClient, content_type: str) -> None:
    body = json.dumps(a_user())
    problem(client.post(USERS, data=body, content_type=content_type), 415)
    problem(client.post(f"{USERS}/import", data=body, content_type=content_type), 415)


def test_a_merge_patch_is_for_patch_only(client: FlaskClient) -> None:
    problem(client.post(USERS, json=a_user(), content_type="application/merge-patch+json"), 415)


def test_a_compressed_body_is_unsupported(client: FlaskClient) -> None:
    problem(client.post(USERS, json=a_user(), headers={"Content-Encoding": "gzip"}), 415)


def test_a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not(client: FlaskClient) -> None:
    body = json.dumps(a_user(first_name="x" * MOST_BODY_BYTES)).encode()
    problem(client.post(USERS, data=body, content_type=JSON), 413)
    chunked = client.post(
        USERS,
        input_stream=io.BytesIO(body),
        content_type=JSON,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    problem(chunked, 413)


def test_a_body_that_ends_early_is_refused(client: FlaskClient) -> None:
    body = json.dumps(a_user()).encode()
    for terminated in (dict[str, object](), {"wsgi.input_terminated": True}):
        response = client.post(
            USERS,
            input_stream=io.BytesIO(body),
            content_type=JSON,
            environ_overrides={"CONTENT_LENGTH": str(len(body) + 1), **terminated},
        )
        problem(response, 400)
    assert body_of(client.get(USERS))["users"] == []


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND")


def methods_by_path(client: FlaskClient) -> dict[str, set[str]]:
    """A path for each rule of the application, with what may be done there by all rules that it fits."""
    rules = list(client.application.url_map.iter_rules())
    paths = [
        rule.build(dict.fromkeys(rule.arguments, "1"), append_unknown=False) or ("", "") for rule in rules
    ]
    found: dict[str, set[str]] = {}
    for (_, path), rule in zip(paths, rules, strict=True):
        found.setdefault(path, set()).update(rule.methods or ())
    # An occasion may have the key `preview`: what is done to it goes by the rule for all keys.
    found[f"{OCCASIONS}/preview"] |= found[f"{OCCASIONS}/1"]
    # So may a user have any external id, `1/occurrences` for example.
    for path in found:
        if path.startswith(f"{USERS}/external/1/"):
            found[path] |= found[f"{USERS}/external/1"]
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_error_of_every_route_is_a_problem(client: FlaskClient, method: str) -> None:
    routes = methods_by_path(client)
    assert {"/", USERS, f"{USERS}/1", "/health/ready"} <= set(routes)
    for path, methods in routes.items():
        response = client.open(path, method=method, query_string="unheard=of", data=b"\xff")
        with closing(response):
            if method not in methods:
                assert (path, response.status_code) == (path, 405)
                assert set(response.headers["Allow"].split(", ")) == methods
            assert response.status_code < 500, path
            if response.status_code >= 400:
                assert response.content_type == "application/problem+json", path
                assert method == "HEAD" or problem(response, response.status_code)


def test_every_route_says_what_may_be_done_there(client: FlaskClient) -> None:
    for path, methods in methods_by_path(client).items():
        options = client.options(path)
        assert options.status_code == 200
        assert set(options.headers["Allow"].split(", ")) == methods


def test_head_is_get_without_a_body(client: FlaskClient) -> None:
    user = add_user(client)
    place = f"{USERS}/{user['id']}"
    shown, head = client.get(place), client.head(place)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == str(len(shown.data))
    missing = client.head(f"{USERS}/999")
    assert (missing.status_code, missing.data) == (404, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v1",
        "/api/v1/users/",
        "//api/v1/users",
        "/api/v1/users/1/x",
        "/%00",
        "/static/..%2fapp.py",
    ],
)
def test_a_path_that_leads_nowhere_is_a_problem(client: FlaskClient, path: str) -> None:
    found = problem(client.get(path), 404)
    assert found["type"] == "about:blank"
    assert found["instance"].isprintable()


def test_a_request_keeps_its_id_where_that_can_be_logged(client: FlaskClient) -> None:
    kept = client.get("/health/live", headers={"X-Request-Id": "job-7:a.b_c"})
    assert kept.headers["X-Request-Id"] == "job-7:a.b_c"
    for unfit in ("", "x" * 65, "a b", "a\tb", "ö"):
        made = client.get("/health/live", headers={"X-Request-Id": unfit}).headers["X-Request-Id"]
        assert made != unfit
        assert len(made) == 32


def test_the_log_has_a_line_for_each_request_and_nothing_personal(
    client: FlaskClient, log_lines: list[str]
) -> None:
    user = add_user(client, external_id=f"{CANARY}@example.org", first_name=CANARY)
    client.get(f"{USERS}/external/{CANARY}@example.org?{CANARY}")
    client.get(f"/{CANARY}")
    client.post(USERS, json=a_user(external_id=f"{CANARY}@example.org"))
    client.patch(f"{USERS}/{user['id']}", json={"email": CANARY, CANARY: 1})
    client.post(USERS, data=CANARY, content_type=JSON)
    client.post(f"{USERS}/import", data=f"external_id,first_name\n{CANARY}", content_type="text/csv")
    served = [line for line in log_lines if line.startswith("request_served")]
    assert len(served) == 7
    assert "'route': '/api/v1/users/external/<path:external_id>'" in served[1]
    assert "'route': 'unmatched'" in served[2]
    assert all("'method'" in line and "'status'" in line and "'duration_ms'" in line for line in served)
    assert CANARY not in "".join(log_lines)


def test_a_database_that_is_away_is_a_problem_to_come_back_after(
    clock: SettableClock, log_lines: list[str]
) -> None:
    away = create_database_engine(
        "postgresql+psycopg://nobody:secret-canary@127.0.0.1:1/none",
        pool_size=1,
        application_name="daybreak-tests",
    )
    client = create_app(OPEN, away, clock).test_client()
    for response in (
        client.get(USERS),
        client.post(USERS, json=a_user()),
        client.get("/api/v1/messages"),
        client.get("/api/v1/occasions"),
        client.post(
            f"{USERS}/import",
            data="external_id,first_name,timezone\n1,Ann,Europe/London\n",
            content_type="text/csv",
        ),
    ):
        found = problem(response, 503)
        assert response.headers["Retry-After"] == "5"
        assert "secret" not in response.text
        assert found["type"] == "/problems/unavailable"
    assert "canary" not in "".join(log_lines)
    assert client.get("/health/live").status_code == 200


def test_a_statement_that_takes_too_long_is_ended(engine: Engine, clock: SettableClock) -> None:
    settings = OPEN.model_copy(
        update={
            "database_url": SecretStr(engine.url.render_as_string(hide_password=False)),
            "api_statement_seconds": 1,
        }
    )
    own = server._engine(settings)
    try:
        client = create_app(settings, own, clock).test_client()
        with engine.begin() as blocking:
            blocking.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
            assert problem(client.get(USERS), 503)["type"] == "/problems/unavailable"
        assert client.get(USERS).status_code == 200
    finally:
        own.dispose()


def test_a_database_that_takes_no_writes_is_a_problem_to_come_back_after(
    client: FlaskClient, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on"))
    try:
        engine.dispose()
        assert problem(client.post(USERS, json=a_user()), 503)["type"] == "/problems/unavailable"
    finally:
        with engine.begin() as connection:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            connection.execute(text("ALTER ROLE CURRENT_USER RESET default_transaction_read_only"))
        engine.dispose()


def test_an_error_nobody_expected_tells_the_log_and_not_the_caller(
    client: FlaskClient, log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the wires are crossed")

    monkeypatch.setattr(user_queries, "page", fail)
    found = problem(client.get(USERS), 500)
    assert "wires" not in json.dumps(found)
    failed = next(line for line in log_lines if line.startswith("request_failed"))
    assert "the wires are crossed" in failed
    assert found["request_id"] in failed
