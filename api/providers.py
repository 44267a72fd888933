"""The providers: which channel uses which, within what limits, how their circuits are; hold and resume.

Providers are the installation's, not a tenant's. No option of a provider is shown: any of them may be a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, NamedTuple

from flask import Blueprint, Response
from sqlalchemy import Connection

from api.access import current_actor
from api.answers import json_answer
from api.bodies import read_body
from api.endpoint import endpoint
from api.models.providers import HoldInput, OneProviderAnswer, ProviderListAnswer
from api.queries import NoQuery, read_query
from api.services import services
from scheduler.domain.access import Scope
from scheduler.domain.occasion import Channel
from scheduler.errors import NotFound
from scheduler.operations import Operations
from scheduler.provider_settings import ProviderEntry, ProviderPlan
from scheduler.store import batch_queries, circuits, provider_holds
from scheduler.store.batch_queries import BOUND_WITHIN
from scheduler.store.circuits import StoredCircuit
from scheduler.store.provider_holds import ProviderHold

providers = Blueprint("providers", __name__, url_prefix="/api/v1/providers")


class _Known(NamedTuple):
    """What the database has of the providers."""

    circuits: Sequence[StoredCircuit]
    holds: Mapping[str, ProviderHold]
    bound: Mapping[str, int]


@providers.get("")
@endpoint(Scope.OPERATIONS_READ, query=NoQuery, answers={200: ProviderListAnswer})
def list_providers() -> Response:
    """All providers and routes, as this process has read them, and all circuits, as the workers last told.

    A circuit whose `seen_at` is more than a minute old is that of a process which has died or lost the database.
    """
    read_query(NoQuery)
    plan = services().settings.provider_plan
    with services().reading() as connection:
        known = _read(connection)
    return json_answer(
        {
            "channels": [_channel_as_json(plan, channel) for channel in Channel],
            "providers": [_as_json(entry, known) for entry in plan.providers.values()],
        }
    )


@providers.get("/<name>")
@endpoint(
    Scope.OPERATIONS_READ, query=NoQuery, answers={200: OneProviderAnswer}, errors=(HTTPStatus.NOT_FOUND,)
)
def read_provider(name: str) -> Response:
    """A provider with its circuits and its hold, if it is on one."""
    entry = _known(name)
    read_query(NoQuery)
    with services().reading() as connection:
        return _answer(connection, entry)


@providers.post("/<name>/hold")
@endpoint(
    Scope.OPERATIONS_RUN,
    is_of_installation=True,
    body=HoldInput,
    answers={200: OneProviderAnswer},
    errors=(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def hold_provider(name: str) -> Response:
    """Have all workers give a provider nothing, some seconds from now on.

    Its messages go to the channel's next provider, or wait: no attempt of theirs is burned.
    """
    entry = _known(name)
    body = read_body(HoldInput)
    _operations().hold_provider(current_actor(), entry.name, body.reason)
    with services().reading() as connection:
        return _answer(connection, entry)


@providers.post("/<name>/resume")
@endpoint(
    Scope.OPERATIONS_RUN,
    is_of_installation=True,
    query=NoQuery,
    answers={200: OneProviderAnswer},
    errors=(HTTPStatus.NOT_FOUND,),
)
def resume_provider(name: str) -> Response:
    """End a hold; where there is none, nothing changes."""
    entry = _known(name)
    read_query(NoQuery)
    _operations().resume_provider(current_actor(), entry.name)
    with services().reading() as connection:
        return _answer(connection, entry)


def _known(name: str) -> ProviderEntry:
    entry = services().settings.provider_plan.providers.get(name)
    if entry is None:
        raise NotFound("provider", name)
    return entry


def _operations() -> Operations:
    here = services()
    return Operations(here.engine, here.clock, here.settings.retry_max_attempts)


def _answer(connection: Connection, entry: ProviderEntry) -> Response:
    return json_answer({"provider": _as_json(entry, _read(connection))})


def _read(connection: Connection) -> _Known:
    due_by = services().clock.now() + BOUND_WITHIN
    return _Known(
        circuits.all_circuits(connection),
        provider_holds.all_holds(connection),
        batch_queries.count_bound(connection, due_by=due_by),
    )


def _channel_as_json(plan: ProviderPlan, channel: Channel) -> dict[str, Any]:
    """A channel without providers sends nothing: its messages wait."""
    route = plan.routes.get(channel)
    return {
        "channel": channel,
        "providers": [] if route is None else list(route.providers),
        "unknown_outcome": None if route is None else route.unknown_outcome,
    }


def _as_json(entry: ProviderEntry, known: _Known) -> dict[str, Any]:
    own = [asdict(circuit) for circuit in known.circuits if circuit.provider == entry.name]
    hold = known.holds.get(entry.name)
    return {
        "name": entry.name,
        "kind": entry.kind,
        "sandbox": entry.sandbox,
        "messages_per_second": entry.messages_per_second,
        "concurrency": entry.concurrency,
        "hold": None if hold is None else _without_provider(asdict(hold)),
        "bound_messages": known.bound.get(entry.name, 0),
        "circuits": [_without_provider(each) for each in own],
    }


def _without_provider(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "provider"}
