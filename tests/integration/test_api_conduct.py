"""What holds on every route: headers, compression, preferences, origins, versions, traces, limits, helpful refusals."""

import gzip
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from loguru import logger
from sqlalchemy import Engine

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from scheduler.settings import Settings
from tests.fixtures.api import (
    GUARDED,
    OPEN,
    USERS,
    a_user,
    add_user,
    api_client,
    body_of,
    problem,
    role_client,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def client_with(
    engine: Engine, clock: SettableClock, settings: Settings = OPEN, **changes: Any
) -> FlaskClient:
    """A client of an application with other settings."""
    return create_app(settings.model_copy(update=changes), engine, clock).test_client()


# Headers


def test_every_answer_has_security_headers(client: FlaskClient) -> None:
    for path in (USERS, "/nowhere", "/health/live", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Strict-Transport-Security" not in headers


def test_a_page_keeps_its_own_policy(client: FlaskClient) -> None:
    with client.get("/docs") as response:
        headers = response.headers
    assert headers.getlist("Content-Security-Policy") == [headers["Content-Security-Policy"]]
    assert "script-src 'self'" in headers["Content-Security-Policy"]


def test_https_is_asked_for_where_the_public_address_has_it(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, public_url="https://daybreak.example.org")
    assert client.get("/health/live").headers["Strict-Transport-Security"] == "max-age=31536000"


def test_nothing_of_an_answer_is_kept_by_caches(client: FlaskClient) -> None:
    add_user(client)
    assert client.get(USERS).headers["Cache-Control"] == "no-store"


# Compression


def test_a_long_answer_is_compressed_for_who_takes_it(client: FlaskClient) -> None:
    for number in range(10):
        add_user(client, number)
    plain = client.get(USERS)
    packed = client.get(USERS, headers={"Accept-Encoding": "br;q=1, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert int(packed.headers["Content-Length"]) == len(packed.data) < len(plain.data) / 3
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "identity"])
def test_who_takes_no_gzip_gets_none(client: FlaskClient, accepted: str) -> None:
    for number in range(10):
        add_user(client, number)
    assert "Content-Encoding" not in client.get(USERS, headers={"Accept-Encoding": accepted}).headers


def test_a_short_answer_is_not_compressed(client: FlaskClient) -> None:
    response = client.get("/health/live", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers
    assert body_of(response) == {"status": "ok"}


# Preferences


def test_a_write_may_be_answered_without_what_was_written(client: FlaskClient) -> None:
    created = client.post(USERS, json=a_user(), headers={"Prefer": "return=minimal"})
    assert (created.status_code, created.data) == (204, b"")
    assert created.headers["Preference-Applied"] == "return=minimal"
    path = created.headers["Location"]
    changed = client.patch(
        path, json={"first_name": "Bea"}, headers={"Prefer": "respond-async, return = minimal; x=1"}
    )
    assert (changed.status_code, changed.data) == (204, b"")
    assert "Content-Length" not in changed.headers
    assert body_of(client.get(path, headers={"Prefer": "return=minimal"}))["user"]["first_name"] == "Bea"


@pytest.mark.parametrize("preference", ["return=representation", "return=minimally", "handling=lenient", ""])
def test_other_preferences_change_nothing(client: FlaskClient, preference: str) -> None:
    response = client.post(USERS, json=a_user(), headers={"Prefer": preference})
    assert body_of(response)["user"]["first_name"] == "Ann"
    assert "Preference-Applied" not in response.headers


def test_an_error_is_told_whatever_is_preferred(client: FlaskClient) -> None:
    problem(client.post(USERS, json={}, headers={"Prefer": "return=minimal"}), 422)


# Origins


ORIGIN = "https://app.example.org"


def test_a_page_of_an_allowed_origin_may_call(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, GUARDED, api_cors_origins=(ORIGIN,))
    asked = client.options(
        USERS,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        },
    )
    assert asked.status_code == 204
    assert asked.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in asked.headers["Access-Control-Allow-Methods"].split(", ")
    allowed = asked.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "if-match", "prefer"} <= set(allowed)
    assert "Content-Type" not in asked.headers
    # All that the path takes, by whatever route.
    asked = client.options(f"{USERS}/1", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"})
    methods = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "PUT"}
    assert set(asked.headers["Access-Control-Allow-Methods"].split(", ")) == methods
    asked = client.options("/nowhere", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "GET"})
    assert "Access-Control-Allow-Methods" not in asked.headers
    # Even what is refused may be read, and says what it depends on.
    refused = client.get(USERS, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Origin" in refused.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in refused.headers


def test_a_page_of_another_origin_may_not(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, api_cors_origins=(ORIGIN,))
    for origin in ("https://evil.example.org", "null", f"{ORIGIN}.evil.example"):
        preflight = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        for response in (
            client.options(USERS, headers=preflight),
            client.get(USERS, headers={"Origin": origin}),
        ):
            assert not [name for name, _ in response.headers if name.startswith("Access-Control")]
            assert "Origin" in response.headers["Vary"]


def test_without_a_list_no_page_may(client: FlaskClient) -> None:
    response = client.get(USERS, headers={"Origin": ORIGIN})
    assert "Access-Control-Allow-Origin" not in response.headers


# Traces


@pytest.fixture
def served(client: FlaskClient) -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    handler = logger.add(
        lambda line: lines.append(line.record["extra"]),
        filter=lambda record: record["message"] == "request_served",
    )
    yield lines
    logger.remove(handler)


def test_a_trace_is_continued_and_logged(client: FlaskClient, served: list[dict[str, Any]]) -> None:
    parent = f"00-{TRACE}-00f067aa0ba902b7-01"
    answered = client.get("/health/live", headers={"traceparent": parent}).headers["Traceparent"].split("-")
    assert (answered[0], answered[1], answered[3]) == ("00", TRACE, "01")
    assert answered[2] not in ("00f067aa0ba902b7", "0" * 16)
    assert served[0]["trace_id"] == TRACE


def test_a_later_version_of_the_standard_is_understood(client: FlaskClient) -> None:
    parent = f"01-{TRACE}-00f067aa0ba902b7-01-what-will-come"
    assert TRACE in client.get("/health/live", headers={"traceparent": parent}).headers["Traceparent"]


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
    ],
)
def test_what_is_no_trace_begins_one(client: FlaskClient, served: list[dict[str, Any]], parent: str) -> None:
    response = client.get("/health/live", headers={"traceparent": parent})
    _, trace, span, sampled = response.headers["Traceparent"].split("-")
    assert trace != TRACE
    assert (len(trace), len(span), sampled) == (32, 16, "00")
    assert served[0]["trace_id"] == trace


