"""Occasions: list and read."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response

from api.answers import json_answer, time_of_day
from api.queries import NoQuery, read_query
from api.services import services
from api.tenancy import tenant_id
from scheduler.domain.duration import format_duration
from scheduler.domain.occasion import Occasion
from scheduler.errors import NotFound
from scheduler.store import occasions as stored_occasions

occasions = Blueprint("occasions", __name__, url_prefix="/api/v1/occasions")


@occasions.get("")
def list_occasions() -> Response:
    """All occasions, oldest first: a handful, so there are no pages."""
    read_query(NoQuery)
    with services().reading() as connection:
        found = stored_occasions.list_all(connection, tenant_id())
    return json_answer({"occasions": [_as_json(occasion) for occasion in found]})


@occasions.get("/<key>")
def read_occasion(key: str) -> Response:
    """An occasion by its key."""
    occasion = None
    if "\0" not in key:
        with services().reading() as connection:
            occasion = stored_occasions.find(connection, tenant_id(), key)
    if occasion is None:
        raise NotFound("occasion", key)
    return json_answer({"occasion": _as_json(occasion)})


def _as_json(occasion: Occasion) -> dict[str, Any]:
    return {
        "id": occasion.id,
        "key": occasion.key,
        "name": occasion.name,
        "rule": {"kind": occasion.kind, **asdict(occasion.rule)},
        "local_times": [time_of_day(each) for each in occasion.local_times],
        "honours_preferred_time": occasion.honours_preferred_time,
        "channels": occasion.channels,
        "priority": occasion.priority,
        "subject": occasion.subject,
        "body": occasion.body,
        "html": occasion.html,
        "translations": {tag: asdict(said) for tag, said in occasion.translations.items()},
        "group": occasion.group,
        "quiet_hours": None if occasion.quiet_hours is None else str(occasion.quiet_hours),
        "gap": occasion.gap,
        "overlap": occasion.overlap,
        "leap_day": occasion.leap_day,
        "same_day": occasion.same_day,
        "lateness_limit": _duration(occasion.lateness_limit),
        "retry": None if occasion.retry is None else asdict(occasion.retry),
        "active": occasion.active,
        "version": occasion.version,
        "planned_through": occasion.planned_through,
    }


def _duration(duration: timedelta | None) -> str | None:
    return None if duration is None else format_duration(duration)
