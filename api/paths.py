"""The paths of the API as people write them, and which one is meant by a path that is none."""

from __future__ import annotations

import difflib
import re
from typing import Final

from werkzeug.routing import Map, Rule

IDENTITY_PATTERN: Final = "[1-9][0-9]{0,17}"
LARGEST_IDENTITY: Final = 10**18 - 1

_PARAMETER: Final = re.compile(r"<(?:[^:>]+:)?([^>]+)>")
_LONGEST_COMPARED: Final = 200
_LEAST_LIKENESS: Final = 0.75


def template(rule: Rule) -> str:
    """A rule as OpenAPI writes it: `/users/{user_id}`."""
    return _PARAMETER.sub(r"{\1}", rule.rule)


def no_such_path(path: str, routes: Map) -> str:
    """What to tell somebody who asked for a path that is none."""
    meant = _likest(path, routes) if len(path) <= _LONGEST_COMPARED else None
    advice = f"did you mean {meant}? " if meant else ""
    return f"there is nothing at this path; {advice}/openapi.json lists all paths and the form of their parameters"


def _likest(path: str, routes: Map) -> str | None:
    """The path of as many parts that is likest, each parameter taken to be right."""
    parts = path.rstrip("/").split("/")
    candidates: dict[str, str] = {}
    for rule in routes.iter_rules():
        named = template(rule).split("/")
        if len(named) == len(parts):
            filled = (
                given if each.startswith("{") else each for each, given in zip(named, parts, strict=True)
            )
            candidates.setdefault("/".join(filled), template(rule))
    close = difflib.get_close_matches("/".join(parts), candidates, n=1, cutoff=_LEAST_LIKENESS)
    return candidates[close[0]] if close else None
