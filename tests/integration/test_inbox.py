"""The channel `in_app`: planned for everybody, put into inboxes once, read through the API, gone with its user."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from scheduler.domain.message import MessageKey
from scheduler.domain.occasion import Channel
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from scheduler.store import inbox, users
from scheduler.store.batches import LeasedBatch
from scheduler.store.database import create_database_engine
from scheduler.store.inbox import NewEntry
from tests.fixtures.api import api_client, body_of, places, problem
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import LEASE, NINE, TENANT, Pipeline
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until_blocked
from worker.channels.context import ProviderContext
from worker.channels.inbox import InboxProvider, build
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, OutgoingMessage


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    pipeline = Pipeline(engine, clock)
    pipeline.execute(
        "UPDATE occasions SET channels = '{email,in_app}', html = '<p>Hey, {{ first_name }}</p>'"
    )
    return pipeline


@pytest.fixture
def provider(engine: Engine, clock: SettableClock, tmp_path: Path) -> InboxProvider:
    return build(ProviderEntry("inbox", "inbox"), ProviderContext(clock, engine, tmp_path / "outbox.ndjson"))


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def message_to(user_id: int, day: int = 0, **changes: Any) -> OutgoingMessage:
    """A message of its own day for a user."""
    key = MessageKey(1, user_id, NINE.date() - timedelta(days=day), 0, Channel.IN_APP)
    values: dict[str, Any] = {"subject": f"Day {day}", "text": "Hey", "tenant_id": TENANT} | changes
    return OutgoingMessage(id=key.text, channel=Channel.IN_APP, address="p", fields={}, **values)


def entry_for(user_id: int) -> NewEntry:
    return NewEntry(MessageKey.parse(message_to(user_id).id), TENANT, "Happy birthday", "Hey")


def lease(pipeline: Pipeline) -> LeasedBatch:
    pipeline.enqueue()
    return pipeline.lease(channel=Channel.IN_APP)


def inbox_of(client: FlaskClient, user_id: int, **query: object) -> dict[str, Any]:
    found: dict[str, Any] = body_of(client.get(f"/api/v1/users/{user_id}/inbox", query_string=query))
    return found


def kept(pipeline: Pipeline) -> int:
    return int(pipeline.rows("SELECT count(*) AS n FROM inbox_messages")[0].n)


def test_an_occasion_with_both_channels_plans_both_and_reaches_everybody_in_the_app(
    pipeline: Pipeline,
) -> None:
    both, *_ = pipeline.add_people(1)
    [only_app] = pipeline.add_people(1, first=1, email=None)
    pipeline.plan(NINE - timedelta(hours=1))
    planned = pipeline.rows("SELECT user_id, CAST(channel AS text) AS channel FROM message_log")
    assert Counter((row.user_id, row.channel) for row in planned) == {
        (both, "email"): 1,
        (both, "in_app"): 1,
        (only_app, "in_app"): 1,
    }


def test_a_due_message_is_in_its_users_inbox_once_it_is_sent(
    pipeline: Pipeline, provider: InboxProvider, client: FlaskClient
) -> None:
    user_id, other = pipeline.add_due_people(2)
    assert pipeline.deliverer(provider).deliver(lease(pipeline), Signal()).sent == 2
    listed = inbox_of(client, user_id)
    [entry] = listed["entries"]
    assert entry == {
        "id": entry["id"],
        "message_id": f"1.{user_id}.20270301.0.in_app",
        "occasion": "birthday",
        "local_date": "2027-03-01",
        "slot": 0,
        "subject": "Happy birthday",
        "body": "Hey, Ann0 Lee, it's your birthday!",
        "html": "<p>Hey, Ann0</p>",
        "created_at": "2027-03-01T09:00:00Z",
        "read_at": None,
    }
    assert (listed["unread_count"], listed["next_cursor"]) == (1, None)
    assert len(inbox_of(client, other)["entries"]) == 1


def test_a_message_sent_again_is_accepted_and_there_once(
    pipeline: Pipeline, provider: InboxProvider, clock: SettableClock
) -> None:
    """FAULTS 2: the worker is killed after its messages are in, before the outcome is written."""
    people = pipeline.add_due_people(3)
    batch = lease(pipeline)

    class Killed(InboxProvider):
        def deliver(self, messages: Any, control: Any) -> Any:
            super().deliver(messages, control)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.deliverer(Killed("inbox", pipeline.engine, clock)).deliver(batch, Signal())
    entries = pipeline.rows("SELECT user_id, id, created_at FROM inbox_messages ORDER BY id")
    assert len(entries) == 3
    clock.advance(LEASE + timedelta(seconds=1))
    assert pipeline.recover()["lapsed_leases"] == 1
    assert pipeline.deliverer(provider).deliver(lease(pipeline), Signal()).sent == 3
    assert len(pipeline.keys_in("sent")) == len(people)
    assert pipeline.rows("SELECT user_id, id, created_at FROM inbox_messages ORDER BY id") == entries


def test_what_must_not_be_started_is_not_attempted(pipeline: Pipeline, provider: InboxProvider) -> None:
    people = pipeline.add_people(5)
    signal = Signal(starts=3)
    outcomes = provider.deliver([message_to(user_id) for user_id in people], signal)
    assert outcomes == [Accepted(NINE)] * 3 + [NotAttempted()] * 2
    assert (kept(pipeline), signal.noted) == (3, [Accepted(NINE)] * 3)
    assert provider.deliver([message_to(people[4])], Signal(starts=0)) == [NotAttempted()]
    assert provider.deliver([], Signal()) == []


@pytest.mark.parametrize("text", ["a\0b", "half \ud800"])
def test_a_message_that_cannot_be_stored_fails_alone(
    pipeline: Pipeline, provider: InboxProvider, text: str
) -> None:
    people = pipeline.add_people(3)
    sent = [message_to(people[0]), message_to(people[1], text=text), message_to(people[2])]
    first, bad, last = provider.deliver(sent, Signal())
    assert first == last == Accepted(NINE)
    assert isinstance(bad, Failed)
    assert (bad.kind, bad.category) == (FailureKind.PERMANENT, "not_storable")
    assert kept(pipeline) == 2


def test_a_database_that_does_not_answer_is_a_retryable_outcome(clock: SettableClock) -> None:
    engine = create_database_engine(
        f"postgresql://x@127.0.0.1:{free_port()}/x", pool_size=1, application_name="daybreak-tests"
    )
    signal = Signal()
    outcomes = InboxProvider("inbox", engine, clock).deliver([message_to(1), message_to(2)], signal)
    engine.dispose()
    for outcome in outcomes:
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.category) == (FailureKind.RETRYABLE, "inbox_unavailable")
    assert signal.noted == outcomes


def test_nothing_is_put_into_another_tenants_inbox(pipeline: Pipeline, provider: InboxProvider) -> None:
    [user_id] = pipeline.add_people(1)
    provider.deliver([message_to(user_id, tenant_id=TENANT + 1)], Signal())
    assert kept(pipeline) == 0


def test_a_deleted_user_leaves_no_inbox(
    pipeline: Pipeline, provider: InboxProvider, client: FlaskClient
) -> None:
    gone, stays = pipeline.add_people(2)
    provider.deliver([message_to(gone), message_to(gone, 1), message_to(stays)], Signal())
    assert client.delete(f"/api/v1/users/{gone}").status_code == 200
    assert [row.user_id for row in pipeline.rows("SELECT user_id FROM inbox_messages")] == [stays]
    problem(client.get(f"/api/v1/users/{gone}/inbox"), 404)
    assert provider.deliver([message_to(gone, 2)], Signal()) == [Accepted(NINE)]
    assert kept(pipeline) == 1


def test_a_deletion_that_waits_for_a_message_on_its_way_takes_that_too(pipeline: Pipeline) -> None:
    [user_id] = pipeline.add_people(1)
    with ThreadPoolExecutor(1) as threads, pipeline.engine.begin() as worker:
        assert inbox.add(worker, [entry_for(user_id)], now=NINE) == 1
        deletion = threads.submit(pipeline.registry.delete, TENANT, user_id)
        wait_until_blocked(pipeline.engine, deletion)
        worker.commit()
        deletion.result(timeout=30)
    assert kept(pipeline) == 0


def test_a_message_that_waits_for_a_deletion_finds_nobody(
    pipeline: Pipeline, provider: InboxProvider
) -> None:
    [user_id] = pipeline.add_people(1)
    with ThreadPoolExecutor(1) as threads, pipeline.engine.begin() as deleter:
        users.delete(deleter, TENANT, user_id, now=NINE)
        delivery = threads.submit(provider.deliver, [message_to(user_id)], Signal())
        wait_until_blocked(pipeline.engine, delivery)
        deleter.commit()
        delivery.result(timeout=30)
    assert kept(pipeline) == 0


def test_an_inbox_is_read_page_by_page_the_newest_first(
    pipeline: Pipeline, provider: InboxProvider, client: FlaskClient
) -> None:
    user_id, other = pipeline.add_people(2)
    for day in (4, 3, 2, 1, 0):
        provider.deliver([message_to(user_id, day), message_to(other, day)], Signal())
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = inbox_of(client, user_id, limit=2, **cursor)
        assert page["unread_count"] == 5
        seen += [entry["subject"] for entry in page["entries"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"Day {day}" for day in range(5)]


def test_an_entry_is_read_once_and_counted_out(
    pipeline: Pipeline, provider: InboxProvider, client: FlaskClient, clock: SettableClock
) -> None:
    [user_id] = pipeline.add_people(1)
    for day in (1, 0):
        provider.deliver([message_to(user_id, day)], Signal())
    newest = inbox_of(client, user_id)["entries"][0]["id"]
    path = f"/api/v1/users/{user_id}/inbox/{newest}/read"
    clock.advance(timedelta(minutes=5))
    marked = body_of(client.post(path))
    assert (marked["entry"]["read_at"], marked["unread_count"]) == ("2027-03-01T09:05:00Z", 1)
    clock.advance(timedelta(minutes=5))
    assert body_of(client.post(path)) == marked
    assert [entry["subject"] for entry in inbox_of(client, user_id, unread="true")["entries"]] == ["Day 1"]
    assert len(inbox_of(client, user_id, unread="false")["entries"]) == 2


def test_an_entry_is_found_in_its_own_users_inbox_only(
    pipeline: Pipeline, provider: InboxProvider, client: FlaskClient
) -> None:
    owner, other = pipeline.add_people(2)
    provider.deliver([message_to(owner)], Signal())
    entry_id = inbox_of(client, owner)["entries"][0]["id"]
    for path in (f"{other}/inbox/{entry_id}", f"{owner}/inbox/{entry_id + 1}", f"999/inbox/{entry_id}"):
        problem(client.post(f"/api/v1/users/{path}/read"), 404)
    problem(client.get("/api/v1/users/999/inbox"), 404)
    assert inbox_of(client, owner)["unread_count"] == 1
    pipeline.execute("UPDATE users SET tenant_id = 2 WHERE id = :id", id=owner)
    problem(client.get(f"/api/v1/users/{owner}/inbox"), 404)


@pytest.mark.parametrize("query", ["unread=perhaps", "cursor=x", "limit=0", "since=now"])
def test_a_query_that_breaks_rules_is_refused(client: FlaskClient, pipeline: Pipeline, query: str) -> None:
    [user_id] = pipeline.add_people(1)
    assert places(problem(client.get(f"/api/v1/users/{user_id}/inbox?{query}"), 400)) == [
        query.partition("=")[0]
    ]


def test_an_inbox_takes_no_options(engine: Engine, clock: SettableClock, tmp_path: Path) -> None:
    context = ProviderContext(clock, engine, tmp_path / "outbox.ndjson")
    with pytest.raises(ConfigurationError, match=r"^provider app \(inbox\): /?url"):
        build(ProviderEntry("app", "inbox", {"url": "https://example.org"}), context)


def test_what_an_entry_says_stays_out_of_its_repr() -> None:
    assert "Hey" not in repr(entry_for(1))
    assert "birthday" not in repr(entry_for(1))