# Limits


def test_a_caller_is_told_what_is_left_and_refused_past_that(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, api_requests_per_minute=3)
    left = [client.get(USERS).headers["RateLimit"] for _ in range(3)]
    assert left == ['"requests";r=2;t=20', '"requests";r=1;t=40', '"requests";r=0;t=60']
    refused = client.get(USERS)
    assert problem(refused, 429)["type"] == "/problems/too-many-requests"
    assert refused.headers["Retry-After"] == "20"
    assert refused.headers["RateLimit-Policy"] == '"requests";q=3;w=60'
    clock.advance(timedelta(seconds=19))
    problem(client.get(USERS), 429)
    clock.advance(timedelta(seconds=1))
    assert client.get(USERS).status_code == 200
    problem(client.get(USERS), 429)
    clock.advance(timedelta(hours=1))
    assert [client.get(USERS).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_callers_have_buckets_of_their_own(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, api_requests_per_minute=1)

    def ask(address: str) -> int:
        return client.get(USERS, environ_overrides={"REMOTE_ADDR": address}).status_code

    assert [ask("192.0.2.1"), ask("192.0.2.1"), ask("192.0.2.2")] == [200, 429, 200]
    # One customer's whole network is one caller.
    assert [ask("2001:db8::1"), ask("2001:db8::ffff:2"), ask("2001:db8:0:1::1")] == [200, 429, 200]


def test_keys_are_counted_one_by_one_whatever_the_address(engine: Engine, clock: SettableClock) -> None:
    clients = [role_client(engine, clock, role) for role in (Role.VIEWER, Role.ADMIN)]
    one = client_with(engine, clock, GUARDED, api_requests_per_minute=1)
    for client, address in zip(clients, ("192.0.2.1", "192.0.2.2"), strict=True):
        headers = {"Authorization": client.environ_base["HTTP_AUTHORIZATION"]}
        assert one.get(USERS, headers=headers).status_code == 200
        again = one.get(USERS, headers=headers, environ_overrides={"REMOTE_ADDR": address})
        assert again.status_code == 429


def test_health_checks_are_not_counted(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, api_requests_per_minute=1)
    assert [client.get("/health/live").status_code for _ in range(5)] == [200] * 5


def test_who_fails_to_prove_who_they_are_is_slowed_down(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, GUARDED, api_failed_authentications_per_minute=2)
    wrong = {"Authorization": "Bearer dbk_wrong"}
    assert [client.get(USERS, headers=wrong).status_code for _ in range(3)] == [401, 401, 429]
    assert "Retry-After" in client.get(USERS, headers=wrong).headers
    # Nobody else behind the address is shut out by that, nor is who forgot to say anything.
    key = role_client(engine, clock, Role.VIEWER).environ_base["HTTP_AUTHORIZATION"]
    assert client.get(USERS, headers={"Authorization": key}).status_code == 200
    assert client.get(USERS).status_code == 401
    clock.advance(timedelta(minutes=1))
    assert client.get(USERS, headers=wrong).status_code == 401


def test_no_limit_is_a_limit_of_zero(engine: Engine, clock: SettableClock) -> None:
    client = client_with(engine, clock, api_requests_per_minute=0)
    assert "RateLimit" not in client.get(USERS).headers


# Refusals that help


def test_a_path_that_is_none_is_answered_with_the_likest(client: FlaskClient) -> None:
    detail = problem(client.get("/api/v1/user/17"), 404)["detail"]
    assert "did you mean /api/v1/users/{user_id}?" in detail
    assert "/openapi.json" in detail
    assert "did you mean" not in problem(client.get("/wp-login.php"), 404)["detail"]


def test_a_method_that_is_not_taken_is_answered_with_those_that_are(client: FlaskClient) -> None:
    response = client.put(USERS)
    assert (
        problem(response, 405)["detail"] == "PUT is not for this path, which takes GET, HEAD, OPTIONS, POST"
    )
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_a_parameter_that_is_unknown_is_answered_with_the_likest(client: FlaskClient) -> None:
    [error] = problem(client.get(USERS, query_string={"timezon": "x"}), 400)["errors"]
    assert error == {
        "parameter": "timezon",
        "detail": "unknown parameter 'timezon'; did you mean 'timezone'?",
    }
    [error] = problem(client.get(USERS, query_string={"q": "x"}), 400)["errors"]
    assert error["detail"].startswith("unknown parameter 'q'; there is limit, cursor")


def test_a_field_that_is_unknown_is_answered_with_the_likest(client: FlaskClient) -> None:
    body = json.dumps({"chanel": "email", "address": "a@example.org"})
    found = problem(client.post("/api/v1/suppressions", data=body, content_type="application/json"), 422)
    assert "unknown field 'chanel'; did you mean 'channel'?" in [error["detail"] for error in found["errors"]]
