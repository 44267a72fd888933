"""Statistics over a range of time, and the dashboard."""

from datetime import timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, text

from api import statistics as api_statistics
from api.models.statistics import DashboardAnswer, StatisticsAnswer
from scheduler.clock import SettableClock
from scheduler.domain.occasion import Channel
from scheduler.store import circuits, statistics
from scheduler.store.circuits import StoredCircuit
from scheduler.store.partitions import Partitions
from scheduler.store.statistics import StatisticsFilter
from tests.fixtures.api import api_client, body_of, places, problem
from tests.fixtures.dead_letters import deliver_due, kill
from tests.fixtures.pipeline import NINE, TENANT, Pipeline
from tests.fixtures.providers import ScriptedProvider
from tests.fixtures.statements import executed, nodes, plan_of
from worker.channels.port import Accepted

STATISTICS: Final = "/api/v1/statistics"
DASHBOARD: Final = "/api/v1/dashboard"

# A hundred messages an hour, each a second later than the one before; every tenth has expired.
FILL: Final = text("""
INSERT INTO message_log (user_id, send_at, accepted_at, batch_id, occasion_id, local_date, channel, tenant_id, state,
                         user_version, date_rule, time_rule, slot, attempt, timezone, reason)
SELECT n, at, CASE WHEN NOT expired THEN at + (n % 100 + 1) * interval '1 second' END, 1, 1 + n % 2,
       CAST(at AS date), CAST(CASE n % 2 WHEN 0 THEN 'email' ELSE 'sms' END AS channel), 1,
       CAST(CASE WHEN expired THEN 'expired' ELSE 'sent' END AS message_state), 1, 'exact', 'exact', 0, 1,
       CASE n % 4 WHEN 0 THEN 'Asia/Tokyo' ELSE 'Europe/Paris' END, CASE WHEN expired THEN 'too_late' END
FROM (SELECT n, CAST(:starts AS timestamptz) + n / 100 * interval '1 hour' AS at, n % 10 = 9 AS expired
      FROM generate_series(0, :count - 1) n) AS made""")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NINE)


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


@pytest.fixture
def pipeline(engine: Engine, clock: SettableClock) -> Pipeline:
    return Pipeline(engine, clock)


