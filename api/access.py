"""Who is asking: found before a handler runs, and what they may do.

`Authorization: Bearer …` with an API key or a JWT. Without it, and with one that is unknown, expired or revoked, the
answer is 401 and the same; with one that does not allow for what is asked, 403 with the scope that is missing. An
endpoint that does not say who may call it is answered to nobody.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from flask import Flask, Request, Response, current_app, g
from loguru import logger
from sqlalchemy import Engine

from api.endpoint import Endpoint, endpoint, endpoint_of
from api.jwks import KeysNotFetched
from api.problems import RETRY_AFTER_SECONDS, Problem, Refused
from api.request_log import request_id, route
from api.tokens import InvalidToken, TokenReader
from scheduler.clock import Clock
from scheduler.domain.access import Actor, Scope
from scheduler.domain.api_key import MARK
from scheduler.keys import KeyRing, grants_of
from scheduler.service import keys_for
from scheduler.settings import Settings
from scheduler.store import tenants
from scheduler.store.api_keys import StoredKey

FIRST_TENANT: Final = 1
"""Whoever runs the installation; jobs and providers are theirs, and all others use them."""

ANONYMOUS: Final = Actor(FIRST_TENANT, "anonymous", frozenset(Scope))
"""Whoever asks, where authentication is turned off."""

_Rights = tuple[int, str, frozenset[Scope]]
"""Of which tenant somebody is, what they are called, and what they may do."""

_EXTENSION: Final = "daybreak_access"
_REALM: Final = 'Bearer realm="daybreak"'

_OTHERS_TOO: Final = Problem(
    HTTPStatus.FORBIDDEN,
    "Forbidden",
    "this would change what other tenants use as well: it is for who runs the installation",
    "/problems/forbidden",
)


def current_actor() -> Actor:
    """Who makes the present request. Raises AttributeError at an endpoint that anybody may call: nobody was asked."""
    return cast("Actor", g.actor)


def forbidden(missing: Scope) -> Refused:
    """What to raise for a caller who lacks a scope."""
    return Refused(
        Problem(
            HTTPStatus.FORBIDDEN,
            "Forbidden",
            f"this needs the scope {missing}, which these credentials do not have",
            "/problems/forbidden",
            {"scope": missing},
            # RFC 6750 §3.1
            {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{missing}"'},
        )
    )


def forget_key(prefix: str) -> None:
    """Have this process look a key up anew: it has just been changed."""
    access: Access = current_app.extensions[_EXTENSION]
    access.forget_key(prefix)


class Access:
    """Asks each caller of an application who they are. Raises ConfigurationError where the settings do not allow it."""

    def __init__(self, app: Flask, settings: Settings, engine: Engine, clock: Clock) -> None:
        self._handlers = app.view_functions
        self._door = _Door(settings, engine, clock) if settings.api_authentication == "required" else None
        app.extensions[_EXTENSION] = self
        if app.has_static_folder:
            endpoint(None, is_listed=False)(app.view_functions["static"])

    def forget_key(self, prefix: str) -> None:
        """Look a key up anew the next time."""
        if self._door is not None:
            self._door.ring.forget(prefix)

    def noted(self, request: Request) -> Endpoint | None:
        """What the route of a request says of itself; None: it is answered by Flask (404, 405, what methods there are).

        Raises LookupError for a route that says nothing.
        """
        rule = request.url_rule
        if rule is None or (
            request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False)
        ):
            return None
        found = endpoint_of(self._handlers[rule.endpoint])
        if found is None:
            raise LookupError(f"{rule.endpoint} does not say who may call it")
        return found

    def admit(self, request: Request, g: Any) -> None:
        """Note in `g` who makes a request, where its route asks for that. Raises Refused."""
        wanted = self.noted(request)
        if wanted is None or wanted.scope is None:
            return
        actor = _anonymous(request, g) if self._door is None else self._door.actor(request, g)
        if wanted.scope not in actor.scopes:
            raise forbidden(wanted.scope)
        if wanted.is_of_installation and actor.tenant_id != FIRST_TENANT:
            raise Refused(_OTHERS_TOO)
        g.actor = actor

    def note_use(self, g: Any, response: Response) -> None:
        """Have the use of a key kept once the answer is sent; about once a minute."""
        key: StoredKey | None = g.get("api_key")
        if key is not None and self._door is not None and self._door.ring.use_is_to_be_noted(key):
            response.call_on_close(partial(self._door.ring.note_use, key))


def _anonymous(request: Request, g: Any) -> Actor:
    return Actor(FIRST_TENANT, ANONYMOUS.name, ANONYMOUS.scopes, request.remote_addr, g.request_id)


class _Refusal(Exception):
    """Why somebody is not let in, for the log alone."""


class _Door:
    """Finds out who a caller is."""

    def __init__(self, settings: Settings, engine: Engine, clock: Clock) -> None:
        self.ring = KeyRing(keys_for(settings, engine, clock), engine, clock)
        self._tokens = TokenReader(settings, clock)
        self._engine = engine
        self._clock = clock
        self._tenants: set[int] = set()

    def actor(self, request: Request, g: Any) -> Actor:
        """Who makes a request. Raises Refused."""
        scheme, _, credentials = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthenticated("this needs an API key or a JWT: Authorization: Bearer …", _REALM)
        credentials = credentials.strip()
        try:
            found = (
                self._by_key(credentials, g) if credentials.startswith(MARK) else self._by_token(credentials)
            )
        except _Refusal as refusal:
            g.authentication_failed = True
            logger.bind(cause=str(refusal), route=route(), request_id=request_id()).warning(
                "authentication_failed"
            )
            raise _unauthenticated(
                "these credentials are not valid", f'{_REALM}, error="invalid_token"'
            ) from None
        return Actor(*found, request.remote_addr, g.request_id)

    def _by_key(self, text: str, g: Any) -> _Rights:
        key = self.ring.recognize(text)
        if key is None:
            raise _Refusal("unknown key")
        if not key.is_valid(self._clock.now()):
            raise _Refusal("revoked key" if key.revoked_at is not None else "expired key")
        g.api_key = key
        return key.tenant_id, f"key:{key.id}", grants_of(key)

    def _by_token(self, token: str) -> _Rights:
        try:
            holder = self._tokens.read(token)
        except InvalidToken as error:
            raise _Refusal(f"token: {error}") from None
        except KeysNotFetched:
            raise _keys_not_fetched() from None
        if not self._is_tenant(holder.tenant_id):
            raise _Refusal("token: unknown tenant")
        return holder.tenant_id, f"jwt:{holder.subject}", holder.scopes

    def _is_tenant(self, tenant_id: int) -> bool:
        """Whether there is such a tenant; tenants are never removed, so one that was found stays so."""
        if tenant_id not in self._tenants:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if not tenants.exists(connection, tenant_id):
                    return False
            self._tenants.add(tenant_id)
        return True


def _unauthenticated(detail: str, challenge: str) -> Refused:
    return Refused(
        Problem(
            HTTPStatus.UNAUTHORIZED,
            "Unauthorized",
            detail,
            "/problems/unauthenticated",
            headers={"WWW-Authenticate": challenge},
        )
    )


def _keys_not_fetched() -> Refused:
    return Refused(
        Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Temporarily unavailable",
            "the keys that tokens are checked with cannot be fetched; API keys are taken all the same",
            "/problems/unavailable",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    )
