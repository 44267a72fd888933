"""Batches by their states, page by page, each list by its index."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, text

from api.models.batches import BatchListAnswer, OneBatchAnswer
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.store import batch_lists
from scheduler.store.batch_lists import After, BatchFilter, BatchList
from tests.fixtures.api import api_client, body_of, places, problem
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider
from tests.fixtures.statements import executed, nodes, plan_of

BATCHES: Final = "/api/v1/batches"

FILL: Final = text("""
INSERT INTO batches (send_at, due_at, enqueued_at, lease_expires_at, finished_at, leased_by, created_at, tenant_id,
                     occasion_id, local_date, channel, priority, state, held, lease_token, sent_count, retried_count,
                     dead_count, expired_count, cancelled_count, slot, attempt, user_ids)
SELECT at, at, CASE WHEN state IN ('enqueued', 'leased') THEN at END, CASE WHEN state = 'leased' THEN at END,
       CASE WHEN state = 'done' THEN at END, CASE WHEN state = 'leased' THEN 'w' END, at, 1, 1,
       date '2027-03-01', 'email', 'normal', CAST(state AS batch_state), is_held, 0, 0, 0, 0, 0, 0, 0, 0, ARRAY[n]
FROM (SELECT n, CASE n % 10 WHEN 0 THEN 'pending' WHEN 1 THEN 'pending' WHEN 2 THEN 'enqueued' WHEN 3 THEN 'leased'
                    ELSE 'done' END AS state, n % 10 = 1 AS is_held, :nine + n / 3 * interval '1 second' AS at
      FROM generate_series(1, :count) n) AS made""")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock, batch_size=2)


def fill(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        connection.execute(FILL, {"nine": NINE, "count": count})


def walk(client: FlaskClient, **query: object) -> Iterator[dict[str, Any]]:
    """All batches of a list."""
    cursor: str | None = ""
    while cursor is not None:
        page = body_of(client.get(BATCHES, query_string=query | ({"cursor": cursor} if cursor else {})))
        BatchListAnswer.model_validate(page)
        yield from page["batches"]
        cursor = page["next_cursor"]


def test_a_batch_is_followed_through_its_states(client: FlaskClient, pipeline: Pipeline) -> None:
    users = pipeline.add_due_people(3)
    [first, second] = walk(client)
    assert first == {
        "id": 1,
        "state": "pending",
        "held": False,
        "occasion": "birthday",
        "local_date": "2027-03-01",
        "slot": 0,
        "channel": "email",
        "priority": "normal",
        "send_at": "2027-03-01T09:00:00Z",
        "due_at": "2027-03-01T09:00:00Z",
        "enqueued_at": None,
        "lease_expires_at": None,
        "leased_by": None,
        "lease_token": 0,
        "finished_at": None,
        "created_at": "2027-03-01T08:00:00Z",
        "attempt": 0,
        "max_attempts": None,
        "provider": None,
        "messages": 2,
        "counts": {"sent": 0, "retried": 0, "dead": 0, "expired": 0, "cancelled": 0},
    }
    assert second["messages"] == 1
    pipeline.enqueue()
    assert [each["id"] for each in walk(client, state="enqueued")] == [1, 2]
    leased = pipeline.lease("a worker")
    [shown] = walk(client, state="leased")
    assert (shown["id"], shown["leased_by"], shown["lease_token"]) == (1, "a worker", 1)
    pipeline.deliverer(ScriptedProvider()).deliver(leased, Signal())
    [done] = walk(client, state="done")
    assert (done["counts"]["sent"], done["finished_at"]) == (2, "2027-03-01T09:00:00Z")
    read = body_of(client.get(f"{BATCHES}/1"))
    OneBatchAnswer.model_validate(read)
    assert read["batch"] == done | {"user_ids": users[:2]}


@pytest.mark.parametrize("which", list(BatchList))
def test_pages_hold_each_batch_once_in_the_order_of_its_turn(
    client: FlaskClient, engine: Engine, which: BatchList
) -> None:
    fill(engine, 300)
    found = [each["id"] for each in walk(client, state=which.value, limit=7)]
    assert len(found) == (180 if which is BatchList.DONE else 30)
    assert found == sorted(found, reverse=which is BatchList.DONE)


def test_batches_are_filtered(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 100)
    assert len(list(walk(client, state="held", occasion="birthday", channel="email"))) == 10
    assert list(walk(client, state="held", occasion="anniversary")) == []
    assert list(walk(client, state="held", channel="sms")) == []


def test_a_page_examines_so_many_batches_and_says_where_to_go_on(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lists, "ROWS_EXAMINED", 10)
    fill(engine, 100)
    first = body_of(client.get(BATCHES, query_string={"state": "done", "channel": "sms"}))
    assert first["batches"] == []
    assert first["next_cursor"] is not None
    assert list(walk(client, state="done", channel="sms")) == []
    found = [each["id"] for each in walk(client, state="done", channel="email", limit=7)]
    assert len(found) == 60
    assert found == sorted(set(found), reverse=True)


def test_another_tenants_batches_are_not_seen(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 10)
    with engine.begin() as connection:
        connection.execute(text("UPDATE batches SET tenant_id = 2"))
    assert list(walk(client, state="done")) == []
    problem(client.get(f"{BATCHES}/4"), 404)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("state=lost", "state"),
        ("occasion=nothing", "occasion"),
        ("cursor=YmF0Y2gtZG9uZTp4", "cursor"),
        ("cursor=YmF0Y2gtcGVuZGluZzoyMDI3LTAzLTAxVDA5OjAwOjAwLzE", "cursor"),
    ],
)
def test_a_wrong_query_is_refused_by_parameter(client: FlaskClient, query: str, place: str) -> None:
    """The last two cursors: of another list, and an instant without a zone."""
    assert places(problem(client.get(f"{BATCHES}?{query}"), 400)) == [place]


INDEXES: Final = {
    BatchList.PENDING: "batches_pending",
    BatchList.HELD: "batches_held",
    BatchList.ENQUEUED: "batches_enqueue_deadline",
    BatchList.LEASED: "batches_lease_deadline",
    BatchList.DONE: "batches_finished",
}


def plan_of_page(
    connection: Connection, which: BatchList, wanted: BatchFilter, after: After | None
) -> list[dict[str, Any]]:
    def read(connection: Connection) -> object:
        return batch_lists.page(connection, TENANT, which, wanted, after=after, most=51)

    [(statement, values)] = executed(connection, read)
    return list(nodes(plan_of(connection, statement, values)))


def test_each_list_is_read_by_the_index_of_its_state(engine: Engine) -> None:
    fill(engine, 100_000)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE batches"))
    for which, index in INDEXES.items():
        for after in (None, After(NINE + timedelta(hours=1), 10_800)):
            for wanted in (BatchFilter(), BatchFilter(channel=Channel.EMAIL)):
                with engine.connect() as connection:
                    plan = plan_of_page(connection, which, wanted, after)
                used = {node["Index Name"] for node in plan if "Index Name" in node}
                assert used == {index}, (which, after)
                kinds = {node["Node Type"] for node in plan}
                assert "Seq Scan" not in kinds
                # What several occasions hold is sorted: their index has them one after the other.
                assert "Sort" not in kinds or which is BatchList.HELD, (which, after)
