from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from scheduler.clock import SettableClock
from tests.fixtures.api import USERS, a_user, add_user, api_client, body_of, places, problem

NOTHING = {"planned": 0, "moved": 0, "kept": 0, "removed": 0}


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def test_a_created_user_is_answered_whole_with_their_plan(client: FlaskClient) -> None:
    body = a_user(
        phone="+442071838750",
        push_token="device:7",
        webhook_url="https://hooks.example.org/ann?a=1",
        locale="en-GB",
        preferred_time="08:30",
        attributes={"vip": True, "score": 1.5, "note": None},
    )
    response = client.post(USERS, json=body)
    assert response.status_code == 201
    user = body_of(response)["user"]
    assert response.headers["Location"] == f"{USERS}/{user['id']}"
    assert user == body | {
        "id": user["id"],
        "version": 1,
        "created_at": "2027-03-01T12:00:00Z",
        "updated_at": "2027-03-01T12:00:00Z",
    }
    assert isinstance(user["id"], int)
    # The second of March at 08:30 lies within the horizon.
    assert body_of(response)["replanned"] == NOTHING | {"planned": 1}
    assert body_of(client.get(response.headers["Location"])) == {"user": user}


def test_a_user_is_found_by_external_id(client: FlaskClient) -> None:
    user = add_user(client, external_id="a/b c?ö")
    assert body_of(client.get(f"{USERS}/external/a%2Fb%20c%3F%C3%B6")) == {"user": user}
    assert body_of(client.get(USERS, query_string={"external_id": "a/b c?ö"}))["users"] == [user]


def test_put_replaces_all_and_replans(client: FlaskClient, clock: SettableClock) -> None:
    user = add_user(client, phone="+442071838750")
    clock.advance(timedelta(minutes=1))
    moved = client.put(f"{USERS}/{user['id']}", json=a_user(preferred_time="10:00"))
    assert moved.status_code == 200
    assert body_of(moved)["replanned"] == NOTHING | {"moved": 1}
    assert body_of(moved)["user"]["phone"] is None
    assert body_of(moved)["user"]["version"] == 2
    assert body_of(moved)["user"]["updated_at"] == "2027-03-01T12:01:00Z"


def test_patch_changes_what_is_named_and_null_removes(client: FlaskClient) -> None:
    user = add_user(
        client, phone="+442071838750", dates={"birthday": "1990-03-02", "anniversary": "2015-06-01"}
    )
    patch = {
        "phone": None,
        "dates": {"anniversary": None, "graduation": "2012-07-01"},
        "last_name": "Changed",
    }
    for media_type in ("application/merge-patch+json", "application/json"):
        response = client.patch(f"{USERS}/{user['id']}", json=patch, content_type=media_type)
        assert response.status_code == 200
        changed = body_of(response)["user"]
        assert changed["phone"] is None
        assert changed["last_name"] == "Changed"
        assert changed["dates"] == {"birthday": "1990-03-02", "graduation": "2012-07-01"}
        assert body_of(response)["replanned"] == NOTHING | {"kept": 1}


def test_a_patch_that_moves_the_date_away_removes_the_message(client: FlaskClient) -> None:
    user = add_user(client)
    response = client.patch(f"{USERS}/{user['id']}", json={"dates": {"birthday": "1990-09-09"}})
    assert body_of(response)["replanned"] == NOTHING | {"removed": 1}


def test_a_patch_whose_result_is_no_user_changes_nothing(client: FlaskClient) -> None:
    user = add_user(client)
    body = problem(client.patch(f"{USERS}/{user['id']}", json={"first_name": None}), 422)
    assert places(body) == ["/first_name"]
    assert body_of(client.get(f"{USERS}/{user['id']}")) == {"user": user}


def test_a_deleted_user_is_gone_with_their_plan_and_comes_back_under_their_id(client: FlaskClient) -> None:
    user = add_user(client)
    place = f"{USERS}/{user['id']}"
    assert body_of(client.delete(place)) == {"replanned": NOTHING | {"removed": 1}}
    problem(client.get(place), 404)
    problem(client.delete(place), 404)
    again = add_user(client)
    assert again["id"] == user["id"]
    assert again["version"] > user["version"]


def test_a_taken_external_id_is_a_conflict(client: FlaskClient) -> None:
    add_user(client, 1)
    other = add_user(client, 2)
    for response in (
        client.post(USERS, json=a_user(1)),
        client.put(f"{USERS}/{other['id']}", json=a_user(1)),
        client.patch(f"{USERS}/{other['id']}", json={"external_id": "person-1"}),
    ):
        assert problem(response, 409)["type"] == "/problems/conflict"


