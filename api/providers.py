"""The providers: which channel uses which, within what limits, and how their circuits are in each worker process.

Providers are the installation's, not a tenant's. No option of a provider is shown: any of them may be a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response

from api.answers import json_answer
from api.queries import NoQuery, read_query
from api.services import services
from scheduler.domain.occasion import Channel
from scheduler.provider_settings import ProviderEntry, ProviderPlan
from scheduler.store import circuits
from scheduler.store.circuits import StoredCircuit

providers = Blueprint("providers", __name__, url_prefix="/api/v1/providers")


@providers.get("")
def list_providers() -> Response:
    """All providers and routes, as this process has read them, and all circuits, as the workers last told.

    A circuit whose `seen_at` is more than a minute old is that of a process which has died or lost the database.
    """
    read_query(NoQuery)
    plan = services().settings.provider_plan
    with services().reading() as connection:
        told = circuits.all_circuits(connection)
    return json_answer(
        {
            "channels": [_channel_as_json(plan, channel) for channel in Channel],
            "providers": [_provider_as_json(entry, told) for entry in plan.providers.values()],
        }
    )


def _channel_as_json(plan: ProviderPlan, channel: Channel) -> dict[str, Any]:
    """A channel without providers sends nothing: its messages wait."""
    route = plan.routes.get(channel)
    return {
        "channel": channel,
        "providers": [] if route is None else list(route.providers),
        "unknown_outcome": None if route is None else route.unknown_outcome,
    }


def _provider_as_json(entry: ProviderEntry, told: Sequence[StoredCircuit]) -> dict[str, Any]:
    own = [asdict(circuit) for circuit in told if circuit.provider == entry.name]
    return {
        "name": entry.name,
        "kind": entry.kind,
        "sandbox": entry.sandbox,
        "messages_per_second": entry.messages_per_second,
        "concurrency": entry.concurrency,
        "circuits": [{name: value for name, value in each.items() if name != "provider"} for each in own],
    }
