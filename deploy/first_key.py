"""The first API key of an installation, and the one that a demonstration goes on with."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from deploy.commands.session import COMMAND
from deploy.data_folder import kept_text
from deploy.database import engine_on, patiently
from deploy.supervisor import System
from scheduler.clock import Clock, SystemClock
from scheduler.domain.access import Role
from scheduler.keys import KeyRing, NewKey
from scheduler.service import keys_for
from scheduler.settings import Settings
from scheduler.store import api_keys

DEVELOPMENT_FILE: Final = "development.key"
"""Where in the data folder the key of a demonstration is kept."""


def announce_first_key(system: System) -> None:
    """Where there is no API key yet, make one for an admin and show it, this once.

    Not where the output is a log: a key does not belong there. A database that does not answer is waited for. Limit:
    where it dies before it says whether it has kept the key, nothing is shown, and `daybreak keys` makes another.
    """
    if system.settings.api_authentication == "required":
        patiently(lambda: _announce(system), system.stopping)


def _announce(system: System) -> None:
    settings = system.settings
    with engine_on(settings, "command") as engine:
        with engine.connect() as connection:
            if api_keys.count(connection, COMMAND.tenant_id):
                return
        if settings.log_format != "human":
            system.say("no API key yet: `daybreak keys create NAME --role admin` makes one")
            return
        key = keys_for(settings, engine, SystemClock()).create(COMMAND, NewKey("first", Role.ADMIN)).text
    system.say(f"an API key for you, shown this once: {key}")
    system.say("send it as `Authorization: Bearer …`; `daybreak keys` makes, rotates and revokes others")


def development_key(settings: Settings, engine: Engine, clock: Clock) -> str | None:
    """An admin's key that the data folder keeps, for whoever can read that; None where nobody needs one."""
    if settings.api_authentication != "required":
        return None
    keys = keys_for(settings, engine, clock)
    ring = KeyRing(keys, engine, clock)

    def made(held: str) -> str:
        key = ring.recognize(held)
        if key is not None and key.is_valid(clock.now()):
            return held
        return keys.create(COMMAND, NewKey("development", Role.ADMIN)).text

    return kept_text(settings.data_dir, DEVELOPMENT_FILE, made)
