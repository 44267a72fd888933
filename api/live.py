"""The live page: what went out and what comes next, for anybody to understand at a glance.

`GET /` is the page, which holds nothing of anybody; it asks `GET /api/v1/overview` each second, with a key where one
is needed, and is answered 304 while nothing has changed. The key comes in the fragment of its address (`/#key=dbk_…`),
which no browser sends, or is typed in; the tab keeps it until it is closed.

The overview is read at most once in `_FRESH_SECONDS` by each process, however many are looking. It holds no
more of a person than first name and initial, and no instant of its own: `Daybreak-Now` in the header is the
server's clock, so that two equal overviews have equal tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, Final

import orjson
from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from sqlalchemy import Connection

from api.answers import json_answer
from api.endpoint import endpoint
from api.models.overview import OverviewAnswer
from api.places import place_of
from api.queries import NoQuery, read_query
from api.services import Services, services
from api.tenancy import tenant_id
from scheduler.cron import next_tick
from scheduler.domain.access import Scope
from scheduler.domain.zones import zone
from scheduler.jobs.run import JOBS
from scheduler.settings import Settings
from scheduler.store import job_runs, overview
from scheduler.store.job_runs import JobRun
from scheduler.store.overview import COUNTED_EXACTLY, ComingMessages, SentMessage, Totals

live = Blueprint("live", __name__)

NOW_HEADER: Final = "Daybreak-Now"

_EXTENSION: Final = "daybreak_live"
_FRESH_SECONDS: Final = 1.0
_SENT_SHOWN: Final = 60
_COMING_SHOWN: Final = 60

# Everything the page needs comes from here, and nothing else can be loaded or run by it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _Rendered:
    body: dict[str, Any]
    tag: str
    read_at: float


class OverviewCache:
    """The overviews of one application, each read again once it is older than `_FRESH_SECONDS`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rendered: dict[int, _Rendered] = {}

    def overview(self, parts: Services, tenant: int) -> _Rendered:
        """The tenant's overview; who asks while it is being read waits for it."""
        with self._lock:
            rendered = self._rendered.get(tenant)
            if rendered is None or parts.clock.monotonic() - rendered.read_at >= _FRESH_SECONDS:
                rendered = self._rendered[tenant] = _read(parts, tenant)
            return rendered


@live.record_once
def _prepare(state: BlueprintSetupState) -> None:
    state.app.extensions[_EXTENSION] = OverviewCache()


@live.get("/")
@endpoint(None, is_listed=False)
def page() -> Response:
    """The page itself."""
    response = current_app.send_static_file("live.html")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@live.get("/api/v1/overview")
@endpoint(Scope.OPERATIONS_READ, query=NoQuery, answers={200: OverviewAnswer, 304: None})
def read_overview() -> Response:
    """What the page shows; 304 to whoever has it already."""
    read_query(NoQuery)
    parts = services()
    cache: OverviewCache = current_app.extensions[_EXTENSION]
    rendered = cache.overview(parts, tenant_id())
    headers = {NOW_HEADER: parts.clock.now().isoformat(timespec="milliseconds"), "Cache-Control": "no-cache"}
    response = json_answer(rendered.body, headers=headers)
    response.set_etag(rendered.tag)
    response.make_conditional(request)
    return response


def _read(parts: Services, tenant: int) -> _Rendered:
    now = parts.clock.now()
    with parts.engine.connect() as connection:
        body = {
            "totals": _totals_as_json(overview.totals(connection, tenant, now=now)),
            "sent": [
                _sent_as_json(each) for each in overview.newest_sent(connection, tenant, most=_SENT_SHOWN)
            ],
            "coming": [
                _coming_as_json(each)
                for each in overview.next_to_come(connection, tenant, most=_COMING_SHOWN)
            ],
            "zones": list(_zones_as_json(overview.zones(connection, tenant), now)),
            "jobs": list(_jobs_as_json(connection, parts.settings, now)),
        }
    tag = hashlib.blake2b(orjson.dumps(body), digest_size=16).hexdigest()
    return _Rendered(body, tag, parts.clock.monotonic())


def _totals_as_json(totals: Totals) -> dict[str, Any]:
    """The counts, and up to where those of `users` and `dead` are exact."""
    return {**asdict(totals), "counted_exactly": COUNTED_EXACTLY}


def _sent_as_json(sent: SentMessage) -> dict[str, Any]:
    return {
        "id": sent.key.text,
        "person": sent.person,
        "timezone": sent.timezone,
        "local_time": f"{sent.local_time:%H:%M}",
        "local_date": sent.key.local_date,
        "occasion": sent.occasion,
        "greeting": sent.greeting,
        "channel": sent.key.channel,
        "attempt": sent.attempt,
        "accepted_at": sent.accepted_at,
        "lateness_seconds": round(sent.lateness.total_seconds(), 1),
    }


def _coming_as_json(coming: ComingMessages) -> dict[str, Any]:
    return {
        "due_at": coming.due_at,
        "timezone": coming.timezone,
        "local_time": f"{coming.local_time:%H:%M}",
        "occasion": coming.occasion,
        "greeting": coming.greeting,
        "channel": coming.channel,
        "is_retry": coming.is_retry,
        "messages": coming.messages,
    }


def _zones_as_json(names: Iterable[str], now: datetime) -> Iterator[dict[str, Any]]:
    """The zones with the offset in force there now, and where they lie (null: nowhere)."""
    for name in names:
        offset = now.astimezone(zone(name)).utcoffset() or timedelta(0)
        place = place_of(name)
        yield {
            "timezone": name,
            "utc_offset_minutes": round(offset / timedelta(minutes=1)),
            "latitude": None if place is None else place.latitude,
            "longitude": None if place is None else place.longitude,
        }


def _jobs_as_json(connection: Connection, settings: Settings, now: datetime) -> Iterator[dict[str, Any]]:
    latest = job_runs.latest(connection, list(JOBS))
    for job in JOBS:
        yield {
            "job": job,
            "next_at": next_tick(getattr(settings, f"{job}_cron"), now),
            "last": _run_as_json(latest[job]) if job in latest else None,
        }


def _run_as_json(run: JobRun) -> dict[str, Any]:
    return {
        "state": run.state,
        "trigger": run.trigger,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "counts": dict(run.counts),
    }
