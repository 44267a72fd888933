"""Dead letters through the API: lists, one with its history, replays and discards, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from tests.fixtures.api import api_client, body_of, places, problem
from tests.fixtures.dead_letters import kill, kill_by
from tests.fixtures.pipeline import NINE, Pipeline

LETTERS = "/api/v1/dead-letters"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def listed(client: FlaskClient, **query: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body_of(client.get(LETTERS, query_string=query))["dead_letters"]
    return found


def test_a_dead_letter_is_listed_and_read_with_its_message(client: FlaskClient, pipeline: Pipeline) -> None:
    [user_id] = kill(pipeline, 1)
    letter = {
        "id": 1,
        "message_id": f"1.{user_id}.20270301.0.email",
        "user_id": user_id,
        "occasion": "birthday",
        "local_date": "2027-03-01",
        "slot": 0,
        "channel": "email",
        "category": "http_400",
        "detail": "the provider said no",
        "provider": "scripted",
        "attempt": 1,
        "died_at": "2027-03-01T09:00:05.250000Z",
        "warning": None,
        "discarded_at": None,
        "discard_reason": None,
    }
    assert body_of(client.get(LETTERS)) == {
        "dead_letters": [letter],
        "counts": {"http_400": 1},
        "counts_are_exact": True,
        "next_cursor": None,
    }
    read = body_of(client.get(f"{LETTERS}/1"))
    assert read["dead_letter"] == letter
    assert (read["message"]["id"], read["message"]["state"]) == (letter["message_id"], "dead")
    assert [attempt["category"] for attempt in read["attempts"]] == ["http_400"]


def test_a_letter_outlives_the_partition_of_its_message(client: FlaskClient, pipeline: Pipeline) -> None:
    kill(pipeline, 1)
    pipeline.execute("DELETE FROM message_log")
    assert body_of(client.get(f"{LETTERS}/1"))["message"] is None


def test_pages_follow_each_other_and_the_first_one_counts(client: FlaskClient, pipeline: Pipeline) -> None:
    kill(pipeline, 5)
    cursor: dict[str, str | None] = {}
    seen: list[int] = []
    counted: list[object] = []
    for _ in range(3):
        page = body_of(client.get(LETTERS, query_string={"limit": 2, **cursor}))
        seen += [letter["id"] for letter in page["dead_letters"]]
        counted.append(page["counts"])
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [5, 4, 3, 2, 1]
    assert cursor["cursor"] is None
    assert counted == [{"http_400": 5}, None, None]


def test_lists_are_narrowed_by_every_criterion(client: FlaskClient, pipeline: Pipeline) -> None:
    first, _ = kill(pipeline, 2)
    for query, expected in (
        ({"category": "http_400"}, 2),
        ({"category": "http_500"}, 0),
        ({"occasion": "birthday"}, 2),
        ({"occasion": "anniversary"}, 0),
        ({"channel": "sms"}, 0),
        ({"user_id": first}, 1),
        ({"provider": "scripted"}, 2),
        ({"provider": "sendgrid"}, 0),
        ({"died_from": "2027-03-01T10:00:05+01:00"}, 2),
        ({"died_until": "2027-03-01T09:00:05Z"}, 0),
        ({"discarded": "true"}, 0),
    ):
        assert len(listed(client, **query)) == expected, query


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("channel=pigeon", "channel"),
        ("occasion=easter", "occasion"),
        ("category=%00", "category"),
        ("died_from=yesterday", "died_from"),
        ("died_from=2027-03-01T09:00:00", "died_from"),
        ("died_until=0001-01-01T00:00:00%2B14:00", "died_until"),
        ("user_id=0", "user_id"),
        ("cursor=x", "cursor"),
        ("all=true", "all"),
        ("discarded=perhaps", "discarded"),
    ],
)
def test_a_query_that_breaks_rules_says_where(client: FlaskClient, query: str, place: str) -> None:
    assert place in places(problem(client.get(f"{LETTERS}?{query}"), 400))


def test_one_letter_is_replayed_once(client: FlaskClient, pipeline: Pipeline) -> None:
    kill(pipeline, 2)
    assert body_of(client.post(f"{LETTERS}/1/replay")) == {
        "replayed": 1,
        "outcome_unknown": 0,
        "settled": 0,
        "last_due_at": "2027-03-01T09:00:00Z",
        "warning": None,
    }
    problem(client.post(f"{LETTERS}/1/replay"), 404)
    assert pipeline.states() == {"retrying": 1, "dead": 1}


def test_what_a_filter_means_is_replayed_at_the_rate_given(client: FlaskClient, pipeline: Pipeline) -> None:
    kill(pipeline, 3)
    body = {"filter": {"category": "http_400", "channel": "email"}, "messages_per_second": 0.5}
    done = body_of(client.post(f"{LETTERS}/replay", json=body))
    assert (done["replayed"], done["last_due_at"]) == (3, "2027-03-01T09:00:04Z")
    assert body_of(client.post(f"{LETTERS}/replay", json=body))["replayed"] == 0


def test_unknown_outcomes_are_warned_of_before_and_after(client: FlaskClient, pipeline: Pipeline) -> None:
    kill_by(pipeline, ["outcome_unknown"] * 1)
    [letter] = listed(client)
    assert "may have accepted the message already" in letter["warning"]
    done = body_of(client.post(f"{LETTERS}/replay", json={"filter": {"all": True}}))
    assert (done["outcome_unknown"], done["warning"]) == (1, letter["warning"])


def test_letters_are_discarded_with_a_reason(client: FlaskClient, pipeline: Pipeline) -> None:
    kill(pipeline, 3)
    letter = body_of(client.post(f"{LETTERS}/2/discard", json={"reason": " wrong number "}))["dead_letter"]
    assert (letter["discard_reason"], letter["discarded_at"]) == ("wrong number", "2027-03-01T09:00:00Z")
    problem(client.post(f"{LETTERS}/2/discard", json={"reason": "again"}), 409)
    problem(client.post(f"{LETTERS}/2/replay"), 409)
    body = {"filter": {"occasion": "birthday"}, "reason": "the day is over"}
    assert body_of(client.post(f"{LETTERS}/discard", json=body)) == {"discarded": 2}
    assert (listed(client), len(listed(client, discarded=True))) == ([], 3)
    again = {"filter": {"all": True, "discarded": True}}
    assert body_of(client.post(f"{LETTERS}/replay", json=again))["replayed"] == 3


def test_a_message_says_that_its_letter_was_discarded(client: FlaskClient, pipeline: Pipeline) -> None:
    kill(pipeline, 1)
    client.post(f"{LETTERS}/1/discard", json={"reason": "wrong number"})
    message_id = listed(client, discarded=True)[0]["message_id"]
    letter = body_of(client.get(f"/api/v1/messages/{message_id}"))["message"]["dead_letter"]
    assert (letter["id"], letter["discard_reason"]) == (1, "wrong number")


@pytest.mark.parametrize("method", ["get", "replay", "discard"])
@pytest.mark.parametrize("letter_id", ["7", "0", "x", "9223372036854775808"])
def test_an_unknown_letter_is_not_found(client: FlaskClient, method: str, letter_id: str) -> None:
    if method == "get":
        problem(client.get(f"{LETTERS}/{letter_id}"), 404)
    else:
        problem(client.post(f"{LETTERS}/{letter_id}/{method}", json={"reason": "no"}), 404)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("replay", {}, "/filter"),
    ("replay", {"filter": {}}, "/filter"),
    ("replay", {"filter": {"discarded": True}}, "/filter"),
    ("replay", {"filter": {"all": False}}, "/filter/all"),
    ("replay", {"filter": {"all": True, "category": "x"}}, "/filter/all"),
    ("replay", {"filter": {"category": None}}, "/filter"),
    ("replay", {"filter": {"category": "\ud800"}}, "/filter/category"),
    ("replay", {"filter": {"user_id": "1"}}, "/filter/user_id"),
    ("replay", {"filter": {"user_id": 2**63}}, "/filter/user_id"),
    ("replay", {"filter": {"died_from": 0}}, "/filter/died_from"),
    ("replay", {"filter": {"occasion": "easter"}}, "/filter/occasion"),
    ("replay", {"filter": {"tenant_id": 2}}, "/filter/tenant_id"),
    ("replay", {"filter": {"all": True}, "messages_per_second": 0}, "/messages_per_second"),
    ("replay", {"filter": {"all": True}, "messages_per_second": True}, "/messages_per_second"),
    ("replay", {"filter": {"all": True}, "messages_per_second": "5"}, "/messages_per_second"),
    ("discard", {"filter": {"all": True}}, "/reason"),
    ("discard", {"filter": {"all": True}, "reason": " "}, "/reason"),
    ("discard", {"filter": {"all": True}, "reason": "a\nb"}, "/reason"),
    ("discard", {"filter": {"all": True}, "reason": "x" * 501}, "/reason"),
    ("discard", {"filter": {"all": True, "discarded": True}, "reason": "x"}, "/filter/discarded"),
    ("1/discard", {}, "/reason"),
]


@pytest.mark.parametrize(("path", "body", "place"), REFUSED)
def test_a_slip_moves_nothing_and_says_where_it_is(
    client: FlaskClient, pipeline: Pipeline, path: str, body: dict[str, Any], place: str
) -> None:
    kill(pipeline, 1)
    assert places(problem(client.post(f"{LETTERS}/{path}", json=body), 422)) == [place]
    assert (len(listed(client)), pipeline.states()) == (1, {"dead": 1})
