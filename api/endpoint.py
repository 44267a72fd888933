"""What every route says of itself: who may call it, what it takes and what it answers.

One decorator at each handler; the access check, the OpenAPI document and the tests read what it has noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from scheduler.domain.access import Scope

Handler = TypeVar("Handler", bound=Callable[..., Any])

_NOTED: Final = "daybreak_endpoint"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`scope` None: anybody may call it. `answers` are the bodies by status; None: an answer without a body.

    `query` and `body` are the models that the handler reads; `body_types` the media types it takes them in.
    """

    scope: Scope | None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_types: tuple[str, ...] = (JSON,)
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    answer_types: tuple[str, ...] = (JSON,)
    errors: tuple[HTTPStatus, ...] = ()
    is_of_installation: bool = False
    """Whether it changes what all tenants share: then it is for callers of the first tenant, who runs it all."""
    is_listed: bool = True
    """Whether the OpenAPI document tells of it; pages for people are not in it."""


def endpoint(scope: Scope | None, **noted: Any) -> Callable[[Handler], Handler]:
    """Note an `Endpoint` at a handler."""

    def note(handler: Handler) -> Handler:
        setattr(handler, _NOTED, Endpoint(scope, **noted))
        return handler

    return note


def endpoint_of(handler: Callable[..., Any]) -> Endpoint | None:
    """What a handler has noted; None: nothing, which no route may do."""
    return getattr(handler, _NOTED, None)
