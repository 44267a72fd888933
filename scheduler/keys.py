"""API keys: made, rotated, revoked, and recognized.

A key's text is shown once. What is stored is its HMAC-SHA256 under the secret key of the settings: a stolen database
lets nobody in. Whoever changes the secret key ends all API keys.

Limit: a process remembers a key for `FRESH_SECONDS`, so one that is revoked or ended early elsewhere lets its holder
in for as long (where it was revoked, at once); its expiry is looked at each time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_bytes
from threading import Lock
from typing import Any, Final

from loguru import logger
from pydantic import SecretStr
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from scheduler.clock import Clock
from scheduler.domain.access import ROLE_SCOPES, Actor, Role, Scope
from scheduler.domain.api_key import new_key_text, prefix_of
from scheduler.errors import Conflict, NotFound
from scheduler.store import api_keys, audit
from scheduler.store.api_keys import USE_NOTED_AFTER, CheckedKey, StoredKey
from scheduler.store.database import in_transaction

FRESH_SECONDS: Final = 5.0
DEFAULT_OVERLAP: Final = timedelta(days=1)

_PURPOSE: Final = b"daybreak.api-key:"
_OWN_SECRET_BYTES: Final = 32
_MOST_REMEMBERED: Final = 10_000
_KIND: Final = "api_key"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is asked for: with a role, or else with scopes. `expires_at` None: it does not expire."""

    name: str
    role: Role | None = None
    scopes: frozenset[Scope] = frozenset()
    expires_at: datetime | None = None

    @property
    def grants(self) -> frozenset[Scope]:
        """What its holder may do."""
        return self.scopes if self.role is None else ROLE_SCOPES[self.role]


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key; `text` is what its holder sends, and is known nowhere else."""

    key: StoredKey
    text: str = field(repr=False)


def grants_of(key: StoredKey) -> frozenset[Scope]:
    """What the holder of a key may do: a role's scopes are those that the role has now."""
    return key.scopes if key.role is None else ROLE_SCOPES[key.role]


class ApiKeys:
    """The keys of one database, hashed under one secret. Safe to use from several threads."""

    def __init__(self, engine: Engine, clock: Clock, secret_key: SecretStr) -> None:
        self._engine = engine
        self._clock = clock
        self._secret = secret_key.get_secret_value().encode()

    def create(self, actor: Actor, new: NewKey) -> IssuedKey:
        """Add a key for the actor's tenant."""

        def work(connection: Connection) -> IssuedKey:
            return self._issue(connection, actor, new, self._clock.now())

        return in_transaction(self._engine, work)

    def rotate(
        self,
        actor: Actor,
        key_id: int,
        *,
        overlap: timedelta = DEFAULT_OVERLAP,
        may: Callable[[frozenset[Scope]], None] = lambda _: None,
    ) -> IssuedKey:
        """Give a key a successor with the same rights and as long a life, and end it once `overlap` is over.

        `may` is asked for the rights first, and raises to refuse. Raises NotFound, or Conflict where the key has
        ended or has a successor already.
        """

        def work(connection: Connection) -> IssuedKey:
            now = self._clock.now()
            old = _found(api_keys.lock(connection, actor.tenant_id, key_id), key_id)
            may(grants_of(old))
            if not old.is_valid(now) or old.replaced_by is not None:
                raise Conflict(f"API key {key_id} has ended or has been replaced already")
            lifetime = None if old.expires_at is None else old.expires_at - old.created_at
            expires_at = None if lifetime is None else now + lifetime
            issued = self._issue(connection, actor, NewKey(old.name, old.role, old.scopes, expires_at), now)
            ended = api_keys.replace(
                connection, actor.tenant_id, key_id, replaced_by=issued.key.id, ends_at=now + overlap
            )
            assert ended is not None
            before = {"expires_at": old.expires_at, "replaced_by": None}
            after = {"expires_at": ended.expires_at, "replaced_by": issued.key.id}
            audit.add(connection, actor, "rotate", _KIND, str(key_id), before, after, now=now)
            return issued

        return in_transaction(self._engine, work)

    def revoke(self, actor: Actor, key_id: int) -> StoredKey:
        """End a key at once; harmless to repeat. Raises NotFound."""

        def work(connection: Connection) -> StoredKey:
            now = self._clock.now()
            if api_keys.revoke(connection, actor.tenant_id, key_id, now=now):
                after = {"revoked_at": now}
                audit.add(
                    connection, actor, "revoke", _KIND, str(key_id), {"revoked_at": None}, after, now=now
                )
            return _found(api_keys.find(connection, actor.tenant_id, key_id), key_id)

        return in_transaction(self._engine, work)

    def hashed(self, text: str) -> bytes:
        """What is stored of a key."""
        return hmac.digest(self._secret, _PURPOSE + text.encode(), hashlib.sha256)

    def _issue(self, connection: Connection, actor: Actor, new: NewKey, now: datetime) -> IssuedKey:
        made = new_key_text()
        key = api_keys.add(
            connection,
            actor.tenant_id,
            name=new.name,
            prefix=made.prefix,
            key_hash=self.hashed(made.text),
            role=new.role,
            scopes=sorted(new.grants),
            created_by=actor.name,
            expires_at=new.expires_at,
            now=now,
        )
        audit.add(connection, actor, "create", _KIND, str(key.id), None, _described(key), now=now)
        return IssuedKey(key, made.text)


