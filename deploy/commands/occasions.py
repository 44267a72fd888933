"""`daybreak occasions`: what is celebrated, and how to hold it up and let it go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from sqlalchemy import Engine

from deploy.commands.session import begin_command, say
from deploy.commands.table import table
from deploy.database import engine_on, usable_database
from scheduler.clock import SystemClock
from scheduler.domain.access import SYSTEM
from scheduler.domain.occasion import Occasion
from scheduler.domain.occasion_input import input_of
from scheduler.occasions import BacklogChoice, BacklogWaiting, Occasions
from scheduler.service import planner_for
from scheduler.settings import Settings
from scheduler.store import occasions as stored_occasions

_MOST: Final = 1_000


@click.group()
def occasions() -> None:
    """List and show occasions; pause them and let them go on."""


@occasions.command("list")
@click.option("--archived", is_flag=True, help="Show those in the archive instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_occasions(archived: bool, as_json: bool) -> None:
    """List the occasions, oldest first."""
    with _opened() as (_, engine), engine.connect() as connection:
        found = stored_occasions.page(connection, SYSTEM.tenant_id, after=0, most=_MOST, archived=archived)
    if as_json:
        click.echo(json.dumps([_fields(occasion) for occasion in found], default=str))
        return
    rows = [
        (each.key, each.kind.value, _condition(each), ", ".join(each.channels), each.name) for each in found
    ]
    click.echo(table(("KEY", "KIND", "STATE", "CHANNELS", "NAME"), rows))


@occasions.command()
@click.argument("key")
def show(key: str) -> None:
    """Print one occasion as JSON, with its backlog where it pauses."""
    with _opened() as (service, _):
        occasion, backlog = service.backlog(SYSTEM.tenant_id, key)
    shown = _fields(occasion)
    if occasion.paused_at is not None:
        shown["backlog"] = {
            "due": backlog.due,
            "within_limit": backlog.within_limit,
            "too_late": backlog.too_late,
        }
    click.echo(json.dumps(shown, default=str, indent=2))


@occasions.command()
@click.argument("key")
def pause(key: str) -> None:
    """Send nothing of an occasion until it is resumed; it is planned as ever."""
    with _opened() as (service, _):
        occasion = service.pause(SYSTEM, key)
    click.echo(f"{key} pauses since {occasion.paused_at:%Y-%m-%d %H:%M:%S} UTC")


@occasions.command()
@click.argument("key")
@click.option(
    "--backlog",
    type=click.Choice([choice.value for choice in BacklogChoice]),
    help="What becomes of messages that fell due in the pause; must be said where there are any.",
)
def resume(key: str, backlog: str | None) -> None:
    """Let a paused occasion go on."""
    choice = None if backlog is None else BacklogChoice(backlog)
    with _opened() as (service, _):
        try:
            resumed = service.resume(SYSTEM, key, choice)
        except BacklogWaiting as waiting:
            raise click.UsageError(f"{waiting} (--backlog send or --backlog skip)") from None
    sent = 0 if choice is BacklogChoice.SKIP else resumed.backlog.within_limit
    click.echo(f"{key} goes on: {sent} messages of the backlog to send, {resumed.skipped} skipped")


@contextmanager
def _opened() -> Iterator[tuple[Occasions, Engine]]:
    settings: Settings = begin_command()
    with usable_database(settings, say, create=False) as found, engine_on(found, "command") as engine:
        yield Occasions(engine, planner_for(settings, engine), SystemClock()), engine


def _condition(occasion: Occasion) -> str:
    if occasion.archived_at is not None:
        return "archived"
    if occasion.paused_at is not None:
        return click.style("paused", fg="yellow")
    return click.style("active", fg="green") if occasion.active else "off"


def _fields(occasion: Occasion) -> dict[str, Any]:
    return {
        "id": occasion.id,
        **input_of(occasion).model_dump(mode="json"),
        "paused_at": occasion.paused_at,
        "archived_at": occasion.archived_at,
        "version": occasion.version,
        "planned_through": occasion.planned_through,
    }
