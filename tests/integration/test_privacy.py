"""What a person may ask: all that is known of them, and to be forgotten, everywhere."""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Engine, text

from api.models.privacy import AllowedAnswer, ErasedAnswer, PrivacyExportAnswer
from scheduler.clock import SettableClock
from scheduler.domain.access import SYSTEM, Role
from scheduler.domain.tombstone import Tombstones
from scheduler.domain.user import UserInput
from scheduler.errors import PersonErased
from scheduler.planner import Planner, PlanningPolicy
from scheduler.privacy import Privacy
from scheduler.registry import Registry, WrittenUsers
from tests.fixtures.api import (
    GUARDED,
    USERS,
    a_user,
    add_user,
    api_client,
    body_of,
    problem,
    role_client,
)
from tests.fixtures.waiting import wait_until_blocked

CANARIES: Final = {
    "external_id": "canary-external",
    "first_name": "Canaryfirst",
    "last_name": "Canarylast",
    "email": "Canary@canarymail.example",
    "old_email": "canary-before@canarymail.example",
    "phone": "+442071838750",
    "push_token": "canary-push-token",
    "webhook_url": "https://canary.example/hook",
    "refused_zone": "Canary/Zone",
    "attribute": "canary-attribute",
    "detail": "canary-detail",
    "text": "canary-text",
    "body": "canary-in-the-inbox",
}
ERASE: Final = {"reason": "request 17"}

_COLUMNS: Final = """
SELECT c.table_name, c.column_name, c.data_type = 'bytea' AS is_bytes
FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'"""


@pytest.fixture
def admin(engine: Engine, clock: SettableClock) -> FlaskClient:
    return role_client(engine, clock, Role.ADMIN)


def found_in(engine: Engine, *needles: str) -> dict[str, set[str]]:
    """By needle, the tables that hold it anywhere, in a column of whatever type; without those that none holds."""
    written: dict[str, list[str]] = {}
    with engine.connect() as connection:
        for table, column, is_bytes in connection.execute(text(_COLUMNS)).all():
            as_text = f"encode({column}, 'escape')" if is_bytes else f"CAST({column} AS text)"
            written.setdefault(table, []).append(as_text)
        statement = " UNION ALL ".join(
            f"SELECT needle, '{table}' FROM unnest(CAST(:needles AS text[])) needle WHERE EXISTS (SELECT FROM {table}"
            f" WHERE position(lower(needle) IN lower(concat_ws(chr(10), {', '.join(columns)}))) > 0)"
            for table, columns in written.items()
        )
        tables: dict[str, set[str]] = {}
        for needle, table in connection.execute(text(statement), {"needles": list(needles)}):
            tables.setdefault(needle, set()).add(table)
    return tables


