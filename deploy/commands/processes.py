"""`daybreak up | scheduler | worker | api`: everything, or one process in the foreground; `daybreak api openapi`."""

from __future__ import annotations

import json
import os
import sys

import click

from deploy.children import python_module, run_in_foreground
from deploy.commands.session import begin_command, say
from deploy.data_folder import with_secret_key
from deploy.database import usable_database
from deploy.environment import environment_for
from deploy.first_key import announce_first_key
from deploy.supervisor import run_system
from scheduler.settings import load_settings


@click.command()
def up() -> None:
    """Run everything on this machine, until Ctrl-C.

    An embedded PostgreSQL (unless DAYBREAK_DATABASE_URL names another), the database's schema brought up to
    date, the scheduler, DAYBREAK_WORKER_PROCESSES workers and the API. What dies is started again. Ctrl-C or
    SIGTERM stops all in order; a second Ctrl-C kills. The first time, it shows an API key for an admin.
    """
    settings = with_secret_key(load_settings(), is_whole_system=True)
    sys.exit(run_system(settings, on_ready=announce_first_key))


@click.command()
def scheduler() -> None:
    """Run the scheduler alone, until Ctrl-C. Several may run: one works, the others stand by."""
    _run("scheduler")


@click.command()
def worker() -> None:
    """Run one worker alone, until Ctrl-C."""
    _run("worker")


@click.group(invoke_without_command=True)
@click.pass_context
def api(context: click.Context) -> None:
    """Run the API alone, until Ctrl-C; or print what it is."""
    if context.invoked_subcommand is None:
        _run("api")


@api.command()
def openapi() -> None:
    """Print the OpenAPI document of this release, as JSON. Needs no database."""
    from api.app import described_app
    from api.openapi import document

    click.echo(json.dumps(document(described_app()), indent=2, ensure_ascii=False))


def _run(module: str) -> None:
    """Be the process `python -m module` or, where its database is to be stopped after it, its parent."""
    settings = begin_command()
    if module == "api":
        settings = with_secret_key(settings)
    with usable_database(settings, say) as found:
        environment = environment_for(found)
        if settings.database_url is not None:
            os.execve(sys.executable, python_module(module), environment)  # noqa: S606 - no shell is the point
        sys.exit(run_in_foreground(module, environment))
