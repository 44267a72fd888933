"""JSON Merge Patch (RFC 7396): how a change is laid over what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(target: object, changes: Mapping[str, Any]) -> dict[str, Any]:
    """`target` with `changes` merged in (RFC 7396 §2): None removes; what is no object gives way to one."""
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value) if isinstance(value, Mapping) else value
    return result
