"""What every command begins with: settings, quiet logs, and a way to tell the user something."""

from __future__ import annotations

from typing import Final

import click

from scheduler.domain.access import Actor, Scope
from scheduler.logs import configure_logs
from scheduler.settings import Settings, load_settings

COMMAND: Final = Actor(1, "cli", frozenset(Scope))
"""Who acts where an operator has called a command."""


def begin_command() -> Settings:
    """The settings; logs show warnings only unless DAYBREAK_LOG_LEVEL says otherwise. Raises ConfigurationError."""
    settings = load_settings()
    level = "WARNING" if settings.source_of("log_level") == "default" else settings.log_level
    configure_logs(level=level, log_format=settings.log_format, service="command")
    return settings


def say(text: str) -> None:
    """Tell the user something beside the command's result, which alone is on standard output."""
    click.echo(text, err=True)
