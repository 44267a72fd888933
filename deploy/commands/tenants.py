"""`daybreak tenants`: whose data stands apart from whose."""

from __future__ import annotations

import click

from deploy.commands.session import begin_command, say
from deploy.commands.table import table
from deploy.database import engine_on, usable_database
from scheduler.store import tenants as stored_tenants


@click.group()
def tenants() -> None:
    """List tenants, or add one."""


@tenants.command()
@click.argument("name")
def create(name: str) -> None:
    """Add the tenant NAME; its id is printed.

    It has nobody and no occasion yet: `daybreak keys create NAME --role admin --tenant ID` makes the key with which
    its API is filled.
    """
    if not name.isprintable() or not 1 <= len(name) <= 200:
        raise click.BadParameter("takes 1 to 200 printable characters")
    with (
        usable_database(begin_command(), say) as settings,
        engine_on(settings, "command") as engine,
        engine.begin() as connection,
    ):
        click.echo(stored_tenants.add(connection, name).id)


@tenants.command("list")
def list_tenants() -> None:
    """List all tenants."""
    with (
        usable_database(begin_command(), say, create=False) as settings,
        engine_on(settings, "command") as engine,
        engine.connect() as connection,
    ):
        found = stored_tenants.list_all(connection)
    click.echo(table(("ID", "NAME"), [(str(each.id), each.name) for each in found]))
