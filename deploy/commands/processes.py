"""`daybreak up | scheduler | worker | api`: everything, or one process in the foreground."""

from __future__ import annotations

import os
import sys

import click

from deploy.children import python_module, run_in_foreground
from deploy.commands.session import begin_command, say
from deploy.database import usable_database
from deploy.environment import environment_for
from deploy.supervisor import run_system
from scheduler.settings import load_settings


@click.command()
def up() -> None:
    """Run everything on this machine, until Ctrl-C.

    An embedded PostgreSQL (unless DAYBREAK_DATABASE_URL names another), the database's schema brought up to
    date, the scheduler, DAYBREAK_WORKER_PROCESSES workers and the API. What dies is started again. Ctrl-C or
    SIGTERM stops all in order; a second Ctrl-C kills.
    """
    sys.exit(run_system(load_settings()))


@click.command()
def scheduler() -> None:
    """Run the scheduler alone, until Ctrl-C. Several may run: one works, the others stand by."""
    _run("scheduler")


@click.command()
def worker() -> None:
    """Run one worker alone, until Ctrl-C."""
    _run("worker")


@click.command()
def api() -> None:
    """Run the API alone, until Ctrl-C."""
    _run("api")


def _run(module: str) -> None:
    """Be the process `python -m module` or, where its database is to be stopped after it, its parent."""
    settings = begin_command()
    with usable_database(settings, say) as found:
        environment = environment_for(found)
        if settings.database_url is not None:
            os.execve(sys.executable, python_module(module), environment)  # noqa: S606 - no shell is the point
        sys.exit(run_in_foreground(module, environment))
