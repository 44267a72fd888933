"""`daybreak providers [hold | resume]`: who sends for which channel, within what limits, and how they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

import click

from deploy.commands.session import COMMAND, begin_command, say
from deploy.commands.table import table
from deploy.database import engine_on, usable_database
from scheduler.clock import SystemClock
from scheduler.domain.occasion import Channel
from scheduler.errors import NotFound
from scheduler.operations import Operations
from scheduler.provider_settings import ProviderEntry, ProviderPlan
from scheduler.settings import Settings
from scheduler.store import batch_queries, circuits, provider_holds
from scheduler.store.batch_queries import BOUND_WITHIN
from scheduler.store.circuits import StoredCircuit
from scheduler.store.provider_holds import ProviderHold

SILENT_AFTER: Final = timedelta(minutes=2)
"""A process that has told nothing for so long has died, or has lost the database."""

_COLOURS: Final = {"closed": "green", "half-open": "yellow", "open": "red"}


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Only check the providers and their options; needs no database.")
@click.pass_context
def providers(context: click.Context, as_json: bool, check: bool) -> None:
    """Show the providers of each channel, in order, and their circuits in every worker process.

    `hold` has all workers give one nothing, `resume` ends that. All options of all providers are checked first,
    without connecting to any of them: a mistake ends the command with one line and exit code 78. Secrets are never
    shown.
    """
    if context.invoked_subcommand is not None:
        return
    settings = begin_command()
    _check(settings)
    plan = settings.provider_plan
    told, holds, bound = ([], {}, {}) if check else _told(settings)
    if as_json:
        click.echo(json.dumps(_fields(plan, told, holds, bound), default=str))
        return
    click.echo(table(("CHANNEL", "PROVIDERS IN ORDER", "UNKNOWN OUTCOME"), _channels(plan)))
    click.echo()
    now = SystemClock().now()
    headings = ("PROVIDER", "KIND", "MESSAGES/S", "IN FLIGHT", "CIRCUIT", "PROCESS", "OPENED", "FOR")
    rows = [row for entry in plan.providers.values() for row in _rows(entry, told, now)]
    click.echo(table(headings, rows))
    for hold in holds.values():
        held = click.style(f"{hold.provider} is on hold", fg="red")
        click.echo(f"{held} since {hold.held_at:%Y-%m-%d %H:%M} UTC by {hold.held_by}: {hold.reason}")
    for name, messages in sorted(bound.items()):
        gone = "" if name in plan.providers else ", which no channel has any more"
        click.echo(f"{messages} messages wait for {name} alone{gone}: it may have accepted them already")


@providers.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why, for those who find it so.")
def hold(name: str, reason: str) -> None:
    """Have all workers give a provider nothing, within some seconds.

    Its messages go to the channel's next provider, or wait: no attempt of theirs is burned.
    """
    with _operating(name) as operations:
        operations.hold_provider(COMMAND, name, reason)
    click.echo(f"{name}: on hold")


@providers.command()
@click.argument("name")
def resume(name: str) -> None:
    """End the hold of a provider."""
    with _operating(name) as operations:
        was_held = operations.resume_provider(COMMAND, name)
    click.echo(f"{name}: resumed" if was_held else f"{name}: was not on hold")


@contextmanager
def _operating(name: str) -> Iterator[Operations]:
    """What operators do, on the database of the settings. Raises NotFound where no provider has this name."""
    settings = begin_command()
    if name not in settings.provider_plan.providers:
        raise NotFound("provider", name)
    with (
        usable_database(settings, say, create=False) as found,
        engine_on(found, "command") as engine,
    ):
        yield Operations(engine, SystemClock(), found.retry_max_attempts)


def _told(settings: Settings) -> tuple[list[StoredCircuit], Mapping[str, ProviderHold], Mapping[str, int]]:
    due_by = SystemClock().now() + BOUND_WITHIN
    with (
        usable_database(settings, say, create=False) as found,
        engine_on(found, "command") as engine,
        engine.connect() as connection,
    ):
        bound = batch_queries.count_bound(connection, due_by=due_by)
        return circuits.all_circuits(connection), provider_holds.all_holds(connection), bound


def _check(settings: Settings) -> None:
    """Build the providers as a worker does, and let go of them. Raises ConfigurationError."""
    from worker.providers import check_plan  # what it imports, no other command needs

    check_plan(settings.provider_plan, settings.outbox_file)


def _channels(plan: ProviderPlan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for channel in Channel:
        route = plan.routes.get(channel)
        if route is None:
            rows.append((channel.value, click.style("none: its messages wait", fg="yellow"), ""))
        else:
            rows.append((channel.value, ", ".join(route.providers), route.unknown_outcome.value))
    return rows


def _rows(entry: ProviderEntry, told: Sequence[StoredCircuit], now: datetime) -> list[tuple[str, ...]]:
    """One line for each process that uses the provider, at least one."""
    kind = f"{entry.kind} (sandbox)" if entry.sandbox else entry.kind
    rate = "" if entry.messages_per_second is None else f"{entry.messages_per_second:g}"
    concurrency = "" if entry.concurrency is None else str(entry.concurrency)
    about = (entry.name, kind, rate, concurrency)
    own = [circuit for circuit in told if circuit.provider == entry.name]
    rows = [(*about, *_circuit(circuit, now)) for circuit in own]
    return rows or [(*about, "", "no worker", "", "")]


def _circuit(circuit: StoredCircuit, now: datetime) -> tuple[str, ...]:
    state = click.style(circuit.state, fg=_COLOURS[circuit.state])
    if now - circuit.seen_at > SILENT_AFTER:
        state = click.style(f"{circuit.state}, silent since {circuit.seen_at:%H:%M:%S} UTC", fg="yellow")
    category = f" ({circuit.category})" if circuit.category else ""
    return state, circuit.process, f"{circuit.openings}{category}", _rough(now - circuit.since)


def _rough(duration: timedelta) -> str:
    minutes = max(0, round(duration.total_seconds())) // 60
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def _fields(
    plan: ProviderPlan,
    told: Sequence[StoredCircuit],
    holds: Mapping[str, ProviderHold],
    bound: Mapping[str, int],
) -> dict[str, Any]:
    """For a program: the parts that hold no option of a provider."""
    return {
        "channels": {
            channel.value: {
                "providers": list(route.providers),
                "unknown_outcome": route.unknown_outcome.value,
            }
            for channel, route in plan.routes.items()
        },
        "providers": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "sandbox": entry.sandbox,
                "messages_per_second": entry.messages_per_second,
                "concurrency": entry.concurrency,
            }
            for entry in plan.providers.values()
        ],
        "circuits": [_instants(circuit) for circuit in told],
        "bound_messages": dict(bound),
        "holds": [asdict(hold) | {"held_at": hold.held_at.isoformat()} for hold in holds.values()],
    }


def _instants(circuit: StoredCircuit) -> dict[str, Any]:
    fields = asdict(circuit)
    return fields | {name: fields[name].isoformat() for name in ("since", "seen_at")}
