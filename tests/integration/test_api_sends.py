"""Messages that are sent once: to whom, when, what becomes of them, and how they follow their users."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.models.messages import NewSendAnswer, OneMessageAnswer, OneSendAnswer, SendListAnswer
from scheduler.clock import SettableClock
from scheduler.domain.quiet_hours import QuietHours
from tests.fixtures.api import add_user, api_client, body_of, places, problem
from tests.fixtures.messages import Signal
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.providers import ScriptedProvider
from worker.channels.port import Accepted

MESSAGES = "/api/v1/messages"
SENDS = f"{MESSAGES}/sends"
USERS = "/api/v1/users"
NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


def a_send(**changes: Any) -> dict[str, Any]:
    """A body that sends an e-mail now."""
    return {"channels": ["email"], "subject": "Hello", "body": "Hi {{ first_name }}"} | changes


def send(client: FlaskClient, **changes: Any) -> dict[str, Any]:
    """The answer to a request to send, which must be one."""
    response = client.post(MESSAGES, json=a_send(**changes))
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = body_of(response)
    NewSendAnswer.model_validate(answer)
    return answer


def message(client: FlaskClient, message_id: str) -> dict[str, Any]:
    answer = body_of(client.get(f"{MESSAGES}/{message_id}"))
    OneMessageAnswer.model_validate(answer)
    found: dict[str, Any] = answer["message"]
    return found


def people(client: FlaskClient, *zones: str, **changes: Any) -> list[int]:
    """A user in each of these zones, without dates."""
    return [
        add_user(client, number, timezone=zone, dates={}, **changes)["id"]
        for number, zone in enumerate(zones, 1)
    ]


def deliver(pipeline: Pipeline) -> list[str]:
    """Deliver all that is due; what went out, as `user: text`."""
    provider = ScriptedProvider(lambda _: Accepted(pipeline.clock.now()))
    deliverer = pipeline.deliverer(provider)
    while pipeline.enqueue():
        while pipeline.batch_states()["enqueued"]:
            deliverer.deliver(pipeline.lease(), Signal())
    return sorted(f"{sent.id.split('.')[1]}: {sent.text}" for sent in provider.received)


def test_a_message_is_sent_at_once(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = people(client, "Asia/Tokyo")
    answer = send(client, to={"user_ids": [user]}, priority="critical", name="Code")
    sent = answer["send"]
    assert {name: sent[name] for name in ("users", "messages", "skipped", "unreachable")} == {
        "users": 1,
        "messages": 1,
        "skipped": 0,
        "unreachable": 0,
    }
    assert (sent["at"], sent["at_local"], sent["name"]) == ("2027-03-01T12:00:00Z", None, "Code")
    [message_id] = answer["message_ids"]
    assert message_id == f"{sent['id']}.{user}.20270301.0.email"
    [batch] = pipeline.rows("SELECT CAST(priority AS text) AS priority, due_at FROM batches")
    assert tuple(batch) == ("critical", NOON)
    assert deliver(pipeline) == [f"{user}: Hi Ann"]
    assert message(client, message_id)["state"] == "sent"


def test_a_send_is_listed_and_tells_what_became_of_it(client: FlaskClient, pipeline: Pipeline) -> None:
    first, second = people(client, "UTC", "Europe/Paris")
    older = send(client, to={"external_ids": ["person-1", "person-2"]})["send"]
    newer = send(client, to={"user_ids": [second]}, at="2027-03-05T10:00:00+02:00")["send"]
    deliver(pipeline)
    client.delete(f"{USERS}/{first}")
    page = body_of(client.get(SENDS, query_string={"limit": 1}))
    SendListAnswer.model_validate(page)
    assert page["sends"] == [newer]
    rest = body_of(client.get(SENDS, query_string={"cursor": page["next_cursor"]}))
    assert rest == {"sends": [older], "next_cursor": None}
    read = body_of(client.get(f"{SENDS}/{older['id']}"))
    OneSendAnswer.model_validate(read)
    assert read["send"] == older | {"states": {"sent": 2}, "exact": True}
    assert body_of(client.get(f"{SENDS}/{newer['id']}"))["send"]["states"] == {"scheduled": 1}
    problem(client.get(f"{SENDS}/1"), 404)  # an occasion that is no send
    problem(client.get(f"{SENDS}/{2**40}"), 404)


def test_occasions_do_not_list_what_was_sent(client: FlaskClient) -> None:
    [user] = people(client, "UTC")
    key = send(client, to={"user_ids": [user]})["send"]["occasion"]
    listed = body_of(client.get("/api/v1/occasions"))["occasions"]
    assert key not in {each["key"] for each in listed}


def test_a_local_time_is_each_users_own(client: FlaskClient) -> None:
    tokyo, berlin, apia = people(client, "Asia/Tokyo", "Europe/Berlin", "Pacific/Apia")
    answer = send(client, to={"filter": {"all": True}}, at_local="2027-03-02T09:00")
    assert answer["send"]["at_local"] == "2027-03-02T09:00"
    times = {
        message(client, each)["user_id"]: message(client, each)["send_at"] for each in answer["message_ids"]
    }
    assert times == {
        tokyo: "2027-03-02T00:00:00Z",
        berlin: "2027-03-02T08:00:00Z",
        apia: "2027-03-01T20:00:00Z",
    }


@pytest.mark.parametrize(
    ("changes", "rule", "send_at"),
    [
        ({}, "gap_forward", "2027-03-28T01:30:00Z"),
        ({"gap": "backward"}, "gap_backward", "2027-03-28T00:30:00Z"),
        ({"gap": "skip"}, None, None),
    ],
)
def test_a_local_time_that_does_not_exist_follows_the_policy(
    client: FlaskClient, changes: dict[str, str], rule: str | None, send_at: str | None
) -> None:
    [user] = people(client, "Europe/Berlin")
    answer = send(client, to={"user_ids": [user]}, at_local="2027-03-28T02:30", **changes)
    found = [message(client, each) for each in answer["message_ids"]]
    assert [(each["time_rule"], each["send_at"]) for each in found] == ([(rule, send_at)] if rule else [])
    assert answer["send"]["skipped"] == (0 if rule else 1)


def test_a_local_time_that_is_past_is_made_up_for_while_its_date_lasts(client: FlaskClient) -> None:
    """It is noon in London: past nine there, not yet in New York, and 2 March already in Auckland."""
    london, new_york, _ = people(client, "Europe/London", "America/New_York", "Pacific/Auckland")
    everyone = {"to": {"filter": {"all": True}}, "at_local": "2027-03-01T09:00"}
    answer = send(client, **everyone)
    found = {each["user_id"]: each for each in (message(client, i) for i in answer["message_ids"])}
    assert {user: (each["send_at"], each["time_rule"]) for user, each in found.items()} == {
        london: ("2027-03-01T12:00:00Z", "same_day"),
        new_york: ("2027-03-01T14:00:00Z", "exact"),
    }
    assert answer["send"]["skipped"] == 1
    assert send(client, **everyone, same_day="skip")["send"]["messages"] == 1


def test_a_filter_means_whoever_matches_all_of_it(client: FlaskClient) -> None:
    def born(number: int, day: str, **changes: Any) -> int:
        user: int = add_user(client, number, dates={"birthday": f"1990-{day}"}, **changes)["id"]
        return user

    gold = {"plan": "gold"}
    wanted = born(1, "03-02", attributes=gold | {"level": 3})
    other_day = born(2, "03-03", attributes=gold)
    born(3, "03-02", attributes={"plan": "silver"})
    born(4, "03-02", attributes=gold, timezone="Europe/Paris")

    def reached(**criteria: Any) -> set[int]:
        answer = send(client, to={"filter": criteria})
        return {int(each.split(".")[1]) for each in answer["message_ids"]}

    date_is = {"name": "birthday", "days": ["03-02"]}
    assert reached(timezone="Europe/London", date=date_is, attributes=gold) == {wanted}
    assert reached(attributes={"plan": "gold", "level": 3}) == {wanted}
    assert reached(timezone="Europe/London", attributes=gold) == {wanted, other_day}
    assert len(reached(date={"name": "birthday"})) == 4
    assert reached(date={"name": "anniversary"}) == set()
    assert len(reached(all=True)) == 4


def test_users_without_an_address_are_counted(client: FlaskClient) -> None:
    people(client, "UTC", "UTC")
    add_user(client, 3, email=None, phone="+4930123456", dates={})
    sent = send(client, to={"filter": {"all": True}}, channels=["email", "sms", "in_app"])["send"]
    assert (sent["users"], sent["messages"], sent["unreachable"]) == (3, 6, 3)


def test_batches_are_full_and_more_than_a_hundred_ids_are_not_told(
    client: FlaskClient, pipeline: Pipeline
) -> None:
    pipeline.add_people(1_203)
    answer = send(client, to={"filter": {"timezone": "UTC"}})
    assert (answer["send"]["messages"], answer["message_ids"]) == (1_203, None)
    sizes = pipeline.rows("SELECT cardinality(user_ids) AS n FROM batches ORDER BY id")
    assert [row.n for row in sizes] == [500, 500, 203]
    states = body_of(client.get(f"{SENDS}/{answer['send']['id']}"))["send"]
    assert (states["states"], states["exact"]) == ({"scheduled": 1_203}, True)


def test_a_large_send_is_counted_by_its_batches(
    client: FlaskClient, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.store.ad_hoc.COUNTED_BY_MESSAGE", 2)
    people(client, "UTC", "UTC", "UTC")
    answer = send(client, to={"filter": {"all": True}})["send"]
    read = body_of(client.get(f"{SENDS}/{answer['id']}"))["send"]
    assert (read["states"], read["exact"]) == ({"scheduled": 3}, False)
    deliver(pipeline)
    read = body_of(client.get(f"{SENDS}/{answer['id']}"))["send"]
    assert (read["states"], read["exact"]) == ({"sent": 3}, False)


REFUSED: Final[list[tuple[dict[str, Any], str]]] = [
    ({"to": {"user_ids": [999]}}, "/to/user_ids/0"),
    ({"to": {"external_ids": ["person-1", "nobody"]}}, "/to/external_ids/1"),
    ({"to": {}}, "/to"),
    ({"to": {"user_ids": [1], "filter": {"all": True}}}, "/to"),
    ({"to": {"filter": {}}}, "/to/filter"),
    ({"to": {"filter": {"all": True, "timezone": "UTC"}}}, "/to/filter"),
    ({"to": {"filter": {"timezone": "Europe/Belin"}}}, "/to/filter/timezone"),
    ({"to": {"filter": {"date": {"name": "birthday", "days": ["02-30"]}}}}, "/to/filter/date/days/0"),
    ({"at": "2027-03-01T11:59:59Z"}, "/at"),
    ({"at": "2028-03-02T12:00:00Z"}, "/at"),
    ({"at": "2027-03-01T12:00:00"}, "/at"),
    ({"at_local": "2027-02-27T09:00"}, "/at_local"),
    ({"at_local": "2028-03-03T09:00"}, "/at_local"),
    ({"at_local": "2027-03-02T09:00Z"}, "/at_local"),
    ({"at": "2027-03-02T12:00:00Z", "at_local": "2027-03-02T09:00"}, ""),
    ({"expires_at": "2027-03-01T12:00:00Z"}, "/expires_at"),
    ({"lateness_limit": "PT0S"}, "/lateness_limit"),
    ({"channels": []}, "/channels"),
    ({"channels": ["email", "email"]}, "/channels"),
    ({"body": "{{ first_name"}, "/body"),
    ({"translations": {"de": {"subject": "Hallo", "body": "{{ nobody }}"}}}, "/translations/de/body"),
    ({"group": "nothing"}, "/group"),
    ({"quiet_hours": "late"}, "/quiet_hours"),
    ({"color": "red"}, "/color"),
]


def test_what_cannot_be_meant_is_refused_by_its_place(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = people(client, "UTC")
    for changes, place in REFUSED:
        body = a_send(to={"user_ids": [user]}) | changes
        assert places(problem(client.post(MESSAGES, json=body), 422)) == [place], changes
    for to, said in (
        ({"filter": {}}, "must have a timezone, a date or attributes; leave it out where users are listed"),
        ({"filter": {"all": True, "timezone": "UTC"}}, "must narrow whom it means, or mean all; not both"),
        ({"user_ids": [user], "filter": {"all": True}}, "must have either users or a filter, not both"),
        ({}, "must name users, or have a filter"),
    ):
        [error] = problem(client.post(MESSAGES, json=a_send(to=to)), 422)["errors"]
        assert error["detail"].startswith(said)
    assert pipeline.rows("SELECT FROM occasions WHERE kind = 'ad_hoc'") == []
    assert not pipeline.states()


def test_another_tenants_users_are_not_reached(client: FlaskClient, pipeline: Pipeline) -> None:
    [user] = people(client, "UTC")
    pipeline.execute("UPDATE users SET tenant_id = 2")
    pipeline.execute("UPDATE user_dates SET tenant_id = 2")
    body = a_send(to={"user_ids": [user]})
    assert places(problem(client.post(MESSAGES, json=body), 422)) == ["/to/user_ids/0"]
    assert send(client, to={"filter": {"all": True}})["send"]["users"] == 0


def test_a_send_is_on_the_audit_log(client: FlaskClient, pipeline: Pipeline) -> None:
    people(client, "UTC")
    sent = send(client, to={"filter": {"attributes": {"plan": "gold"}}})["send"]
    [row] = pipeline.rows("SELECT actor, action, subject, after FROM audit_log WHERE kind = 'send'")
    assert (row.actor, row.action, row.subject) == ("anonymous", "send", str(sent["id"]))
    assert row.after["audience"]["attributes"] == ["plan"]  # by name: a value may be personal


def test_planning_leaves_what_was_sent_alone(client: FlaskClient, pipeline: Pipeline) -> None:
    people(client, "UTC")
    send(client, to={"filter": {"all": True}}, at="2027-03-02T09:00:00Z")
    assert pipeline.plan(pipeline.clock.now()) == 0
    assert pipeline.recover()["planned"] == 0
    assert pipeline.states() == {"scheduled": 1}


def test_an_edit_takes_nothing_away_and_a_message_goes_to_the_newest_address(
    client: FlaskClient, pipeline: Pipeline
) -> None:
    [user] = people(client, "UTC")
    [message_id] = send(client, to={"user_ids": [user]})["message_ids"]
    answer = client.patch(
        f"{USERS}/{user}", json={"first_name": "Bea"}, content_type="application/merge-patch+json"
    )
    assert body_of(answer)["replanned"] == {"planned": 0, "moved": 0, "kept": 1, "removed": 0}
    assert deliver(pipeline) == [f"{user}: Hi Bea"]
    assert message(client, message_id)["state"] == "sent"


def patch(client: FlaskClient, user: int, **changes: Any) -> dict[str, int]:
    answer = client.patch(f"{USERS}/{user}", json=changes, content_type="application/merge-patch+json")
    assert answer.status_code == 200, answer.text
    replanned: dict[str, int] = body_of(answer)["replanned"]
    return replanned


@pytest.mark.parametrize(
    ("zone", "send_at", "rule"),
    [
        ("America/New_York", "2027-03-02T14:00:00Z", "exact"),  # later than in London
        ("Europe/Berlin", "2027-03-02T08:00:00Z", "exact"),
        ("Pacific/Apia", "2027-03-01T20:00:00Z", "exact"),
    ],
)
def test_what_goes_by_the_users_clock_moves_with_them(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock, zone: str, send_at: str, rule: str
) -> None:
    [user] = people(client, "Europe/London")
    [message_id] = send(client, to={"user_ids": [user]}, at_local="2027-03-02T09:00")["message_ids"]
    assert patch(client, user, timezone=zone)["moved"] == 1
    moved = message(client, message_id)
    assert (moved["send_at"], moved["timezone"], moved["time_rule"]) == (send_at, zone, rule)
    clock.set(datetime.fromisoformat(send_at) - timedelta(seconds=1))
    assert deliver(pipeline) == []
    clock.set(datetime.fromisoformat(send_at))
    assert deliver(pipeline) == [f"{user}: Hi Ann"]
    clock.set(NOON + timedelta(days=2))
    assert deliver(pipeline) == []


def test_who_moves_to_where_the_time_is_past_gets_it_at_once(client: FlaskClient) -> None:
    [user] = people(client, "America/New_York")
    [message_id] = send(client, to={"user_ids": [user]}, at_local="2027-03-01T09:00")["message_ids"]
    assert patch(client, user, timezone="Europe/London")["moved"] == 1
    moved = message(client, message_id)
    assert (moved["send_at"], moved["time_rule"]) == ("2027-03-01T12:00:00Z", "same_day")


def test_an_instant_stays_wherever_the_user_goes(client: FlaskClient) -> None:
    [user] = people(client, "Europe/London")
    [message_id] = send(client, to={"user_ids": [user]}, at="2027-03-02T09:00:00Z")["message_ids"]
    assert patch(client, user, timezone="Asia/Tokyo") == {"planned": 0, "moved": 0, "kept": 1, "removed": 0}
    assert message(client, message_id)["send_at"] == "2027-03-02T09:00:00Z"


def test_a_message_written_while_its_user_was_edited_moves_when_it_is_claimed(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    [user] = people(client, "Europe/London")
    [message_id] = send(client, to={"user_ids": [user]}, at_local="2027-03-02T09:00")["message_ids"]
    # As if the edit had been committed while the send was being written.
    pipeline.execute("UPDATE users SET timezone = 'America/New_York', version = version + 1")
    clock.set(datetime(2027, 3, 2, 9, tzinfo=UTC))
    assert deliver(pipeline) == []
    assert message(client, message_id)["send_at"] == "2027-03-02T14:00:00Z"
    clock.set(datetime(2027, 3, 2, 14, tzinfo=UTC))
    assert deliver(pipeline) == [f"{user}: Hi Ann"]


def test_an_instant_written_while_its_user_was_edited_is_sent(
    client: FlaskClient, pipeline: Pipeline
) -> None:
    [user] = people(client, "Europe/London")
    send(client, to={"user_ids": [user]})
    pipeline.execute("UPDATE users SET timezone = 'America/New_York', version = version + 1")
    assert deliver(pipeline) == [f"{user}: Hi Ann"]


def test_deleting_a_user_cancels_what_was_sent_to_them(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    first, second = people(client, "UTC", "UTC")
    ids = send(client, to={"user_ids": [first, second]}, at="2027-06-01T09:00:00Z")["message_ids"]
    assert body_of(client.delete(f"{USERS}/{first}"))["replanned"]["removed"] == 1
    gone, kept = (message(client, each) for each in ids)
    assert (gone["state"], gone["reason"]) == ("cancelled", "user_deleted")
    assert kept["state"] == "scheduled"
    # Somebody who comes back under the same external id does not get what was meant for the one who left.
    assert add_user(client, 1, timezone="UTC", dates={})["id"] == first
    clock.set(datetime(2027, 6, 1, 9, tzinfo=UTC))
    assert deliver(pipeline) == [f"{second}: Hi Ann"]


def test_what_has_expired_is_not_sent_whatever_put_it_off(
    client: FlaskClient, engine: Engine, clock: SettableClock
) -> None:
    """Quiet hours put it off beyond the instant at which it expires."""
    pipeline = Pipeline(engine, clock, quiet_hours=QuietHours.parse("11:00-14:00"))
    [user] = people(client, "UTC")
    [message_id] = send(client, to={"user_ids": [user]}, expires_at="2027-03-01T13:00:00Z")["message_ids"]
    assert deliver(pipeline) == []
    assert message(client, message_id)["send_at"] == "2027-03-01T14:00:00Z"
    clock.set(datetime(2027, 3, 1, 14, tzinfo=UTC))
    assert deliver(pipeline) == []
    ended = message(client, message_id)
    assert (ended["state"], ended["reason"]) == ("expired", "too_late")


def test_a_send_may_have_its_own_lateness_limit_and_quiet_hours(
    client: FlaskClient, pipeline: Pipeline, clock: SettableClock
) -> None:
    [user] = people(client, "UTC")
    limits = {"lateness_limit": "PT10M", "quiet_hours": "00:00-00:00"}
    [message_id] = send(client, to={"user_ids": [user]}, **limits)["message_ids"]
    clock.set(NOON + timedelta(minutes=11))
    assert deliver(pipeline) == []
    assert message(client, message_id)["reason"] == "too_late"


def test_contact_rules_hold_as_for_any_message(
    client: FlaskClient, engine: Engine, pipeline: Pipeline
) -> None:
    first, second = people(client, "UTC", "UTC")
    with engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO unsubscribes (user_id, channel, occasion_id, tenant_id, source, created_at)
            VALUES (:user, 'email', 0, 1, 'test', :now)"""),
            {"user": first, "now": NOON},
        )
    ids = send(client, to={"user_ids": [first, second]})["message_ids"]
    assert deliver(pipeline) == [f"{second}: Hi Ann"]
    assert message(client, ids[0])["reason"] == "unsubscribed"


def test_a_whole_send_is_cancelled_as_far_as_it_waits(client: FlaskClient, pipeline: Pipeline) -> None:
    first, second = people(client, "Europe/London", "America/New_York")
    sent = send(client, to={"user_ids": [first, second]}, at_local="2027-03-01T09:00")
    assert deliver(pipeline) == [f"{first}: Hi Ann"]
    url = f"{SENDS}/{sent['send']['id']}/cancel"
    assert body_of(client.post(url)) == {"cancelled": 1}
    assert body_of(client.post(url)) == {"cancelled": 0}
    states = [(each["state"], each["reason"]) for each in (message(client, i) for i in sent["message_ids"])]
    assert states == [("sent", None), ("cancelled", "cancelled_by_operator")]
    assert len(pipeline.rows("SELECT FROM audit_log WHERE kind = 'send' AND action = 'cancel'")) == 2
    problem(client.post(f"{SENDS}/1/cancel"), 404)