@dataclass(slots=True)
class _Remembered:
    """A key as it was read, and the digest of the text that has proved it since (None: none has).

    The digest is under a secret of the process, so it is worth nothing elsewhere; it is made in a fortieth of the time
    that the stored one takes.
    """

    read_at: float
    checked: CheckedKey
    proof: bytes | None = field(default=None, repr=False)


class KeyRing:
    """Recognizes keys for one process, and notes when they are used."""

    def __init__(self, keys: ApiKeys, engine: Engine, clock: Clock) -> None:
        self._keys = keys
        self._engine = engine
        self._clock = clock
        self._lock = Lock()
        self._remembered: dict[str, _Remembered] = {}
        # Known to this process alone, and for as long as it lives.
        self._own_secret = token_bytes(_OWN_SECRET_BYTES)
        self._noted: dict[int, datetime] = {}

    def recognize(self, text: str) -> StoredKey | None:
        """The key of this text, which may have ended; None for a text that is none or that is not known."""
        prefix = prefix_of(text)
        found = None if prefix is None else self._look_up(prefix)
        if found is None:
            return None
        digest = hashlib.blake2b(text.encode(), key=self._own_secret).digest()
        if found.proof is not None and hmac.compare_digest(found.proof, digest):
            return found.checked.key
        if not hmac.compare_digest(found.checked.key_hash, self._keys.hashed(text)):
            return None
        found.proof = digest
        return found.checked.key

    def forget(self, prefix: str) -> None:
        """Look this key up anew the next time."""
        self._remembered.pop(prefix, None)

    def use_is_to_be_noted(self, key: StoredKey) -> bool:
        """Whether `note_use` is due for a key: about once a minute; says so once."""
        now = self._clock.now()
        with self._lock:
            last = self._noted.get(key.id, key.last_used_at)
            if last is not None and now < last + USE_NOTED_AFTER:
                return False
            self._noted[key.id] = now
        return True

    def note_use(self, key: StoredKey) -> None:
        """Keep that a key was used just now. For after the answer: nobody waits for it, and it does not fail."""
        try:
            with self._engine.begin() as connection:
                api_keys.note_use(connection, key.id, now=self._clock.now())
        except DBAPIError as error:
            logger.bind(key_id=key.id, cause=type(error.orig).__name__).warning("use_of_key_not_noted")

    def _look_up(self, prefix: str) -> _Remembered | None:
        now = self._clock.monotonic()
        remembered = self._remembered.get(prefix)
        if remembered is not None and now - remembered.read_at < FRESH_SECONDS:
            return remembered
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            found = api_keys.by_prefix(connection, prefix)
        if found is None:
            self.forget(prefix)
            return None
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        remembered = self._remembered[prefix] = _Remembered(now, found)
        return remembered


def _found(key: StoredKey | None, key_id: int) -> StoredKey:
    if key is None:
        raise NotFound("API key", key_id)
    return key


def _described(key: StoredKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "prefix": key.prefix,
        "role": key.role,
        "scopes": sorted(key.scopes),
        "expires_at": key.expires_at,
    }
