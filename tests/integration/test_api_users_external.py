"""Users by the id of the caller's own system, filters of the list, and conditional writes."""

from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from api.models.users import DeletedUserAnswer, OneUserAnswer, UserListAnswer, WrittenUserAnswer
from scheduler.clock import SettableClock
from scheduler.store import user_queries
from tests.fixtures.api import USERS, a_user, add_user, api_client, body_of, places, problem

ANN = f"{USERS}/external/ann"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def test_put_adds_and_then_replaces(client: FlaskClient) -> None:
    body = a_user()
    del body["external_id"]
    added = client.put(ANN, json=body)
    assert (added.status_code, added.headers["ETag"]) == (201, '"1"')
    user = body_of(added)["user"]
    assert user["external_id"] == "ann"
    assert added.headers["Location"] == f"{USERS}/{user['id']}"
    again = client.put(ANN, json=body | {"external_id": "ann", "last_name": "Other"})
    assert (again.status_code, again.headers["ETag"]) == (200, '"2"')
    assert "Location" not in again.headers
    assert body_of(again)["user"]["id"] == user["id"]
    WrittenUserAnswer.model_validate_json(again.data)


@pytest.mark.parametrize(
    ("external_id", "given", "place"),
    [
        ("ann", "bob", "/external_id"),
        ("%20ann", None, "/external_id"),
        ("a%00b", None, "/external_id"),
        ("x" * 201, None, "/external_id"),
        ("ann", "", "/external_id"),
    ],
)
def test_put_refuses_what_no_external_id_can_be(
    client: FlaskClient, external_id: str, given: str | None, place: str
) -> None:
    body = a_user()
    del body["external_id"]
    if given is not None:
        body["external_id"] = given
    found = problem(client.put(f"{USERS}/external/{external_id}", json=body), 422)
    assert places(found) == [place]


def test_a_user_is_changed_and_deleted_by_external_id(client: FlaskClient) -> None:
    user = add_user(client, external_id="a/b ö")
    place = f"{USERS}/external/a%2Fb%20%C3%B6"
    changed = client.patch(place, json={"external_id": "c", "phone": "+442071838750"})
    assert body_of(changed)["user"]["id"] == user["id"]
    problem(client.delete(place), 404)
    problem(client.patch(place, json={}), 404)
    gone = client.delete(f"{USERS}/external/c")
    assert body_of(gone)["replanned"]["removed"] == 1
    DeletedUserAnswer.model_validate_json(gone.data)


def test_a_write_that_expects_another_version_writes_nothing(client: FlaskClient) -> None:
    user = add_user(client, external_id="ann")
    place = f"{USERS}/{user['id']}"
    tag = client.get(place).headers["ETag"]
    assert tag == client.get(ANN).headers["ETag"] == '"1"'
    newer = client.patch(place, json={"last_name": "New"}, headers={"If-Match": tag}).headers["ETag"]
    for path in (place, ANN):
        for response in (
            client.patch(path, json={"last_name": "Old"}, headers={"If-Match": tag}),
            client.put(path, json=a_user(external_id="ann"), headers={"If-Match": tag}),
            client.delete(path, headers={"If-Match": tag}),
        ):
            assert problem(response, 412)["type"] == "/problems/precondition-failed"
    assert client.get(place).headers["ETag"] == newer
    assert body_of(client.get(place))["user"]["last_name"] == "New"
    assert client.delete(place, headers={"If-Match": newer}).status_code == 200
    # Nobody is there any more, of whatever version.
    assert problem(client.put(ANN, json=a_user(external_id="ann"), headers={"If-Match": newer}), 412)


def listed(client: FlaskClient, **query: str) -> list[str]:
    """The external ids of all pages."""
    found: list[str] = []
    cursor = None
    while True:
        page = client.get(USERS, query_string=query | ({"cursor": cursor} if cursor else {}))
        assert page.status_code == 200, page.text
        UserListAnswer.model_validate_json(page.data)
        found += [user["external_id"] for user in body_of(page)["users"]]
        cursor = body_of(page)["next_cursor"]
        if cursor is None:
            return found


@pytest.mark.parametrize("examined", [2, 3, 10_000])
def test_a_list_is_filtered_by_all_that_is_given(
    client: FlaskClient, clock: SettableClock, monkeypatch: pytest.MonkeyPatch, examined: int
) -> None:
    """Whether few match and are looked up, or many and everybody is read."""
    monkeypatch.setattr(user_queries, "ROWS_EXAMINED", examined)
    gold = {"plan": "gold", "vip": True}
    add_user(client, 1, timezone="Asia/Tokyo", attributes=gold, dates={"birthday": "1990-03-02"})
    add_user(client, 2, timezone="Asia/Tokyo", dates={"birthday": "1991-03-02"})
    add_user(client, 3, attributes=gold, dates={"anniversary": "2015-03-02"})
    clock.advance(timedelta(hours=1))
    add_user(client, 4, attributes={"plan": "gold", "vip": False}, dates={"birthday": "1990-03-02"})
    add_user(client, 5, dates={})
    everyone = [f"person-{number}" for number in range(1, 6)]
    first, second, third, fourth, _ = everyone
    for limit in ("1", "2", "50"):

        def found(limit: str = limit, **query: str) -> list[str]:
            return listed(client, limit=limit, **query)

        assert found() == everyone
        assert found(timezone="Asia/Tokyo") == [first, second]
        assert found(date="birthday") == [first, second, fourth]
        assert found(date="birthday", on="03-02") == [first, second, fourth]
        assert found(date="birthday", on="1990-03-02") == [first, fourth]
        assert found(date="birthday", on="1990-03-02", timezone="Asia/Tokyo") == [first]
        assert found(date="anniversary", on="02-29") == []
        assert found(attributes='{"plan": "gold"}') == [first, third, fourth]
        assert found(attributes='{"plan": "gold", "vip": true}') == [first, third]
        assert found(attributes='{"plan": "Gold"}') == []
        assert found(updated_since="2027-03-01T13:00:00Z") == everyone[3:]
        assert found(updated_since="2027-03-01T14:00:00+01:00", attributes='{"vip": false}') == [fourth]
        assert found(external_id=third) == [third]
        assert found(external_id=third, timezone="Asia/Tokyo") == []


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("on=03-02", "date"),
        ("date=birthday&on=02-30", "on"),
        ("date=birthday&on=1990-02-30", "on"),
        ("date=birthday&on=1", "on"),
        ("date=Birthday", "date"),
        ("updated_since=2027-03-01", "updated_since"),
        ("updated_since=2027-03-01T12:00:00", "updated_since"),
        ("attributes=gold", "attributes"),
        ("attributes=[]", "attributes"),
        ("attributes={}", "attributes"),
        ('attributes={"a":{"b":1}}', "attributes"),
        ('attributes={"a":1,"a":2}', "attributes"),
        ('attributes={"a":NaN}', "attributes"),
        ("attributes=" + "[" * 5000, "attributes"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(client: FlaskClient, query: str, place: str) -> None:
    assert places(problem(client.get(f"{USERS}?{query}"), 400)) == [place]
    assert places(problem(client.get(f"{USERS}/export?{query}"), 400)) == [place]


def test_what_is_answered_is_what_the_models_say(client: FlaskClient) -> None:
    created = client.post(
        USERS, json=a_user(attributes={"a": 1, "b": None, "c": 1.5}, preferred_time="08:30")
    )
    WrittenUserAnswer.model_validate_json(created.data)
    answer = OneUserAnswer.model_validate_json(client.get(created.headers["Location"]).data)
    assert answer.model_dump(mode="json")["user"].keys() == body_of(created)["user"].keys()
