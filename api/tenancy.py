"""Whose data a request may see: the one place that decides it."""

from __future__ import annotations

from typing import Final

_DEFAULT_TENANT_ID: Final = 1


def tenant_id() -> int:
    """The tenant of the present request; every query names it."""
    return _DEFAULT_TENANT_ID