def fill(engine: Engine, count: int) -> None:
    """Messages that fell due in the hours up to NINE."""
    starts = NINE - timedelta(hours=count // 100)
    with engine.begin() as connection:
        Partitions().ensure(connection, (starts - timedelta(days=62)).date(), NINE.date())
        connection.execute(FILL, {"starts": starts, "count": count})
        connection.execute(text("ANALYZE message_log"))


def read(client: FlaskClient, **query: object) -> dict[str, Any]:
    answer = client.get(STATISTICS, query_string=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = body_of(answer)
    StatisticsAnswer.model_validate(body)
    return body


def test_a_range_is_counted_each_way(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 4_800)
    found = read(client)
    assert (found["due_from"], found["due_until"]) == ("2027-02-28T09:00:00Z", "2027-03-01T09:00:00Z")
    assert found["states"] == {"sent": 2_160, "expired": 240}
    assert len(found["by_time"]) == 24
    assert found["by_time"][0] == {
        "starts": "2027-02-28T09:00:00Z",
        "states": {"sent": 90, "expired": 10},
    }
    assert found["by_occasion"] == [
        {"kind": "occasion", "occasion": "birthday", "states": {"sent": 1_200}},
        {"kind": "occasion", "occasion": "anniversary", "states": {"sent": 960, "expired": 240}},
    ]
    assert found["by_channel"] == [
        {"channel": "email", "states": {"sent": 1_200}},
        {"channel": "sms", "states": {"sent": 960, "expired": 240}},
    ]
    assert found["by_zone"] == [
        {"timezone": "Asia/Tokyo", "states": {"sent": 600}},
        {"timezone": "Europe/Paris", "states": {"sent": 1_560, "expired": 240}},
    ]


def test_lateness_is_told_by_occasion_and_channel(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 2_400)
    late = {each["occasion"]: each for each in read(client)["lateness"]}
    # Of the even ones from 0 to 98, each a second later than its number says.
    assert late["birthday"] == {
        "kind": "occasion",
        "occasion": "birthday",
        "channel": "email",
        "messages": 1_200,
        "p50_seconds": 49.0,
        "p95_seconds": 95.0,
        "p99_seconds": 99.0,
        "max_seconds": 99.0,
    }
    assert (late["anniversary"]["messages"], late["anniversary"]["max_seconds"]) == (960, 98.0)


def test_days_are_counted_in_utc_and_a_range_ends_before_its_end(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 4_800)
    days = read(client, interval="day", due_from="2027-02-27T09:00:00Z", due_until="2027-03-01T09:00:00Z")
    assert [(each["starts"], sum(each["states"].values())) for each in days["by_time"]] == [
        ("2027-02-27T00:00:00Z", 1_500),
        ("2027-02-28T00:00:00Z", 2_400),
        ("2027-03-01T00:00:00Z", 900),
    ]
    hour = read(client, due_from="2027-02-28T10:00:00Z", due_until="2027-02-28T12:00:00+01:00")
    assert sum(hour["states"].values()) == 100


def test_statistics_are_filtered(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 2_400)
    assert read(client, occasion="birthday")["states"] == {"sent": 1_200}
    assert read(client, channel="sms")["states"] == {"sent": 960, "expired": 240}
    assert read(client, occasion="birthday", channel="sms")["states"] == {}
    assert read(client, due_from="2030-01-01T00:00:00Z") == {
        "due_from": "2030-01-01T00:00:00Z",
        "due_until": "2030-01-02T00:00:00Z",
        "interval": "hour",
        "states": {},
        "by_time": [],
        "by_occasion": [],
        "by_channel": [],
        "by_zone": [],
        "lateness": [],
    }


def add_sends(engine: Engine, count: int) -> list[int]:
    """Requests to send, copied from an occasion: only that they are `ad_hoc` matters here."""
    with engine.begin() as connection:
        columns = """tenant_id, name, local_times, honours_preferred_time, channels, priority, subject, body, gap,
            overlap, leap_day, same_day, version, created_at, updated_at"""
        rows = connection.execute(
            text(f"""
            INSERT INTO occasions (key, kind, active, rule, {columns})
            SELECT 'ad_hoc:' || n, 'ad_hoc', false,
                   jsonb_build_object('at', CAST(:at AS text), 'expires_at', NULL), {columns}
            FROM occasions CROSS JOIN generate_series(1, :count) n
            WHERE key = 'birthday' RETURNING id"""),
            {"count": count, "at": NINE.isoformat()},
        )
        return list(rows.scalars())


def test_what_was_sent_ad_hoc_is_counted_together_and_each_send_by_its_id(
    client: FlaskClient, engine: Engine
) -> None:
    fill(engine, 2_400)
    first, *_ = sends = add_sends(engine, 50)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE message_log SET occasion_id = :first + user_id / 2 % 50 WHERE occasion_id = 2"),
            {"first": first},
        )
    assert sends == list(range(first, first + 50))
    found = read(client)
    together: dict[str, Any] = {"kind": "ad_hoc", "occasion": None}
    assert found["by_occasion"] == [
        together | {"states": {"sent": 960, "expired": 240}},
        {"kind": "occasion", "occasion": "birthday", "states": {"sent": 1_200}},
    ]
    [late, _] = found["lateness"]
    assert late == together | {
        "channel": "sms",
        "messages": 960,
        "p50_seconds": 48.0,
        "p95_seconds": 94.0,
        "p99_seconds": 98.0,
        "max_seconds": 98.0,
    }
    one = read(client, send_id=first)
    assert one["by_occasion"] == [{"kind": "occasion", "occasion": "ad_hoc:1", "states": {"sent": 24}}]
    assert [each["occasion"] for each in one["lateness"]] == ["ad_hoc:1"]
    assert read(client, occasion="ad_hoc:1", send_id=first) == one
    assert places(problem(client.get(f"{STATISTICS}?occasion=birthday&send_id={first}"), 400)) == ["send_id"]


def test_the_occasions_with_the_fewest_messages_are_counted_together(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_OCCASIONS", 1)
    fill(engine, 2_400)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM message_log WHERE occasion_id = 2 AND state = 'expired'"))
    found = read(client)
    assert found["by_occasion"] == [
        {"kind": "others", "occasion": None, "states": {"sent": 960}},
        {"kind": "occasion", "occasion": "birthday", "states": {"sent": 1_200}},
    ]
    assert [(each["kind"], each["messages"]) for each in found["lateness"]] == [
        ("others", 960),
        ("occasion", 1_200),
    ]


def test_another_tenants_messages_are_not_counted(client: FlaskClient, engine: Engine) -> None:
    fill(engine, 200)
    with engine.begin() as connection:
        connection.execute(text("UPDATE message_log SET tenant_id = 2"))
    assert read(client)["states"] == {}


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("due_from=2027-03-01T09:00:00Z&due_until=2027-03-01T09:00:00Z", "due_until"),
        ("due_from=2027-01-01T00:00:00Z&due_until=2027-02-01T00:00:01Z", "due_until"),
        ("due_from=2027-03-01T09:00:00", "due_from"),
        ("interval=minute", "interval"),
        ("occasion=nothing", "occasion"),
        ("state=sent", "state"),
    ],
)
def test_a_wrong_query_is_refused_by_parameter(client: FlaskClient, query: str, place: str) -> None:
    assert places(problem(client.get(f"{STATISTICS}?{query}"), 400)) == [place]


def test_counting_that_takes_too_long_is_given_up(
    client: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, 60_000)
    monkeypatch.setattr(api_statistics, "_LONGEST_QUERY", timedelta(milliseconds=1))
    body = problem(
        client.get(f"{STATISTICS}?due_from=2027-02-01T00:00:00Z&due_until=2027-03-01T00:00:00Z"), 503
    )
    assert body["type"] == "/problems/too-much-to-count"


