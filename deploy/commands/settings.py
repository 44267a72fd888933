"""`daybreak settings`: every setting with its value, where that comes from, and what it means."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from scheduler.settings import SettingDescription, describe_settings, load_settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings(as_json: bool) -> None:
    """Show every setting: value (secrets are masked), source, meaning.

    A setting is an environment variable or a line in the file .env of the working directory; the environment
    wins.
    """
    described = describe_settings(load_settings())
    if as_json:
        click.echo(json.dumps([asdict(setting) for setting in described], indent=2))
    else:
        click.echo("\n\n".join(map(_shown, described)))


def _shown(setting: SettingDescription) -> str:
    value = setting.value or "(not set)"
    is_set = setting.source != "default"
    first = (
        f"{click.style(setting.variable, bold=True)} = {click.style(value, fg='green' if is_set else None)}"
    )
    return f"{first}  ({setting.source})\n    {setting.meaning}"
