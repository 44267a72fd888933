"""Find messages, take them back, try them again."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, text

from api.models.messages import MessageListAnswer, OneMessageAnswer, RetriedMessageAnswer
from scheduler.clock import SettableClock
from scheduler.domain.quiet_hours import QuietHours
from scheduler.store import message_queries
from scheduler.store.message_queries import MessageFilter
from scheduler.store.partitions import Partitions
from tests.fixtures.api import api_client, body_of, places, problem
from tests.fixtures.dead_letters import deliver_due, kill, refusing
from tests.fixtures.pipeline import NINE, Pipeline
from tests.fixtures.providers import ScriptedProvider, failed
from worker.channels.port import FailureKind

MESSAGES: Final = "/api/v1/messages"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


def url_of(user: int) -> str:
    return f"{MESSAGES}/1.{user}.20270301.0.email"


def read(client: FlaskClient, user: int) -> dict[str, Any]:
    answer = body_of(client.get(url_of(user)))
    OneMessageAnswer.model_validate(answer)
    found: dict[str, Any] = answer["message"]
    return found


def found(client: FlaskClient, **query: object) -> list[int]:
    """The users whose messages a search finds, in its order."""
    page = body_of(client.get(MESSAGES, query_string=query))
    MessageListAnswer.model_validate(page)
    assert page["next_cursor"] is None
    return [each["user_id"] for each in page["messages"]]


def audited(pipeline: Pipeline) -> list[tuple[str, str, Any, Any]]:
    rows = pipeline.rows(
        "SELECT action, subject, before, after FROM audit_log WHERE kind = 'message' ORDER BY id"
    )
    return [tuple(row) for row in rows]


def test_messages_are_found_by_all_that_is_known_of_them(client: FlaskClient, pipeline: Pipeline) -> None:
    dead = kill(pipeline, 2)
    later = pipeline.add_people(1, first=2, preferred_time=time(17))
    pipeline.execute("UPDATE occasions SET planned_through = NULL")
    pipeline.plan(NINE)
    [evening] = later
    assert found(client) == [*dead, evening]
    assert found(client, reason="http_400") == dead
    assert found(client, reason="http_500") == []
    assert found(client, external_id="p0000001") == [dead[1]]
    assert found(client, external_id="nobody") == []
    assert found(client, external_id="p0000001", user_id=dead[0]) == []
    assert found(client, send_at_from="2027-03-01T10:00:00Z") == [evening]
    assert found(client, send_at_until="2027-03-01T17:00:00Z") == dead
    assert (
        found(client, send_at_from="2027-03-01T09:00:00+00:00", send_at_until="2027-03-01T09:00:01Z") == dead
    )
    assert found(client, send_at_from="2030-01-01T00:00:00Z") == []
    assert found(client, state="scheduled", occasion="birthday", local_date_from="2027-03-01") == [evening]
    assert found(client, send_id=2**31 - 1) == []


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("external_id=", "external_id"),
        ("reason=%0a", "reason"),
        ("send_id=0", "send_id"),
        ("send_id=2147483648", "send_id"),
        ("send_at_from=2027-03-01T09:00:00", "send_at_from"),
        ("send_at_until=yesterday", "send_at_until"),
        ("occasion=birthday&send_id=77", "send_id"),
    ],
)
def test_a_wrong_search_is_refused_by_parameter(client: FlaskClient, query: str, place: str) -> None:
    assert places(problem(client.get(f"{MESSAGES}?{query}"), 400)) == [place]


def test_what_is_scheduled_is_taken_back(client: FlaskClient, pipeline: Pipeline) -> None:
    first, second = pipeline.add_due_people(2)
    answer = client.post(f"{url_of(first)}/cancel")
    assert answer.status_code == 200
    assert body_of(answer)["message"] == read(client, first)
    assert (read(client, first)["state"], read(client, first)["reason"]) == (
        "cancelled",
        "cancelled_by_operator",
    )
    assert audited(pipeline) == [
        ("cancel", f"1.{first}.20270301.0.email", {"state": "scheduled"}, {"state": "cancelled"})
    ]
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert provider.keys == [f"1.{second}.20270301.0.email"]
    # Planning does not bring it back.
    pipeline.execute("UPDATE occasions SET planned_through = NULL")
    pipeline.plan(NINE)
    assert read(client, first)["state"] == "cancelled"


def test_a_cancelled_message_survives_an_edit_of_its_user(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = pipeline.add_due_people(1)
    client.post(f"{url_of(user)}/cancel")
    changes = {"last_name": "Other"}
    client.patch(f"/api/v1/users/{user}", json=changes, content_type="application/merge-patch+json")
    assert read(client, user)["state"] == "cancelled"
    assert pipeline.states() == {"cancelled": 1}


def test_what_was_sent_or_has_ended_cannot_be_cancelled(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = pipeline.add_due_people(1)
    deliver_due(pipeline, ScriptedProvider())
    assert "sent" in problem(client.post(f"{url_of(user)}/cancel"), 409)["detail"]
    assert audited(pipeline) == []
    problem(client.post(f"{MESSAGES}/1.999.20270301.0.email/cancel"), 404)
    problem(client.post(f"{MESSAGES}/x/cancel"), 404)
    pipeline.execute("UPDATE message_log SET tenant_id = 2")
    problem(client.post(f"{url_of(user)}/cancel"), 404)


def test_a_message_being_sent_is_not_cancelled(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = pipeline.add_due_people(1)
    answers: list[int] = []
    provider = ScriptedProvider(
        before=lambda: answers.append(client.post(f"{url_of(user)}/cancel").status_code)
    )
    deliver_due(pipeline, provider)
    assert answers == [409]
    assert read(client, user)["state"] == "sent"


def test_a_retry_that_was_refused_is_cancelled(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    [user] = pipeline.add_due_people(1)
    deliver_due(pipeline, refusing("http_503", FailureKind.RETRYABLE))
    assert read(client, user)["state"] == "retrying"
    assert body_of(client.post(f"{url_of(user)}/cancel"))["message"]["state"] == "cancelled"
    clock.set(NINE + timedelta(hours=2))
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert provider.keys == []


def test_a_retry_that_may_be_out_ends_as_a_discarded_dead_letter(
    client: FlaskClient, pipeline: Pipeline
) -> None:
    [user] = pipeline.add_due_people(1)
    deliver_due(pipeline, refusing("timeout", FailureKind.UNKNOWN))
    assert read(client, user)["state"] == "retrying"
    answer = body_of(client.post(f"{url_of(user)}/cancel"))["message"]
    assert (answer["state"], answer["reason"]) == ("dead", "outcome_unknown")
    assert answer["dead_letter"]["discard_reason"] == "cancelled_by_operator"
    problem(client.post(f"{url_of(user)}/retry"), 409)


def test_a_dead_message_is_tried_again(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = kill(pipeline, 1)
    answer = body_of(client.post(f"{url_of(user)}/retry"))
    RetriedMessageAnswer.model_validate(answer)
    assert (answer["due_at"], answer["message"]["state"]) == ("2027-03-01T09:00:00Z", "retrying")
    assert answer["message"]["dead_letter"] is None
    assert [action for action, *_ in audited(pipeline)] == ["retry"]
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert provider.keys == [f"1.{user}.20270301.0.email"]
    assert "sent" in problem(client.post(f"{url_of(user)}/retry"), 409)["detail"]


def test_a_discarded_letter_keeps_its_message_dead(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = kill(pipeline, 1)
    letter = read(client, user)["dead_letter"]["id"]
    client.post(f"/api/v1/dead-letters/{letter}/discard", json={"reason": "wrong address"})
    problem(client.post(f"{url_of(user)}/retry"), 409)
    assert read(client, user)["state"] == "dead"


def test_a_message_that_waits_to_be_retried_need_not_wait(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    [user] = pipeline.add_due_people(1)
    far = ScriptedProvider(lambda _: failed(retry_after=timedelta(minutes=30)))
    deliver_due(pipeline, far)
    provider = ScriptedProvider()
    deliver_due(pipeline, provider)
    assert provider.keys == []
    assert client.post(f"{url_of(user)}/retry").status_code == 200
    assert client.post(f"{url_of(user)}/retry").status_code == 200  # once more does no harm
    deliver_due(pipeline, provider)
    assert provider.keys == [f"1.{user}.20270301.0.email"]
    clock.set(NINE + timedelta(hours=2))
    deliver_due(pipeline, provider)
    assert len(provider.keys) == 1
    assert read(client, user)["attempt"] == 2


def test_what_quiet_hours_put_off_is_not_hurried(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    pipeline = Pipeline(engine, clock)
    [user] = pipeline.add_due_people(1)
    deliver_due(pipeline, refusing("http_503", FailureKind.RETRYABLE))
    quiet = Pipeline(engine, clock, quiet_hours=QuietHours.parse("08:00-18:00"))
    clock.advance(timedelta(hours=1))
    deliver_due(quiet, ScriptedProvider())
    assert read(client, user)["time_rule"] == "quiet_hours"
    assert "quiet hours" in problem(client.post(f"{url_of(user)}/retry"), 409)["detail"]


def test_a_search_by_send_time_reads_the_primary_key_of_the_months_it_means(engine: Engine) -> None:
    with engine.begin() as connection:
        _fill(connection)
    wanted = MessageFilter(
        reason="too_late",
        send_from=datetime(2027, 3, 5, tzinfo=UTC),
        send_until=datetime(2027, 3, 6, tzinfo=UTC),
    )
    with engine.connect() as connection:
        months = [starts for starts, _ in message_queries._partitions(connection, wanted, None)]
        assert months == [date(2027, 2, 1), date(2027, 3, 1)]
        statement, parameters = message_queries._scan(1, wanted, None)
        parameters |= {"starts": date(2027, 3, 1), "ends": date(2027, 4, 1), "most": 51, "examined": 10_000}
        rows = connection.execute(text(f"EXPLAIN (COSTS OFF) {statement.text}"), parameters)
        plan = "\n".join(rows.scalars())
    assert "message_log_2027_03_pkey" in plan
    assert "Sort" not in plan
    assert "Seq Scan" not in plan


def _fill(connection: Connection) -> None:
    """A message a user, over three months."""
    Partitions().ensure(connection, date(2027, 1, 1), date(2027, 4, 30))
    connection.execute(
        text("""
        INSERT INTO message_log (user_id, send_at, occasion_id, local_date, channel, tenant_id, state, user_version,
                                 date_rule, time_rule, slot, attempt, timezone, reason)
        SELECT n, timestamptz '2027-02-01 09:00:00Z' + n % 80 * interval '1 day', 1, date '2027-02-01' + n % 80,
               'email', 1, 'expired', 1, 'exact', 'exact', 0, 0, 'UTC', 'too_late'
        FROM generate_series(1, 60000) n""")
    )
    connection.execute(text("ANALYZE message_log"))