def run(engine: Engine, statement: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


KEY: Final = "user_id, local_date, occasion_id, slot, channel, tenant_id"


def leave_traces(client: FlaskClient, engine: Engine) -> int:
    """Somebody of whom something stands wherever something can; returns their id."""
    person: dict[str, Any] = {
        name: CANARIES[name] for name in ("external_id", "first_name", "last_name", "phone")
    }
    person |= {name: CANARIES[name] for name in ("push_token", "webhook_url")}
    body = a_user(**person, email=CANARIES["old_email"], attributes={"note": CANARIES["attribute"]})
    add_user(client, **body)
    client.delete(f"{USERS}/external/canary-external")  # known as deleted, and back again
    created = client.post(USERS, json=body, headers={"Idempotency-Key": "first"})
    user_id: int = body_of(created)["user"]["id"]
    place = f"{USERS}/{user_id}"
    refused = f"external_id,first_name,timezone\ncanary-external,{CANARIES['first_name']},Canary/Zone\n"
    imported = client.post(
        f"{USERS}/import", data=refused, content_type="text/csv", headers={"Idempotency-Key": "import"}
    )
    assert body_of(imported)["rejected_rows"][0]["external_id"] == "canary-external"
    suppressed = {"channel": "email", "address": CANARIES["old_email"]}
    assert client.post("/api/v1/suppressions", json=suppressed).status_code == 201
    assert client.patch(place, json={"email": CANARIES["email"]}).status_code == 200
    for channel, field in (("email", "email"), ("sms", "phone"), ("push", "push_token")):
        suppressed = {"channel": channel, "address": CANARIES[field]}
        assert client.post("/api/v1/suppressions", json=suppressed).status_code == 201
    assert client.put(f"{place}/unsubscribes/email").status_code == 200
    send = {
        "to": {"user_ids": [user_id]},
        "channels": ["email"],
        "subject": "For you",
        "body": CANARIES["text"],
    }
    sent = client.post("/api/v1/messages", json=send, headers={"Idempotency-Key": "second"})
    assert sent.status_code == 201, sent.text
    key = {"user_id": user_id, "at": "2027-03-01T12:00:00Z", "canary": CANARIES["detail"]}
    values = ":user_id, date '2027-02-28', 1, 0, 'email', 1"
    more = {
        "delivery_attempts (batch_id, failed_at, attempt, provider, kind, category, detail": (
            "1, :at, 1, 'p', 'permanent', 'refused', :canary"
        ),
        "dead_letters (died_at, attempt, category, detail, discarded_at, discard_reason": (
            ":at, 1, 'refused', :canary, :at, :canary"
        ),
        "delivery_events (occurred_at, received_at, provider, event_id, kind, detail": (
            ":at, :at, 'p', 'e1', 'bounced', :canary"
        ),
    }
    for columns, its_values in more.items():
        run(engine, f"INSERT INTO {columns}, {KEY}) VALUES ({its_values}, {values})", **key)
    run(
        engine,
        "INSERT INTO inbox_messages (user_id, created_at, occasion_id, local_date, tenant_id, slot, subject, body)"
        " VALUES (:user_id, :at, 1, date '2027-02-28', 1, 0, 'Hello', :canary)",
        **key | {"canary": CANARIES["body"]},
    )
    return user_id


STANDS_IN: Final = {
    "external_id": {"users", "deleted_users", "audit_log", "idempotency_keys"},
    "first_name": {"users", "audit_log", "idempotency_keys"},
    "last_name": {"users", "audit_log", "idempotency_keys"},
    "email": {"users", "audit_log", "suppressions"},
    "old_email": {"audit_log", "idempotency_keys", "suppressions"},
    "phone": {"users", "audit_log", "idempotency_keys", "suppressions"},
    "push_token": {"users", "audit_log", "idempotency_keys", "suppressions"},
    "webhook_url": {"users", "audit_log", "idempotency_keys"},
    "refused_zone": {"idempotency_keys"},
    "attribute": {"users", "audit_log", "idempotency_keys"},
    "detail": {"delivery_attempts", "dead_letters", "delivery_events"},
    "text": {"occasions"},
    "body": {"inbox_messages"},
}


def test_nothing_personal_is_left_anywhere(admin: FlaskClient, engine: Engine) -> None:
    user_id = leave_traces(admin, engine)
    found = found_in(engine, *CANARIES.values())
    for name, canary in CANARIES.items():
        # What the test would not find before, it would not miss after.
        assert found[canary] >= STANDS_IN[name], name
    answer = admin.post(f"{USERS}/{user_id}/erase", json=ERASE, headers={"Idempotency-Key": "third"})
    assert answer.status_code == 200, answer.text
    erased = ErasedAnswer.model_validate_json(answer.data)
    assert (erased.already, erased.removed_messages) == (False, 2)
    assert all(erased.rows.values()), "there was something of each kind"
    assert found_in(engine, *CANARIES.values()) == {}


def test_others_keep_what_is_theirs_and_counts_stay(admin: FlaskClient, engine: Engine) -> None:
    other = add_user(admin, 2, phone=CANARIES["phone"])
    user_id = leave_traces(admin, engine)
    counted = "SELECT (SELECT count(*) FROM audit_log), (SELECT count(*) FROM delivery_attempts)"
    counted += ", (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM delivery_events)"
    with engine.connect() as connection:
        before = connection.execute(text(counted)).one()
    admin.post(f"{USERS}/{user_id}/erase", json=ERASE)
    with engine.connect() as connection:
        after = connection.execute(text(counted)).one()
        suppressed = connection.execute(text("SELECT address FROM suppressions")).scalars().all()
    # One entry more: that they were erased, by whom and why.
    assert tuple(after) == (before[0] + 1, *before[1:])
    assert suppressed == [CANARIES["phone"]]
    assert body_of(admin.get(f"{USERS}/{other['id']}"))["user"] == other
    entries = body_of(admin.get("/api/v1/audit-log", query_string={"kind": "user", "subject": str(user_id)}))
    assert [entry["action"] for entry in entries["entries"]][:3] == ["erase", "unsubscribe", "change"]
    assert entries["entries"][0]["after"]["reason"] == "request 17"
    assert entries["entries"][2]["before"] == {"erased": True}


def test_an_erasure_is_harmless_to_repeat_and_finds_what_came_late(
    admin: FlaskClient, engine: Engine
) -> None:
    user_id = leave_traces(admin, engine)
    place = f"{USERS}/{user_id}/erase"
    first = body_of(admin.post(place, json=ERASE))
    run(engine, "UPDATE delivery_attempts SET detail = 'late' WHERE user_id = :user_id", user_id=user_id)
    second = body_of(admin.post(place, json=ERASE))
    assert (first["already"], first["rows"]["user"], first["rows"]["attempts"]) == (False, 1, 1)
    assert (second["already"], second["rows"]["user"], second["rows"]["attempts"]) == (True, 0, 1)
    assert sum(body_of(admin.post(place, json=ERASE))["rows"].values()) == 0
    problem(admin.post(f"{USERS}/999/erase", json=ERASE), 404)
    problem(admin.post(place, json={}), 422)
    problem(admin.post(place, json={"reason": " "}), 422)


def test_somebody_who_was_deleted_before_is_erased_as_well(admin: FlaskClient, engine: Engine) -> None:
    user_id = leave_traces(admin, engine)
    assert admin.delete(f"{USERS}/{user_id}").status_code == 200
    assert admin.post(f"{USERS}/{user_id}/erase", json=ERASE).status_code == 200
    assert found_in(engine, *CANARIES.values()) == {}
    assert problem(admin.post(USERS, json=a_user(external_id="canary-external")), 409)


def test_whoever_was_erased_comes_back_only_when_allowed(admin: FlaskClient, engine: Engine) -> None:
    user = add_user(admin, 1)
    other = add_user(admin, 2)
    admin.post(f"{USERS}/{user['id']}/erase", json=ERASE)
    renamed = {"external_id": "person-1"}
    for response in (
        admin.post(USERS, json=a_user(1)),
        admin.put(f"{USERS}/external/person-1", json=a_user(1)),
        admin.patch(f"{USERS}/{other['id']}", json=renamed),
        admin.put(f"{USERS}/{other['id']}", json=a_user(2) | renamed),
    ):
        assert "erased" in problem(response, 409)["detail"]
    rows = "external_id,first_name,timezone\nperson-1,Ann,UTC\nperson-3,Ann,UTC\n"
    imported = body_of(admin.post(f"{USERS}/import", data=rows, content_type="text/csv"))
    assert (imported["created"], imported["rejected"]) == (1, 1)
    assert imported["rejected_rows"] == [
        {
            "line": 2,
            "external_id": "person-1",
            "errors": [
                {
                    "pointer": "/external_id",
                    "detail": "is of somebody who was erased; an administrator must allow it first",
                }
            ],
        }
    ]
    # For an import of all or nothing, that is reason enough to write nothing.
    whole = admin.post(
        f"{USERS}/import?mode=all", data=rows.replace("person-3", "person-4"), content_type="text/csv"
    )
    assert problem(whole, 422)["rejected"] == 1
    problem(admin.get(f"{USERS}/external/person-4"), 404)

    for was_kept_out in (True, False):
        allowed = admin.post(
            "/api/v1/privacy/allow", json={"external_id": "person-1", "reason": "asked for it"}
        )
        assert AllowedAnswer.model_validate_json(allowed.data).allowed is was_kept_out
    again = add_user(admin, 1)
    assert (again["id"] != user["id"], again["version"]) == (True, 1)
    assert found_in(engine, "person-1") == {"person-1": {"users", "audit_log"}}


def test_without_the_key_nobody_new_is_taken_once_somebody_was_erased(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    """Who it was cannot be told then: better nobody than the wrong one."""
    keyless = api_client(engine, clock)
    user = add_user(admin, 1)
    add_user(keyless, 2)
    admin.post(f"{USERS}/{user['id']}/erase", json=ERASE)
    assert "DAYBREAK_SECRET_KEY" in problem(keyless.post(USERS, json=a_user(3)), 409)["detail"]
    rows = "external_id,first_name,timezone\nperson-4,Ann,UTC\n"
    imported = body_of(keyless.post(f"{USERS}/import", data=rows, content_type="text/csv"))
    assert (imported["created"], imported["rejected"]) == (0, 1)
    assert (
        "DAYBREAK_SECRET_KEY" in problem(keyless.get(f"{USERS}/{user['id']}/privacy-export"), 409)["detail"]
    )


def test_all_that_is_stored_is_told(admin: FlaskClient, engine: Engine) -> None:
    user_id = leave_traces(admin, engine)
    response = admin.get(f"{USERS}/{user_id}/privacy-export")
    assert response.headers["Cache-Control"] == "no-store"
    answer = PrivacyExportAnswer.model_validate_json(response.data).model_dump()
    for name, canary in CANARIES.items():
        assert canary in response.text or name == "refused_zone", name
    assert {
        name: len(answer[name]) for name in ("inbox", "dead_letters", "unsubscribes", "suppressions", "sends")
    } == {
        "inbox": 1,
        "dead_letters": 1,
        "unsubscribes": 1,
        "suppressions": 4,
        "sends": 1,
    }
    assert answer["user"]["attributes"] == {"note": CANARIES["attribute"]}
    assert {entry["action"] for entry in answer["audit"]} == {"create", "delete", "change", "unsubscribe"}
    admin.delete(f"{USERS}/{user_id}")
    after_deletion = body_of(admin.get(f"{USERS}/{user_id}/privacy-export"))
    assert after_deletion["user"] is None
    assert [row["external_id"] for row in after_deletion["deleted"]] == ["canary-external"]
    admin.post(f"{USERS}/{user_id}/erase", json=ERASE)
    problem(admin.get(f"{USERS}/{user_id}/privacy-export"), 404)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.EDITOR, Role.OPERATOR])