@pytest.mark.parametrize("identity", ["999", "999999999999999999"])
def test_a_user_who_is_not_there_is_not_found(client: FlaskClient, identity: str) -> None:
    place = f"{USERS}/{identity}"
    for response in (
        client.get(place),
        client.put(place, json=a_user()),
        client.patch(place, json={"last_name": "x"}),
        client.delete(place),
    ):
        assert problem(response, 404)["type"] == "/problems/not-found"


@pytest.mark.parametrize(
    "identity", ["0", "-1", "1.5", "x", "9223372036854775808", "9" * 5000, "%D9%A1", "%00"]
)
def test_what_cannot_be_an_id_is_no_path(client: FlaskClient, identity: str) -> None:
    problem(client.get(f"{USERS}/{identity}"), 404)


@pytest.mark.parametrize("external_id", ["nobody", "%00", "a%00b", "%ED%A0%80", "%ff"])
def test_an_external_id_that_nobody_has_is_not_found(client: FlaskClient, external_id: str) -> None:
    problem(client.get(f"{USERS}/external/{external_id}"), 404)


def test_all_errors_of_a_body_are_told_at_once(client: FlaskClient) -> None:
    body = a_user(timezone="Europe/Lodnon", birthdate="x", dates={"birthday": "2023-02-29"}, email="no")
    del body["first_name"]
    found = problem(client.post(USERS, json=body), 422)
    assert found["type"] == "/problems/invalid-input"
    assert sorted(places(found)) == ["/birthdate", "/dates/birthday", "/email", "/first_name", "/timezone"]
    assert "did you mean 'Europe/London'" in next(
        error["detail"] for error in found["errors"] if error["pointer"] == "/timezone"
    )


def test_a_birthday_may_be_today_where_the_user_lives_and_not_later(
    client: FlaskClient, clock: SettableClock
) -> None:
    # It is the second of March in Kiritimati already.
    assert (
        client.post(
            USERS, json=a_user(1, timezone="Pacific/Kiritimati", dates={"birthday": "2027-03-02"})
        ).status_code
        == 201
    )
    found = problem(client.post(USERS, json=a_user(2, dates={"birthday": "2027-03-02"})), 422)
    assert places(found) == ["/dates/birthday"]


def test_pages_hold_each_user_once_while_users_are_added_and_deleted(client: FlaskClient) -> None:
    first = [add_user(client, number)["id"] for number in range(7)]
    seen: list[int] = []
    cursor: str | None = None
    for round_number in range(10):
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = body_of(client.get(USERS, query_string=query))
        seen += [user["id"] for user in page["users"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        if round_number < 2:
            add_user(client, 100 + round_number)
            client.delete(f"{USERS}/{seen[-1]}")
    assert seen[:7] == first
    assert len(seen) == len(set(seen)) == 9


def test_a_list_is_filtered_by_zone(client: FlaskClient) -> None:
    for number in range(4):
        add_user(client, number, timezone=["Asia/Tokyo", "Europe/London"][number % 2])
    page = body_of(client.get(USERS, query_string={"timezone": "Asia/Tokyo", "limit": "1"}))
    rest = body_of(client.get(USERS, query_string={"timezone": "Asia/Tokyo", "cursor": page["next_cursor"]}))
    assert [user["external_id"] for user in page["users"] + rest["users"]] == ["person-0", "person-2"]
    assert rest["next_cursor"] is None
    both = {"timezone": "Asia/Tokyo", "external_id": "person-1"}
    assert body_of(client.get(USERS, query_string=both)) == {"users": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("timezone=Mars", "timezone"),
        ("external_id=%00", "external_id"),
        ("cursor=x", "cursor"),
        ("cursor=%C3%B6", "cursor"),
        ("cursor=bWVzc2FnZTox", "cursor"),
        ("cursor=dXNlcjp4", "cursor"),
        (f"cursor={'A' * 201}", "cursor"),
        ("sort=name", "sort"),
    ],
)
def test_a_wrong_query_is_refused_by_parameter(client: FlaskClient, query: str, place: str) -> None:
    found = problem(client.get(f"{USERS}?{query}"), 400)
    assert found["type"] == "/problems/invalid-query"
    assert places(found) == [place]
