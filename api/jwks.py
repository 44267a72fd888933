"""The keys that somebody else signs tokens with, fetched from where they publish them (RFC 7517).

Fetched when first needed, again after `_FRESH_SECONDS`, and early where a token names a key that is not known: at
most once in `_PAUSE_SECONDS`, so that made-up names cannot have us ask for each. While they cannot be fetched, those
known hold for `_KEPT_SECONDS`. Only keys for RS256 and ES256 are taken, whatever the set offers.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from threading import Lock
from typing import IO, Any, Final

import orjson
from jwt import PyJWK, PyJWTError
from loguru import logger

from scheduler.clock import Clock

ALGORITHMS: Final = ("RS256", "ES256")

_FRESH_SECONDS: Final = 600.0
_KEPT_SECONDS: Final = 3600.0
_PAUSE_SECONDS: Final = 30.0
_TIMEOUT_SECONDS: Final = 3.0
_MOST_BYTES: Final = 262_144
_MOST_KEYS: Final = 100

Fetch = Callable[[str], bytes]


class KeysNotFetched(Exception):
    """No keys are known, and none can be had."""


class KeySet:
    """The keys of one address. Safe to use from several threads: one fetches, the others wait for it."""

    def __init__(self, url: str, clock: Clock, fetch: Fetch | None = None) -> None:
        self._url = url
        self._clock = clock
        self._fetch = fetch or _fetch
        self._lock = Lock()
        self._keys: dict[str | None, PyJWK] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None

    def key(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key of this name for this algorithm; None: there is none. Raises KeysNotFetched."""
        with self._lock:
            if self._is_older_than(_FRESH_SECONDS) or key_id not in self._keys:
                self._refresh()
            if self._is_older_than(_KEPT_SECONDS):
                raise KeysNotFetched
            key = self._keys.get(key_id)
        return key if key is not None and key.algorithm_name == algorithm else None

    def _is_older_than(self, seconds: float) -> bool:
        return self._fetched_at is None or self._clock.monotonic() - self._fetched_at > seconds

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if self._asked_at is not None and now - self._asked_at < _PAUSE_SECONDS:
            return
        self._asked_at = now
        try:
            self._keys = _read(self._fetch(self._url))
        except (OSError, HTTPException, ValueError) as error:
            logger.bind(cause=type(error).__name__).warning("token_keys_not_fetched")
        else:
            self._fetched_at = now


def _read(body: bytes) -> dict[str | None, PyJWK]:
    """The usable keys by name; a set of one key has it without a name as well. Raises ValueError."""
    found = orjson.loads(body)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
        raise ValueError("no set of keys")
    keys: dict[str | None, PyJWK] = {}
    for each in listed:
        key = _usable(each)
        if key is not None:
            keys[key.key_id] = key
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    elif None in keys:
        del keys[None]
    return keys


def _usable(described: Any) -> PyJWK | None:
    if not isinstance(described, dict) or described.get("use", "sig") != "sig":
        return None
    if not isinstance(described.get("kid"), str | None):
        return None
    try:
        key = PyJWK.from_dict(described)
    except (
        PyJWTError,
        TypeError,
        ValueError,
    ):  # what is no key, and members of other types than they should be
        return None
    return key if key.algorithm_name in ALGORITHMS else None


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes where the address says: where that leads is not for others to say."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow no redirect: it becomes an error."""


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - http, by the settings
    with urllib.request.build_opener(NoRedirect).open(request, timeout=_TIMEOUT_SECONDS) as answer:
        body: bytes = answer.read(_MOST_BYTES + 1)
    if len(body) > _MOST_BYTES:
        raise ValueError("the set of keys is too large")
    return body
