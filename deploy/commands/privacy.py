"""`daybreak privacy`: what is known of a person, and to forget them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
import orjson

from deploy.commands.session import COMMAND, begin_command, say
from deploy.data_folder import with_secret_key
from deploy.database import engine_on, usable_database
from scheduler.clock import SystemClock
from scheduler.privacy import Privacy
from scheduler.service import privacy_for
from scheduler.settings import load_settings

_PERSON: Final = click.argument("person")
_BY_ID: Final = click.option(
    "--id", "by_id", is_flag=True, help="PERSON is the id that Daybreak gave, not the external id."
)
_REASON: Final = click.option(
    "--reason", required=True, help="Kept in the audit log: name nobody in it, but the request's number."
)


@click.group()
def privacy() -> None:
    """Tell what is known of a person, or forget them."""


@privacy.command()
@_PERSON
@_BY_ID
def export(person: str, by_id: bool) -> None:
    """Print all that is stored of PERSON (an external id), as JSON."""
    with _privacy() as found:
        known = found.export(COMMAND.tenant_id, _id_of(found, person, by_id))
    sys.stdout.buffer.write(
        orjson.dumps(known, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    )


@privacy.command()
@_PERSON
@_BY_ID
@_REASON
@click.confirmation_option(prompt="Erase this person for good?", help="Do not ask.")
def erase(person: str, by_id: bool, reason: str) -> None:
    """Forget PERSON (an external id): all that is personal goes, and they cannot come back by an import.

    Counts stay right: the message log keeps its rows, with the id alone. Not reached are the file of the outbox
    provider, backups, files that were exported, and what providers were sent. Harmless to repeat.
    """
    with _privacy() as found:
        erased = found.erase(COMMAND, _id_of(found, person, by_id), reason)
    rows = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in erased.counts.items() if count)
    again = " (again)" if erased.already else ""
    click.echo(f"user {erased.user_id} erased{again}: {rows or 'nothing was left'}")
    click.echo(f"messages removed that waited for them: {erased.removed_messages}")
    outbox = load_settings().outbox_file
    if outbox.exists():
        click.echo(f"not reached: {outbox} holds every message that went to the outbox provider")


@privacy.command()
@click.argument("external_id")
@_REASON
def allow(external_id: str, reason: str) -> None:
    """Let somebody who was erased be added again under EXTERNAL_ID, as somebody new."""
    with _privacy() as found:
        was_kept_out = found.allow(COMMAND, external_id, reason)
    click.echo("allowed" if was_kept_out else "nothing kept them from coming back")


def _id_of(found: Privacy, person: str, by_id: bool) -> int:
    if not by_id:
        return found.find(COMMAND.tenant_id, person)
    try:
        return int(person)
    except ValueError:
        raise click.BadParameter("an id is a number", param_hint="PERSON") from None


@contextmanager
def _privacy() -> Iterator[Privacy]:
    settings = with_secret_key(begin_command())
    with usable_database(settings, say) as found, engine_on(found, "privacy") as engine:
        yield privacy_for(found, engine, SystemClock())
