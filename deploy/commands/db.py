"""`daybreak db upgrade | status`: the schema of the database."""

from __future__ import annotations

import json

import click
from sqlalchemy import make_url

from deploy.commands.session import begin_command, say
from deploy.database import schema_status, some_database, upgrade_schema
from scheduler.settings import Settings


@click.group()
def db() -> None:
    """Create or upgrade the database's schema, or see its state."""


@db.command()
def upgrade() -> None:
    """Bring the schema to this release's; harmless to repeat, and safe while other processes run."""
    with some_database(begin_command(), say) as settings:
        status = upgrade_schema(settings, say)
    click.echo(f"the schema is at {status.current}, as this release needs it")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show the schema's revision beside this release's. Exit code 1 unless they are the same."""
    settings = begin_command()
    with some_database(settings, say, create=False) as found:
        schema = schema_status(found)
    if as_json:
        fields = {"current": schema.current, "newest": schema.newest, "up_to_date": schema.up_to_date}
        click.echo(json.dumps(fields | {"database": _where(settings)}))
    else:
        click.echo(f"database: {_where(settings)}")
        click.echo(f"schema:   {schema.current or 'none'}")
        click.echo(
            f"needed:   {schema.newest}" + ("" if schema.up_to_date else "  (run `daybreak db upgrade`)")
        )
    context.exit(0 if schema.up_to_date else 1)


def _where(settings: Settings) -> str:
    """The database in words, without credentials."""
    if settings.database_url is None:
        return f"embedded, in {settings.data_dir}"
    return make_url(settings.database_url.get_secret_value()).render_as_string(hide_password=True)
