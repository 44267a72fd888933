"""`daybreak keys`: API keys, for whoever has the database and the secret key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import click
from sqlalchemy import Engine

from deploy.commands.session import COMMAND, begin_command, say
from deploy.commands.table import table
from deploy.data_folder import with_secret_key
from deploy.database import engine_on, usable_database
from scheduler.clock import Clock, SystemClock
from scheduler.domain.access import Actor, Role, Scope
from scheduler.domain.duration import parse_duration
from scheduler.errors import NotFound
from scheduler.keys import ApiKeys, IssuedKey, NewKey, grants_of
from scheduler.service import keys_for
from scheduler.store import api_keys as stored_keys
from scheduler.store import tenants
from scheduler.store.api_keys import StoredKey

_PAGE: Final = 500
_AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_TENANT: Final = click.option(
    "--tenant", "tenant_id", default=1, show_default=True, type=click.IntRange(1), help="Whose keys, by id."
)


def _duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError:
        raise click.BadParameter("takes seconds or an ISO 8601 duration: 3600, PT36H, P90D") from None


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys."""


@keys.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="What it allows for: scopes that go together.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="Or else single scopes.",
)
@click.option("--expires-in", callback=_duration, help="How long it lasts (P90D); otherwise without end.")
@_TENANT
@_AS_JSON
def create(
    name: str,
    role: str | None,
    scopes: tuple[str, ...],
    expires_in: timedelta | None,
    tenant_id: int,
    as_json: bool,
) -> None:
    """Make a key called NAME. It is printed this once, and kept nowhere."""
    if (role is None) == (not scopes):
        raise click.UsageError("takes either --role or --scope")
    with _opened() as opened:
        ends = None if expires_in is None else opened.clock.now() + expires_in
        new = NewKey(name, None if role is None else Role(role), frozenset(map(Scope, scopes)), ends)
        issued = opened.keys.create(opened.actor(tenant_id), new)
    _show_issued(issued, as_json)


@keys.command("list")
@_TENANT
@_AS_JSON
def list_keys(tenant_id: int, as_json: bool) -> None:
    """List all keys, those that have ended among them."""
    with _opened() as opened:
        now = opened.clock.now()
        found = list(_all_keys(opened.engine, tenant_id))
    if as_json:
        click.echo(json.dumps([_fields(key, now) for key in found]))
        return
    headings = ("ID", "NAME", "BEGINS WITH", "ALLOWS", "STATE", "ENDS", "LAST USED")
    click.echo(table(headings, [_cells(key, now) for key in found]))


@keys.command()
@click.argument("key_id", metavar="ID", type=click.IntRange(1))
@click.option(
    "--overlap",
    default="P1D",
    show_default=True,
    callback=_duration,
    help="How long the old key lets its holder in beside the new one.",
)
@_TENANT
@_AS_JSON
def rotate(key_id: int, overlap: timedelta, tenant_id: int, as_json: bool) -> None:
    """Make a successor of the key ID with the same rights; the old one ends after the overlap."""
    with _opened() as opened:
        issued = opened.keys.rotate(opened.actor(tenant_id), key_id, overlap=overlap)
    _show_issued(issued, as_json)


@keys.command()
@click.argument("key_id", metavar="ID", type=click.IntRange(1))
@_TENANT
def revoke(key_id: int, tenant_id: int) -> None:
    """End the key ID at once; running processes follow within seconds."""
    with _opened() as opened:
        key = opened.keys.revoke(opened.actor(tenant_id), key_id)
    say(f"the key {key.name!r} ({key.prefix}…) lets nobody in any more")


@dataclass(frozen=True, slots=True)
class _Opened:
    engine: Engine
    keys: ApiKeys
    clock: Clock

    def actor(self, tenant_id: int) -> Actor:
        """The operator, on behalf of a tenant. Raises NotFound where there is none."""
        with self.engine.connect() as connection:
            if not tenants.exists(connection, tenant_id):
                raise NotFound("tenant", tenant_id)
        return replace(COMMAND, tenant_id=tenant_id)


@contextmanager
def _opened() -> Iterator[_Opened]:
    clock = SystemClock()
    with (
        usable_database(with_secret_key(begin_command()), say) as settings,
        engine_on(settings, "command") as engine,
    ):
        yield _Opened(engine, keys_for(settings, engine, clock), clock)


def _all_keys(engine: Engine, tenant_id: int) -> Iterator[StoredKey]:
    after = 0
    with engine.connect() as connection:
        while found := stored_keys.page(connection, tenant_id, after=after, most=_PAGE):
            yield from found
            after = found[-1].id


def _show_issued(issued: IssuedKey, as_json: bool) -> None:
    if as_json:
        key = issued.key
        click.echo(json.dumps({"id": key.id, "name": key.name, "prefix": key.prefix, "key": issued.text}))
        return
    say(f"key {issued.key.id}, shown this once:")
    click.echo(issued.text)


def _state(key: StoredKey, now: datetime) -> str:
    if key.is_valid(now):
        return "active"
    return "expired" if key.revoked_at is None else "revoked"


def _fields(key: StoredKey, now: datetime) -> dict[str, Any]:
    instants = {name: value.isoformat() for name, value in asdict(key).items() if isinstance(value, datetime)}
    return asdict(key) | instants | {"state": _state(key, now), "scopes": sorted(grants_of(key))}


def _cells(key: StoredKey, now: datetime) -> tuple[str, ...]:
    return (
        str(key.id),
        key.name,
        f"dbk_{key.prefix}",
        key.role or " ".join(sorted(key.scopes)),
        _state(key, now),
        _minute(key.expires_at) or "never",
        _minute(key.last_used_at) or "never",
    )


def _minute(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M}"
