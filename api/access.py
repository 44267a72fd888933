"""Who is asking: found before a handler runs, and what they may do."""

from __future__ import annotations

from typing import Final, cast

from flask import g

from scheduler.domain.access import Actor, Scope

ANONYMOUS: Final = Actor(1, "anonymous", frozenset(Scope))
"""Whoever asks, where authentication is turned off."""


def current_actor() -> Actor:
    """Who makes the present request."""
    return cast("Actor", g.get("actor", ANONYMOUS))
