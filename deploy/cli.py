"""The command `daybreak`: names the commands, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 done in part (the command says which part is not), 2 wrong usage, 65 unusable input,
69 a server does not answer, 75 somebody else is at it: try again later, 78 a setting is wrong (sysexits.h).

A command is imported when it is called, so that `daybreak --help` and `--version` answer at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import click

from scheduler.errors import ConfigurationError, DaybreakError, InvalidInput, Unavailable

INVALID_INPUT_EXIT: Final = 65
UNAVAILABLE_EXIT: Final = 69
CONFIGURATION_EXIT: Final = 78

_COMMANDS: Final = {
    "up": ("deploy.commands.processes:up", "Run everything: database, scheduler, workers, API."),
    "demo": ("deploy.demo:command", "Run everything with made-up people, and show messages going out."),
    "scheduler": ("deploy.commands.processes:scheduler", "Run the scheduler alone."),
    "worker": ("deploy.commands.processes:worker", "Run one worker alone."),
    "api": ("deploy.commands.processes:api", "Run the API alone."),
    "users": ("deploy.commands.users:users", "Import people."),
    "privacy": ("deploy.commands.privacy:privacy", "Tell what is known of a person, or forget them."),
    "jobs": ("deploy.commands.jobs:jobs", "Run a job now, or see when they ran and run next."),
    "dead-letters": (
        "deploy.commands.dead_letters:dead_letters",
        "List what was given up; replay it or discard it.",
    ),
    "providers": (
        "deploy.commands.providers:providers",
        "Show who sends for which channel, and how they are.",
    ),
    "occasions": (
        "deploy.commands.occasions:occasions",
        "List and show occasions; pause them and let them go on.",
    ),
    "suppressions": (
        "deploy.commands.suppressions:suppressions",
        "List, add, remove and import addresses that are not written to.",
    ),
    "keys": ("deploy.commands.keys:keys", "Make, list, rotate and revoke API keys."),
    "tenants": ("deploy.commands.tenants:tenants", "List tenants, or add one."),
    "db": ("deploy.commands.db:db", "Create or upgrade the database's schema, or see its state."),
    "settings": ("deploy.commands.settings:settings", "Show every setting: value, source, meaning."),
    "simulate": ("deploy.simulate:command", "Play days or years of messages in minutes."),
}


class _LazyGroup(click.Group):
    """Knows its commands by name, imports one when it is called."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names, in the order in which they are of use."""
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command of that name, imported."""
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

    def invoke(self, context: click.Context) -> Any:
        """Run the command; an error of ours ends it with one line and its exit code."""
        try:
            return super().invoke(context)
        except DaybreakError as error:
            click.echo(f"daybreak: {error}", err=True)
            context.exit(_exit_code(error))


def _exit_code(error: DaybreakError) -> int:
    match error:
        case ConfigurationError():
            return CONFIGURATION_EXIT
        case Unavailable():
            return UNAVAILABLE_EXIT
        case InvalidInput():
            return INVALID_INPUT_EXIT
        case _:
            return 1


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="daybreak", prog_name="daybreak")
def main() -> None:
    """Send each person the right message at the right hour of their day.

    Settings are environment variables (DAYBREAK_…) or stand in the file .env; `daybreak settings` lists
    them. Without DAYBREAK_DATABASE_URL, Daybreak brings a PostgreSQL of its own and keeps its data in
    DAYBREAK_DATA_DIR.
    """
