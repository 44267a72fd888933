"""Who is let in, and how the others are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from flask.testing import FlaskClient
from jwt.algorithms import RSAAlgorithm
from loguru import logger
from pydantic import SecretStr
from sqlalchemy import Engine, event, text

from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM, Role, Scope
from scheduler.errors import ConfigurationError
from scheduler.keys import FRESH_SECONDS, NewKey
from scheduler.service import keys_for
from scheduler.settings import Settings
from tests.fixtures.api import GUARDED, USERS, a_user, body_of, guarded_client, problem, role_client, role_key

KEYS = "/api/v1/api-keys"
SECRET = "a secret that both sides know of, and nobody else"
UNKNOWN = "dbk_00000000_" + "0" * 43


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return guarded_client(engine, clock)


def bearer(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials}"}


def test_without_credentials_the_answer_says_what_is_needed(client: FlaskClient) -> None:
    answer = client.get(USERS)
    assert "API key" in problem(answer, 401)["detail"]
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="daybreak"'
    problem(client.post(USERS, json=a_user()), 401)
    problem(client.get(USERS, headers={"Authorization": "Basic YTpi"}), 401)


def test_what_anybody_may_see_needs_none(client: FlaskClient) -> None:
    for path in ("/", "/health", "/static/live.js"):
        with client.get(path) as answer:
            assert answer.status_code == 200
    problem(client.get("/nowhere"), 404)
    problem(client.delete(USERS), 405)
    assert client.options(USERS).status_code == 200


@pytest.mark.parametrize("role", [*Role])
def test_a_role_may_what_it_may(engine: Engine, clock: SettableClock, role: Role) -> None:
    caller = role_client(engine, clock, role)
    assert caller.get(USERS).status_code == 200
    may_write = role in (Role.EDITOR, Role.ADMIN)
    written = caller.post(USERS, json=a_user())
    assert written.status_code == (201 if may_write else 403)
    if not may_write:
        refused = problem(written, 403)
        assert refused["scope"] == Scope.USERS_WRITE
        assert 'scope="users:write"' in written.headers["WWW-Authenticate"]
    assert caller.get(KEYS).status_code == (200 if role is Role.ADMIN else 403)
    assert caller.get("/api/v1/audit-log").status_code == (200 if role is Role.ADMIN else 403)


def test_unknown_expired_revoked_and_forged_keys_cannot_be_told_apart(
    engine: Engine, clock: SettableClock
) -> None:
    keys = keys_for(GUARDED, engine, clock)
    expired = keys.create(SYSTEM, NewKey("expired", Role.ADMIN, expires_at=clock.now() + timedelta(hours=1)))
    revoked = keys.create(SYSTEM, NewKey("revoked", Role.ADMIN))
    sound = keys.create(SYSTEM, NewKey("sound", Role.ADMIN))
    keys.revoke(SYSTEM, revoked.key.id)
    client = guarded_client(engine, clock)
    assert client.get(USERS, headers=bearer(expired.text)).status_code == 200
    clock.advance(timedelta(hours=1))
    # Proven twice, so that it is recognized by the process's own digest: a forged one is not.
    assert [client.get(USERS, headers=bearer(sound.text)).status_code for _ in range(2)] == [200, 200]
    last = sound.text[-1]
    forged = sound.text[:-1] + ("a" if last != "a" else "b")
    answers = [
        client.get(USERS, headers=bearer(each))
        for each in (UNKNOWN, expired.text, revoked.text, forged, "dbk_", "nonsense", "a.b.c", "")
    ]
    told = {(problem(answer, 401)["detail"], answer.headers["WWW-Authenticate"]) for answer in answers}
    assert len(told) == 1


def test_keys_of_another_secret_let_nobody_in(engine: Engine, clock: SettableClock) -> None:
    other = Settings(secret_key=SecretStr("another secret key that signed this one"))
    key = keys_for(other, engine, clock).create(SYSTEM, NewKey("other", Role.ADMIN)).text
    problem(guarded_client(engine, clock, key).get(USERS), 401)


def test_a_refusal_is_logged_without_the_key(client: FlaskClient) -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message} {extra}", level="WARNING")
    client.get(f"{USERS}/1", headers=bearer(UNKNOWN))
    client.get(f"{USERS}/1", headers=bearer(jwt.encode({"sub": "ada"}, SECRET, "HS256")))
    logger.remove(sink)
    assert [line.partition(" ")[0] for line in lines] == ["authentication_failed"] * 2
    assert "unknown key" in lines[0]
    assert "/api/v1/users/<identity:user_id>" in lines[0]
    assert not [line for line in lines if UNKNOWN[4:12] in line or "ada" in line or "127.0.0.1" in line]


def test_a_key_revoked_elsewhere_ends_within_seconds_and_here_at_once(
    engine: Engine, clock: SettableClock
) -> None:
    admin = role_client(engine, clock, Role.ADMIN)
    made = body_of(admin.post(KEYS, json={"name": "short-lived", "role": "viewer"}))
    elsewhere = guarded_client(engine, clock)
    for each in (admin, elsewhere):
        assert each.get(USERS, headers=bearer(made["key"])).status_code == 200
    assert admin.delete(f"{KEYS}/{made['api_key']['id']}").status_code == 200
    problem(admin.get(USERS, headers=bearer(made["key"])), 401)
    assert elsewhere.get(USERS, headers=bearer(made["key"])).status_code == 200
    clock.advance(timedelta(seconds=FRESH_SECONDS))
    problem(elsewhere.get(USERS, headers=bearer(made["key"])), 401)


def test_a_request_costs_no_look_up_of_its_key_and_its_use_is_noted_once_a_minute(
    engine: Engine, clock: SettableClock
) -> None:
    client = role_client(engine, clock, Role.VIEWER)
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_more: object) -> None:
        seen.append(statement)

    def used() -> list[Any]:
        with engine.connect() as connection:
            return list(connection.execute(text("SELECT last_used_at FROM api_keys")).scalars())

    event.listen(engine, "before_cursor_execute", note)
    try:
        for _ in range(5):
            with client.get(USERS):
                pass
    finally:
        event.remove(engine, "before_cursor_execute", note)
    of_keys = [statement.split()[0] for statement in seen if "api_keys" in statement]
    assert of_keys == ["SELECT", "UPDATE"], seen
    first = clock.now()
    assert used() == [first]
    clock.advance(timedelta(seconds=59))
    client.get(USERS).close()
    assert used() == [first]
    clock.advance(timedelta(seconds=1))
    client.get(USERS).close()
    assert used() == [clock.now()]


def test_a_use_that_cannot_be_noted_fails_nobody(engine: Engine, clock: SettableClock) -> None:
    client = role_client(engine, clock, Role.VIEWER)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE api_keys RENAME last_used_at TO used"))
        connection.execute(text("ALTER TABLE api_keys ADD last_used_at integer"))
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}", level="WARNING")
    with client.get(USERS) as answer:
        assert answer.status_code == 200
    logger.remove(sink)
    assert lines == ["use_of_key_not_noted\n"]


def test_without_a_secret_key_nothing_starts_that_asks_for_keys(engine: Engine, clock: SettableClock) -> None:
    with pytest.raises(ConfigurationError, match="DAYBREAK_SECRET_KEY"):
        create_app(Settings(), engine, clock)


def token(clock: SettableClock, key: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    given = {
        "iss": "https://login.example.com",
        "aud": "daybreak",
        "sub": "ada",
        "exp": int(clock.now().timestamp()) + 300,
    }
    return jwt.encode(given | claims, key, algorithm, headers={"kid": "one"})


def jwt_settings(**changes: Any) -> Settings:
    named: dict[str, Any] = {
        "secret_key": GUARDED.secret_key,
        "jwt_issuer": "https://login.example.com",
        "jwt_audience": "daybreak",
        "jwt_tenant_claim": "tenant",
    }
    return Settings(**(named | changes))


def test_a_token_lets_its_subject_in_for_its_tenant(engine: Engine, clock: SettableClock) -> None:
    settings = jwt_settings(jwt_secret=SecretStr(SECRET))
    client = create_app(settings, engine, clock).test_client()
    viewer = token(clock, tenant=1, roles=["viewer"])
    assert client.get(USERS, headers=bearer(viewer)).status_code == 200
    assert problem(client.post(USERS, json=a_user(), headers=bearer(viewer)), 403)["scope"] == "users:write"
    editor = token(clock, tenant=1, roles="editor")
    assert client.post(USERS, json=a_user(), headers=bearer(editor)).status_code == 201
    with engine.connect() as connection:
        assert connection.execute(text("SELECT actor FROM audit_log")).scalar_one() == "jwt:ada"
    for unknown in (token(clock, tenant=99, roles=["admin"]), token(clock, roles=["admin"])):
        problem(client.get(USERS, headers=bearer(unknown)), 401)
    clock.advance(timedelta(minutes=6))
    problem(client.get(USERS, headers=bearer(viewer)), 401)


RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def published() -> Iterator[str]:
    """Where the key stands, over real HTTP; `/moved` leads there."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {"keys": [RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True) | {"kid": "one"}]}
            ).encode()
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/keys")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_published_keys_are_fetched_and_redirects_are_not_followed(
    engine: Engine, clock: SettableClock, published: str
) -> None:
    signed = token(clock, RSA_KEY, "RS256", tenant=1, roles=["viewer"])
    sound, moved = (
        create_app(jwt_settings(jwt_jwks_url=published + path), engine, clock).test_client()
        for path in ("/keys", "/moved")
    )
    assert sound.get(USERS, headers=bearer(signed)).status_code == 200
    assert problem(moved.get(USERS, headers=bearer(signed)), 503)
    key = role_key(engine, clock, Role.VIEWER)
    assert moved.get(USERS, headers=bearer(key)).status_code == 200, "API keys need nobody else"
