"""A POST with an `Idempotency-Key` happens once: repeated, at the same time, and whatever breaks in between."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import request
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from api import idempotency as hooks
from api.app import create_app
from scheduler.clock import SettableClock
from scheduler.domain.access import Role
from scheduler.registry import Registry
from scheduler.store import idempotency
from scheduler.store.idempotency import ABANDONED_AFTER, KEPT_FOR, Claim
from tests.fixtures.api import (
    OPEN,
    USERS,
    a_user,
    add_user,
    api_client,
    body_of,
    guarded_client,
    problem,
    role_client,
)
from tests.fixtures.waiting import wait_until

KEYS = "/api/v1/api-keys"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def post(client: FlaskClient, key: str = "k1", path: str = USERS, **body: Any) -> TestResponse:
    return client.post(path, json=body or a_user(), headers={"Idempotency-Key": key})


def users_of(client: FlaskClient) -> int:
    return len(body_of(client.get(USERS))["users"])


def rows(engine: Engine) -> list[tuple[str, bool, int | None]]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT key, took_effect, status FROM idempotency_keys ORDER BY key"))
        return [(row.key, row.took_effect, row.status) for row in found]


def test_a_repeated_request_is_answered_again_and_does_nothing(client: FlaskClient, engine: Engine) -> None:
    first, second = post(client), post(client)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.data == second.data
    assert first.headers["Location"] == second.headers["Location"]
    assert first.content_type == second.content_type
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert users_of(client) == 1
    assert rows(engine) == [("k1", True, 201)]


def test_a_restart_forgets_no_key(client: FlaskClient, engine: Engine, clock: SettableClock) -> None:
    first = post(client)
    again = post(create_app(OPEN, engine, clock).test_client())
    assert (again.status_code, again.data) == (201, first.data)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["ETag"] == first.headers["ETag"]


def test_the_key_may_be_written_as_a_structured_string(client: FlaskClient) -> None:
    assert post(client, "k1").data == post(client, '"k1"').data


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "a" * 256, '"', '"a'])
def test_what_is_no_key_is_refused(client: FlaskClient, key: str) -> None:
    problem(post(client, key), 400)
    assert users_of(client) == 0


def test_the_same_key_for_another_request_is_refused(client: FlaskClient) -> None:
    post(client)
    for response in (
        post(client, **a_user(2)),
        post(client, path=f"{USERS}/import"),
        client.post(f"{USERS}?x=1", json=a_user(), headers={"Idempotency-Key": "k1"}),
    ):
        assert problem(response, 422)["type"] == "/problems/idempotency-key-used"
    assert users_of(client) == 1


def test_without_a_key_nothing_is_kept(client: FlaskClient, engine: Engine) -> None:
    assert client.post(USERS, json=a_user()).status_code == 201
    assert client.get(USERS, headers={"Idempotency-Key": "k1"}).status_code == 200
    assert rows(engine) == []


def test_a_refused_request_may_be_mended_under_the_same_key(client: FlaskClient, engine: Engine) -> None:
    problem(post(client, **a_user(timezone="Mars/Olympus")), 422)
    assert rows(engine) == []
    assert post(client).status_code == 201


def test_keys_are_each_callers_own(engine: Engine, clock: SettableClock) -> None:
    editor, other = (role_client(engine, clock, Role.EDITOR) for _ in range(2))
    assert post(editor).status_code == 201
    problem(post(other), 409)  # the external id is taken: it was carried out
    assert post(editor).headers["Idempotent-Replayed"] == "true"


def test_keys_are_each_tenants_own(engine: Engine, clock: SettableClock) -> None:
    """Two tokens of two tenants may name the same person."""
    with engine.begin() as connection:
        for tenant_id in (1, 2):
            found = idempotency.claim(connection, tenant_id, "jwt:ann", "k1", b"any", now=clock.now())
            assert isinstance(found, Claim)
        again = idempotency.claim(connection, 2, "jwt:ann", "k1", b"any", now=clock.now())
        assert not isinstance(again, Claim)


def test_who_may_not_write_claims_no_key(engine: Engine, clock: SettableClock) -> None:
    problem(post(role_client(engine, clock, Role.VIEWER)), 403)
    problem(post(guarded_client(engine, clock)), 401)
    assert rows(engine) == []


def test_a_key_is_forgotten_after_a_day(client: FlaskClient, engine: Engine, clock: SettableClock) -> None:
    post(client)
    clock.advance(KEPT_FOR)
    assert post(client).headers["Idempotent-Replayed"] == "true"
    clock.advance(timedelta(seconds=1))
    assert post(client, "k2", **a_user(2)).status_code == 201
    assert [key for key, _, _ in rows(engine)] == ["k2"]
    problem(post(client), 409)  # carried out anew, and refused for the external id


def test_an_answer_with_a_secret_is_not_kept(engine: Engine, clock: SettableClock) -> None:
    admin = role_client(engine, clock, Role.ADMIN)
    issued = post(admin, path=KEYS, name="made once", role="viewer")
    assert issued.status_code == 201
    again = post(admin, path=KEYS, name="made once", role="viewer")
    assert problem(again, 409)["type"] == "/problems/idempotency-answer-lost"
    assert rows(engine) == [("k1", True, None)]
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM api_keys WHERE name = 'made once'")).scalar() == 1
        )


def test_a_request_under_way_is_not_begun_again(engine: Engine, clock: SettableClock) -> None:
    app = create_app(OPEN, engine, clock)
    with ThreadPoolExecutor(1) as others, engine.begin() as blocking:
        blocking.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
        first = others.submit(post, app.test_client())
        wait_until(lambda: len(rows(engine)) == 1, "the first request has claimed its key")
        second = post(app.test_client())
        assert problem(second, 409)["type"] == "/problems/idempotency-key-in-flight"
        assert second.headers["Retry-After"] == "1"
        blocking.rollback()
        assert first.result().status_code == 201
    assert post(app.test_client()).headers["Idempotent-Replayed"] == "true"


def test_many_at_once_create_one(engine: Engine, clock: SettableClock) -> None:
    app = create_app(OPEN, engine, clock)
    with ThreadPoolExecutor(8) as others:
        answers = list(others.map(lambda _: post(app.test_client()), range(32)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    carried_out = [each for each in answers if each.status_code == 201]
    assert len([each for each in carried_out if "Idempotent-Replayed" not in each.headers]) == 1
    assert users_of(app.test_client()) == 1


def claim_of(engine: Engine, clock: SettableClock, client: FlaskClient) -> Claim:
    """The claim of a request like `post`, whose process is gone before it could do anything."""
    app = client.application
    with app.test_request_context(USERS, method="POST", json=a_user()), engine.begin() as connection:
        found = idempotency.claim(
            connection, 1, "anonymous", "k1", hooks._fingerprint(request), now=clock.now()
        )
    assert isinstance(found, Claim)
    return found


def test_a_process_that_died_before_it_wrote_frees_its_key(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    claim_of(engine, clock, client)
    problem(post(client), 409)
    clock.advance(ABANDONED_AFTER + timedelta(seconds=1))
    assert post(client).status_code == 201
    assert rows(engine) == [("k1", True, 201)]


def test_a_process_that_died_after_it_wrote_leaves_word_of_that(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    """As left where the process ends between its commit and the answer."""
    claimed = claim_of(engine, clock, client)
    with engine.begin() as connection:
        assert idempotency.mark(connection, claimed)
    clock.advance(ABANDONED_AFTER * 10)
    assert problem(post(client), 409)["type"] == "/problems/idempotency-answer-lost"
    assert users_of(client) == 0


def test_a_request_that_lost_its_claim_writes_nothing(engine: Engine, clock: SettableClock) -> None:
    """It stood still for so long that another process has taken the request over."""
    app = create_app(OPEN, engine, clock)
    with ThreadPoolExecutor(1) as others, engine.begin() as blocking:
        blocking.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
        slow = others.submit(post, app.test_client())
        wait_until(lambda: len(rows(engine)) == 1, "the slow request has claimed its key")
        clock.advance(ABANDONED_AFTER + timedelta(seconds=1))
        claim_of(engine, clock, app.test_client())
        blocking.rollback()
        problem(slow.result(), 409)
    assert users_of(app.test_client()) == 0


def test_a_failure_before_the_commit_frees_the_key(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Registry, "create", fail)
        problem(post(client), 500)
    assert rows(engine) == []
    assert post(client).status_code == 201


def test_a_failure_after_the_commit_does_not(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Registry.create

    def create_and_fail(*arguments: Any, **named: Any) -> None:
        create(*arguments, **named)
        fail()

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "create", create_and_fail)
        problem(post(client), 500)
    assert problem(post(client), 409)["type"] == "/problems/idempotency-answer-lost"
    assert users_of(client) == 1


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("the wires are crossed")


def test_a_database_that_goes_away_during_the_request_leaves_no_doubt(
    client: FlaskClient, engine: Engine
) -> None:
    """The connection is cut in the writing transaction: nothing was written, and the key is free again."""
    with ThreadPoolExecutor(1) as others, engine.connect() as blocking:
        blocking.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
        cut = others.submit(post, client)
        wait_until(lambda: waiting(engine), "the request waits for the lock")
        blocking.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
        problem(cut.result(), 503)
        blocking.rollback()
    assert rows(engine) == []
    assert post(client).status_code == 201


def waiting(engine: Engine) -> bool:
    with engine.connect() as connection:
        found = text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")
        return bool(connection.execute(found).scalar())


def test_an_import_may_be_repeated_too(client: FlaskClient) -> None:
    body = b"external_id,first_name,timezone\np1,Ann,Europe/London\n"
    answers = [
        client.post(f"{USERS}/import", data=body, content_type="text/csv", headers={"Idempotency-Key": "k1"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].data == answers[1].data
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_a_replayed_answer_follows_the_preference_of_the_repetition(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "k1", "Prefer": "return=minimal"}
    assert client.post(USERS, json=a_user(), headers=headers).data == b""
    assert body_of(post(client))["user"]["first_name"] == "Ann"


def test_old_keys_do_not_pile_up(client: FlaskClient, engine: Engine, clock: SettableClock) -> None:
    for number in range(25):
        post(client, f"old-{number}", **a_user(number))
    clock.advance(KEPT_FOR + timedelta(seconds=1))
    for number in range(3):
        post(client, f"new-{number}", **a_user(100 + number))
    assert [key for key, _, _ in rows(engine)] == ["new-0", "new-1", "new-2"]


def test_users_are_added_as_before(client: FlaskClient) -> None:
    assert add_user(client)["external_id"] == "person-1"
