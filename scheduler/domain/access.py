"""Who may do what: scopes, and the roles they come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Scope(StrEnum):
    """A right, as a route asks for it and an API key grants it."""

    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    OCCASIONS_READ = "occasions:read"
    OCCASIONS_WRITE = "occasions:write"
    MESSAGES_READ = "messages:read"
    MESSAGES_SEND = "messages:send"
    OPERATIONS_READ = "operations:read"
    """Jobs, batches, providers, dead letters, statistics."""
    OPERATIONS_RUN = "operations:run"
    """Trigger jobs, replay and discard dead letters, hold and resume providers."""
    PRIVACY = "privacy"
    """Export and erase all that is known of a user."""
    AUDIT_READ = "audit:read"
    KEYS_MANAGE = "keys:manage"


class Role(StrEnum):
    """Scopes that go together."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OPERATOR = "operator"
    ADMIN = "admin"


_VIEWER: Final = frozenset(
    {Scope.USERS_READ, Scope.OCCASIONS_READ, Scope.MESSAGES_READ, Scope.OPERATIONS_READ}
)
_EDITOR: Final = _VIEWER | {Scope.USERS_WRITE, Scope.OCCASIONS_WRITE, Scope.MESSAGES_SEND}
_OPERATOR: Final = _VIEWER | {Scope.OPERATIONS_RUN, Scope.MESSAGES_SEND}

ROLE_SCOPES: Final[Mapping[Role, frozenset[Scope]]] = MappingProxyType(
    {Role.VIEWER: _VIEWER, Role.EDITOR: _EDITOR, Role.OPERATOR: _OPERATOR, Role.ADMIN: frozenset(Scope)}
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: for the audit log, and for what they may do.

    `name` is a constant word or an id, such as `key:12`, `jwt:ada` or `cli`; `address` where the request came
    from, if it was one.
    """

    tenant_id: int
    name: str
    scopes: frozenset[Scope]
    address: str | None = None
    request_id: str | None = None


SYSTEM: Final = Actor(1, "system", frozenset(Scope))
"""Who acts where nobody asked from outside: a command of the operator, a job."""
