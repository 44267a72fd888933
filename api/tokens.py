"""JWT bearer tokens (RFC 7519), read as RFC 8725 asks for.

HS256 under the shared secret, or RS256 and ES256 by the published keys. Which key checks a token is decided by us
from its algorithm: a public key is never tried as a secret, `none` is no algorithm here. Issuer, audience, subject
and expiry are required. Instants are compared with our own clock, with `LEEWAY` for those of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import jwt

from api.jwks import ALGORITHMS, KeySet, KeysNotFetched
from scheduler.clock import Clock
from scheduler.domain.access import ROLE_SCOPES, Role, Scope
from scheduler.settings import Settings

LEEWAY: Final = timedelta(seconds=30)

_SHARED: Final = "HS256"
_FIRST_TENANT: Final = 1
_LARGEST_TENANT: Final = 2**31 - 1
_LONGEST_SUBJECT: Final = 200


class InvalidToken(Exception):
    """The token lets nobody in; its text says why, for the log alone."""


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """Who a token says its bearer is."""

    tenant_id: int
    subject: str
    scopes: frozenset[Scope]


class TokenReader:
    """Reads the tokens that the settings allow for."""

    def __init__(self, settings: Settings, clock: Clock, keys: KeySet | None = None) -> None:
        self._clock = clock
        self._secret = None if settings.jwt_secret is None else settings.jwt_secret.get_secret_value()
        if keys is None and settings.jwt_jwks_url is not None:
            keys = KeySet(settings.jwt_jwks_url, clock)
        self._keys = keys
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._tenant_claim = settings.jwt_tenant_claim
        self._roles_claim = settings.jwt_roles_claim

    def read(self, token: str) -> TokenHolder:
        """Who the token is for. Raises InvalidToken, or KeysNotFetched where nobody can tell just now."""
        try:
            key, algorithm = self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "enforce_minimum_key_length": True,
                    # PyJWT knows the machine's clock only.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.PyJWTError as error:
            raise InvalidToken(type(error).__name__) from None
        self._check_times(claims)
        return TokenHolder(self._tenant(claims), _subject(claims), self._scopes(claims))

    def _key(self, header: Mapping[str, Any]) -> tuple[jwt.PyJWK | str, str]:
        algorithm = header.get("alg")
        if "crit" in header:  # RFC 7515 §4.1.11: what must be understood is not
            raise InvalidToken("critical header")
        if algorithm == _SHARED and self._secret is not None:
            return self._secret, _SHARED
        if algorithm in ALGORITHMS and self._keys is not None:
            key_id = header.get("kid")
            key = self._keys.key(key_id if isinstance(key_id, str) else None, algorithm)
            if key is not None:
                return key, algorithm
            raise InvalidToken("unknown key")
        raise InvalidToken("algorithm")

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock.now().timestamp()
        leeway = LEEWAY.total_seconds()
        if now >= _instant(claims, "exp") + leeway:
            raise InvalidToken("expired")
        for name in ("nbf", "iat"):
            if name in claims and now < _instant(claims, name) - leeway:
                raise InvalidToken("not valid yet")

    def _tenant(self, claims: Mapping[str, Any]) -> int:
        if self._tenant_claim is None:
            return _FIRST_TENANT
        value = _claim(claims, self._tenant_claim)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_TENANT:
            raise InvalidToken("tenant")
        return value

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        """What the roles allow together; a role that is none of ours allows nothing."""
        named = _claim(claims, self._roles_claim)
        names = named.split() if isinstance(named, str) else named if isinstance(named, list) else []
        roles = [Role(name) for name in names if isinstance(name, str) and name in set(Role)]
        return frozenset().union(*(ROLE_SCOPES[role] for role in roles))


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or else by its path into objects; None where it is not there."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _instant(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**12:
        raise InvalidToken(f"{name} is no instant")
    return float(value)


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject.isprintable() or not 1 <= len(subject) <= _LONGEST_SUBJECT:
        raise InvalidToken("subject")
    return subject


__all__ = ["InvalidToken", "KeysNotFetched", "TokenHolder", "TokenReader"]
