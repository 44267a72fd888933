"""Messages that a worker and an operator want at once, in every state, and lists that change while they are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey, MessageState
from scheduler.store import ad_hoc, message_queries, messages, withdrawals
from scheduler.store.direct import answers
from scheduler.store.message_queries import MessageFilter
from tests.fixtures.api import add_user, api_client, body_of, problem
from tests.fixtures.dead_letters import kill
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.statements import executed, nodes, plan_of
from tests.fixtures.waiting import wait_until_blocked

MESSAGES: Final = "/api/v1/messages"
LETTERS: Final = "/api/v1/dead-letters"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


def key_of(user: int) -> MessageKey:
    return MessageKey.parse(f"1.{user}.20270301.0.email")


def send(client: FlaskClient, *users: int) -> dict[str, Any]:
    body = {"to": {"user_ids": users}, "channels": ["email"], "subject": "Hello", "body": "Hi"}
    answer: dict[str, Any] = body_of(client.post(MESSAGES, json=body))
    return answer


def ids_from(client: FlaskClient, url: str, name: str, cursor: str | None, **query: object) -> list[Any]:
    """The ids on the pages behind a cursor."""
    found: list[Any] = []
    while cursor is not None:
        page = body_of(client.get(url, query_string=query | ({"cursor": cursor} if cursor else {})))
        found += [each["id"] for each in page[name]]
        cursor = page["next_cursor"]
    return found


def test_who_comes_first_has_the_message(client: FlaskClient, pipeline: Pipeline, engine: Engine) -> None:
    """Neither sees what the other has not committed: it waits, and then finds the message in another state."""
    claimed, cancelled = pipeline.add_due_people(2)
    pipeline.enqueue()
    batch = pipeline.lease()
    with ThreadPoolExecutor(1) as pool, engine.connect() as worker:
        transaction = worker.begin()
        with engine.begin() as operator:
            withdrawals.withdraw(operator, TENANT, key_of(cancelled), now=NINE)
            claim = pool.submit(answers, worker, [messages.claiming(batch)])
            wait_until_blocked(engine, claim)
        assert [row[0] for row in claim.result()[0].rows] == [claimed]
        cancel = pool.submit(client.post, f"{MESSAGES}/{key_of(claimed).text}/cancel")
        wait_until_blocked(engine, cancel)
        transaction.commit()
        assert "sending" in problem(cancel.result(), 409)["detail"]
    assert pipeline.states() == {"sending": 1, "cancelled": 1}


_MAY_BE_CANCELLED: Final = {MessageState.SCHEDULED, MessageState.RETRYING}
_MAY_BE_RETRIED: Final = {MessageState.RETRYING}


def test_a_message_in_any_other_state_is_neither_cancelled_nor_tried_again(
    client: FlaskClient, pipeline: Pipeline
) -> None:
    """A dead one of these has no letter: it is tried again all the same, as its letter is not what it waits for."""
    [user] = pipeline.add_due_people(1)
    url = f"{MESSAGES}/{key_of(user).text}"
    for state in MessageState:
        accepted = "now()" if state in ("sent", "delivered", "bounced") else "NULL"
        reason = "'too_late'" if state in ("dead", "cancelled", "expired") else "NULL"
        attempt = 0 if state == "scheduled" else 1
        pipeline.execute(
            f"UPDATE message_log SET state = '{state}', attempt = {attempt}, accepted_at = {accepted}, "
            f"reason = {reason}, batch_id = 1"
        )
        if state not in _MAY_BE_CANCELLED:
            assert f"it is {state}" in problem(client.post(f"{url}/cancel"), 409)["detail"]
        if state not in _MAY_BE_RETRIED | {MessageState.DEAD}:
            assert f"is {state}" in problem(client.post(f"{url}/retry"), 409)["detail"]
        assert pipeline.states() == {state: 1}
    assert pipeline.rows("SELECT 1 FROM audit_log WHERE kind = 'message'") == []


def test_pages_hold_what_was_there_all_the_while_once(client: FlaskClient, pipeline: Pipeline) -> None:
    """What the cursor names may go; what comes or goes behind it is shown or not, and nothing twice."""
    users = kill(pipeline, 6)
    [*_, first_shown, last_shown] = users
    page = body_of(client.get(LETTERS, query_string={"limit": 2}))
    assert [each["user_id"] for each in page["dead_letters"]] == [last_shown, first_shown]
    client.post(f"{LETTERS}/{page['dead_letters'][1]['id']}/replay")
    client.post(f"{LETTERS}/3/discard", json={"reason": "over"})
    assert ids_from(client, LETTERS, "dead_letters", page["next_cursor"], limit=1) == [4, 2, 1]
    page = body_of(client.get(MESSAGES, query_string={"limit": 2}))
    assert [each["user_id"] for each in page["messages"]] == users[:2]
    pipeline.execute(
        "DELETE FROM message_log WHERE user_id IN (:first, :third)", first=users[1], third=users[2]
    )
    send(client, users[0], users[5])
    rest = ids_from(client, MESSAGES, "messages", page["next_cursor"], limit=2)
    assert [MessageKey.parse(each).user_id for each in rest] == [*users[3:], users[5]]
    sends = [send(client, users[0])["send"]["id"] for _ in range(3)]
    newest = body_of(client.get(f"{MESSAGES}/sends", query_string={"limit": 1}))
    assert newest["sends"][0]["id"] == sends[-1]
    send(client, users[0])
    behind = ids_from(client, f"{MESSAGES}/sends", "sends", newest["next_cursor"], limit=1)
    assert behind[:2] == [sends[1], sends[0]]


def test_the_messages_of_a_send_are_looked_up_where_they_are(client: FlaskClient, engine: Engine) -> None:
    users = [add_user(client, number, timezone="UTC", dates={})["id"] for number in range(1, 4)]
    sent = send(client, *users[1:])
    listed = body_of(client.get(MESSAGES, query_string={"send_id": sent["send"]["id"]}))
    assert [each["id"] for each in listed["messages"]] == sent["message_ids"]
    assert listed["next_cursor"] is None
    by_key = body_of(client.get(MESSAGES, query_string={"occasion": sent["send"]["occasion"]}))
    assert by_key == listed
    one = {"send_id": sent["send"]["id"], "user_id": users[2]}
    assert [each["user_id"] for each in body_of(client.get(MESSAGES, query_string=one))["messages"]] == [
        users[2]
    ]
    elsewhere = {"send_id": sent["send"]["id"], "local_date_from": "2027-03-02"}
    assert body_of(client.get(MESSAGES, query_string=elsewhere)) == {"messages": [], "next_cursor": None}
    with engine.connect() as connection:
        stored = ad_hoc.find(connection, TENANT, sent["send"]["id"])
        assert stored is not None
        assert ad_hoc.user_ids(connection, stored, most=2) == users[1:]
        assert ad_hoc.user_ids(connection, stored, most=1) is None
        wanted = MessageFilter(user_ids=users, local_date_first=NINE.date(), local_date_last=NINE.date())
        [_, (scan, values)] = executed(
            connection, lambda c: message_queries.page(c, TENANT, wanted, position=None, most=50)
        )
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = list(nodes(plan_of(connection, scan, values)))
    [condition] = [node["Index Cond"] for node in plan if "Index Cond" in node]
    assert "user_id = ANY" in condition
    assert {node["Relation Name"] for node in plan if "Relation Name" in node} == {"message_log_2027_03"}