def test_only_an_administrator_may(engine: Engine, clock: SettableClock, role: Role) -> None:
    client = role_client(engine, clock, role)
    for response in (
        client.get(f"{USERS}/1/privacy-export"),
        client.post(f"{USERS}/1/erase", json=ERASE),
        client.post("/api/v1/privacy/allow", json={"external_id": "a", "reason": "b"}),
    ):
        assert problem(response, 403)["scope"] == "privacy"


def test_another_tenants_people_are_neither_told_nor_erased(
    admin: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    run(engine, "INSERT INTO tenants (name) VALUES ('other')")
    user = add_user(admin)
    stranger = role_client(engine, clock, Role.ADMIN, tenant_id=2)
    problem(stranger.get(f"{USERS}/{user['id']}/privacy-export"), 404)
    problem(stranger.post(f"{USERS}/{user['id']}/erase", json=ERASE), 404)
    assert body_of(admin.get(f"{USERS}/{user['id']}"))["user"] == user
    # Erased for one tenant is not erased for another.
    admin.post(f"{USERS}/{user['id']}/erase", json=ERASE)
    assert stranger.post(USERS, json=a_user()).status_code == 201


@pytest.fixture
def registry(engine: Engine, clock: SettableClock) -> Registry:
    planner = Planner(engine, PlanningPolicy(timedelta(hours=48), timedelta(hours=25)))
    secret = GUARDED.secret_key
    assert isinstance(secret, SecretStr)
    return Registry(engine, planner, clock, Tombstones(secret))


@pytest.mark.parametrize("by_import", [False, True])
def test_an_erasure_under_way_is_waited_for(
    admin: FlaskClient, engine: Engine, registry: Registry, by_import: bool
) -> None:
    """Whoever adds somebody at the moment of their erasure must not bring them back."""
    user = add_user(admin)
    secret = GUARDED.secret_key
    assert isinstance(secret, SecretStr)
    privacy = Privacy(engine, registry._planner, registry._clock, Tombstones(secret))
    body = UserInput.model_validate_json(
        '{"external_id": "person-1", "first_name": "Ann", "timezone": "UTC"}'
    )
    later: Future[Any]
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as connection:
            privacy._erase(connection, SYSTEM, user["id"], "request 18", registry._clock.now())
            if by_import:
                later = threads.submit(registry.upsert, 1, [body])
            else:
                later = threads.submit(registry.create, 1, body)
            wait_until_blocked(engine, later)
        if by_import:
            assert later.result(timeout=60) == WrittenUsers(erased=frozenset({"person-1"}))
        else:
            with pytest.raises(PersonErased):
                later.result(timeout=60)
    assert found_in(engine, "person-1") == {}