def plan_nodes(connection: Connection, work: Any) -> list[dict[str, Any]]:
    found = executed(connection, work)
    return [node for statement, values in found for node in nodes(plan_of(connection, statement, values))]


def test_a_range_reads_the_partitions_it_touches(engine: Engine) -> None:
    fill(engine, 100_000)
    wanted = StatisticsFilter(NINE - timedelta(days=1), NINE, channel=Channel.EMAIL)
    with engine.connect() as connection:
        counted = statistics.count(connection, TENANT, wanted)
        for work in (
            lambda connection: statistics.count(connection, TENANT, wanted),
            lambda connection: statistics.lateness(connection, TENANT, wanted, counted),
        ):
            read = {node.get("Relation Name") for node in plan_nodes(connection, work)} - {None, "occasions"}
            assert read == {"message_log_2027_02", "message_log_2027_03"}


def test_a_short_range_reads_the_blocks_it_may_be_in(engine: Engine) -> None:
    fill(engine, 100_000)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE message_log"))
    wanted = StatisticsFilter(NINE - timedelta(days=10), NINE - timedelta(days=10, hours=-1))
    with engine.connect() as connection:
        plan = plan_nodes(connection, lambda connection: statistics.count(connection, TENANT, wanted))
    used = {node["Index Name"] for node in plan if "Index Name" in node}
    assert "message_log_2027_02_send_at_idx" in used


def test_the_dashboard_says_how_things_stand(
    client: FlaskClient, pipeline: Pipeline, engine: Engine, clock: SettableClock
) -> None:
    kill(pipeline, 2)
    pipeline.add_people(3, first=2, preferred_time=(NINE + timedelta(minutes=30)).time())
    pipeline.execute("UPDATE occasions SET planned_through = NULL")
    pipeline.plan(NINE)
    opened = StoredCircuit("w:1", "outbox", "open", NINE, NINE, 1, "http_503")
    with engine.begin() as connection:
        circuits.tell(connection, [opened], process="w:1", now=NINE)
    before = body_of(client.get(DASHBOARD))
    DashboardAnswer.model_validate(before)
    assert {name: value for name, value in before.items() if name not in ("jobs", "providers")} == {
        "now": "2027-03-01T09:00:00Z",
        "sent_last_hour": 0,
        "sent_last_day": 0,
        "due_next_hour": 3,
        "waiting": 0,
        "retrying": 0,
        "dead_letters": 2,
        "users": 5,
        "counted_exactly": 10_000,
        "oldest_open_batch_at": None,
        "planned_through": "2027-03-03T09:00:00Z",
    }
    assert before["providers"][0] == {"name": "outbox", "held": False, "circuits": {"open": 1}}
    assert [job["name"] for job in before["jobs"]] == ["precalculate", "enqueue", "recover"]
    clock.set(NINE + timedelta(minutes=31))
    waiting = body_of(client.get(DASHBOARD))
    assert (waiting["waiting"], waiting["oldest_open_batch_at"]) == (3, "2027-03-01T09:30:00Z")
    deliver_due(pipeline, ScriptedProvider(lambda _: Accepted(clock.now())))
    after = body_of(client.get(DASHBOARD))
    assert (after["sent_last_hour"], after["sent_last_day"], after["oldest_open_batch_at"]) == (3, 3, None)


def test_an_occasion_that_was_never_planned_shows(client: FlaskClient) -> None:
    assert body_of(client.get(DASHBOARD))["planned_through"] is None


def test_how_things_stand_is_read_by_indexes(engine: Engine, pipeline: Pipeline) -> None:
    pipeline.execute("""
        INSERT INTO batches (send_at, due_at, enqueued_at, finished_at, created_at, tenant_id, occasion_id, local_date,
                             channel, priority, state, lease_token, sent_count, retried_count, dead_count,
                             expired_count, cancelled_count, slot, attempt, user_ids)
        SELECT at, at, CASE WHEN n % 500 = 0 THEN at END, CASE WHEN n % 500 > 1 THEN at END, at, 1, 1,
               date '2027-03-01', 'email', 'normal',
               CAST(CASE n % 500 WHEN 0 THEN 'enqueued' WHEN 1 THEN 'pending' ELSE 'done' END AS batch_state),
               0, 0, 0, 0, 0, 0, 0, 0, ARRAY[n]
        FROM (SELECT n, timestamptz '2027-03-01 09:00Z' + n * interval '1 second' AS at
              FROM generate_series(1, 100000) n) AS made""")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE batches"))
    with engine.connect() as connection:
        plan = plan_nodes(
            connection,
            lambda connection: statistics.standing(connection, TENANT, now=NINE + timedelta(hours=9)),
        )
    of_batches = [node for node in plan if node.get("Relation Name") == "batches"]
    assert of_batches
    assert "Seq Scan" not in {node["Node Type"] for node in of_batches}
