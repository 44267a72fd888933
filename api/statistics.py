"""Statistics over a range of time, and a summary of how things stand now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response
from psycopg.errors import QueryCanceled
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from api.answers import json_answer
from api.endpoint import endpoint
from api.jobs import job_as_json
from api.models.statistics import DashboardAnswer, StatisticsAnswer, StatisticsQuery
from api.problems import Problem, Refused
from api.queries import InvalidQuery, NoQuery, read_query
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.access import Scope
from scheduler.domain.field_error import FieldError
from scheduler.domain.message import MessageState
from scheduler.jobs.run import JOBS
from scheduler.store import circuits, occasions, overview, provider_holds
from scheduler.store import statistics as stored
from scheduler.store.overview import COUNTED_EXACTLY
from scheduler.store.statistics import Counted, Lateness, StatisticsFilter

statistics = Blueprint("statistics", __name__, url_prefix="/api/v1")

LONGEST_RANGE: Final = timedelta(days=31)

_DEFAULT_RANGE: Final = timedelta(days=1)
_LONGEST_QUERY: Final = timedelta(seconds=20)

_Named = dict[str, Any]
"""The kind and key of an occasion, or of several together."""


@statistics.get("/statistics")
@endpoint(
    Scope.OPERATIONS_READ,
    query=StatisticsQuery,
    answers={200: StatisticsAnswer},
    errors=(HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE),
)
def read_statistics() -> Response:
    """Count the messages of a range of at most 31 days. What it costs grows with the months it touches."""
    query = read_query(StatisticsQuery)
    starts, ends = _range(query)
    with services().engine.connect() as connection:
        wanted = StatisticsFilter(
            starts, ends, query.interval, _occasion_id(connection, query), query.channel
        )
        counted, late = _counted(connection, wanted)
        keys = _named_occasions(connection, counted)
    return json_answer(
        {
            "due_from": starts,
            "due_until": ends,
            "interval": query.interval,
            "states": _states(counted.states),
            "by_time": [{"starts": at, "states": _states(states)} for at, states in counted.by_time.items()],
            "by_occasion": [
                keys[found] | {"states": _states(states)} for found, states in counted.by_occasion.items()
            ],
            "by_channel": [
                {"channel": channel, "states": _states(states)}
                for channel, states in counted.by_channel.items()
            ],
            "by_zone": [
                {"timezone": zone, "states": _states(states)} for zone, states in counted.by_zone.items()
            ],
            "lateness": [_lateness_as_json(each, keys) for each in late],
        }
    )


@statistics.get("/dashboard")
@endpoint(Scope.OPERATIONS_READ, query=NoQuery, answers={200: DashboardAnswer})
def read_dashboard() -> Response:
    """How things stand now, at a cost that does not depend on how much is stored."""
    read_query(NoQuery)
    here, tenant = services(), tenant_id()
    now = here.clock.now()
    with here.reading() as connection:
        totals = overview.totals(connection, tenant, now=now)
        standing = stored.standing(connection, tenant, now=now)
        body = {
            "now": now,
            "sent_last_hour": totals.sent_last_hour,
            "sent_last_day": totals.sent_last_day,
            "due_next_hour": totals.due_next_hour,
            "waiting": totals.waiting,
            "retrying": totals.retrying,
            "dead_letters": totals.dead_letters,
            "users": totals.users,
            "counted_exactly": COUNTED_EXACTLY,
            "oldest_open_batch_at": standing.oldest_open,
            "planned_through": standing.planned_through,
            "providers": _providers_as_json(connection),
            "jobs": [job_as_json(connection, job) for job in JOBS],
        }
    return json_answer(body)


def _range(query: StatisticsQuery) -> tuple[datetime, datetime]:
    ends = query.due_until
    if ends is None:
        ends = services().clock.now() if query.due_from is None else query.due_from + _DEFAULT_RANGE
    starts = ends - _DEFAULT_RANGE if query.due_from is None else query.due_from
    if starts >= ends:
        raise InvalidQuery([FieldError("/due_until", "must be after due_from")])
    if ends - starts > LONGEST_RANGE:
        raise InvalidQuery(
            [FieldError("/due_until", f"must be at most {LONGEST_RANGE.days} days after due_from")]
        )
    return starts, ends


def _counted(connection: Connection, wanted: StatisticsFilter) -> tuple[Counted, list[Lateness]]:
    """Count in bounded time. Raises Refused (503) where that is too little."""
    try:
        stored.bound(connection, _LONGEST_QUERY)
        counted = stored.count(connection, tenant_id(), wanted)
        return counted, stored.lateness(connection, tenant_id(), wanted, counted)
    except OperationalError as error:
        if not isinstance(error.orig, QueryCanceled):
            raise
        seconds = round(_LONGEST_QUERY.total_seconds())
        raise Refused(
            Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too much to count",
                f"the months that the range lies in hold more than can be counted in {seconds} seconds",
                "/problems/too-much-to-count",
            )
        ) from None


def _occasion_id(connection: Connection, query: StatisticsQuery) -> int | None:
    if query.occasion is None:
        return query.send_id
    found = occasions.find(connection, tenant_id(), query.occasion)
    if found is None:
        raise InvalidQuery([FieldError("/occasion", "is not the key of an occasion")])
    if query.send_id not in (None, found.id):
        raise InvalidQuery([FieldError("/send_id", "must not stand beside another occasion")])
    return found.id


def _named_occasions(connection: Connection, counted: Counted) -> dict[int, _Named]:
    """What to call the occasions that messages are counted by."""
    found = occasions.by_id(connection, sorted(counted.by_occasion))
    named: dict[int, _Named] = {
        occasion.id: {"kind": "occasion", "occasion": occasion.key} for occasion in found.values()
    }
    return named | {
        stored.AD_HOC: {"kind": "ad_hoc", "occasion": None},
        stored.OTHERS: {"kind": "others", "occasion": None},
    }


def _states(counts: Mapping[MessageState, int]) -> dict[str, int]:
    return {state.value: messages for state, messages in counts.items()}


def _lateness_as_json(late: Lateness, keys: Mapping[int, _Named]) -> dict[str, Any]:
    return keys[late.occasion_id] | {
        "channel": late.channel,
        "messages": late.messages,
        "p50_seconds": round(late.p50_seconds, 3),
        "p95_seconds": round(late.p95_seconds, 3),
        "p99_seconds": round(late.p99_seconds, 3),
        "max_seconds": round(late.max_seconds, 3),
    }


def _providers_as_json(connection: Connection) -> list[dict[str, Any]]:
    holds = provider_holds.all_holds(connection)
    told = circuits.all_circuits(connection)
    return [
        {
            "name": name,
            "held": name in holds,
            "circuits": Counter(circuit.state for circuit in told if circuit.provider == name),
        }
        for name in services().settings.provider_plan.providers
    ]
