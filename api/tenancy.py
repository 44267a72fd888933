"""Whose data a request may see: the one place that decides it.

Every query names the tenant; the database's own policies are the second wall, which hears of the tenant by the
connections that a request is lent (`scheduler.store.tenants.keep_apart`). Limit: a thread of its own that a
request starts (a job, which works for all tenants) names none.
"""

from __future__ import annotations

from flask import g, has_app_context

from api.access import current_actor
from scheduler.domain.access import Actor


def tenant_id() -> int:
    """The tenant of the present request; every query names it."""
    return current_actor().tenant_id


def tenant_of_caller() -> int | None:
    """The tenant of the present request; None outside of one, and where nobody was asked who they are."""
    actor: Actor | None = g.get("actor") if has_app_context() else None
    return None if actor is None else actor.tenant_id
