"""What documents say of a type whose rules no JSON schema can be derived from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

SCHEMA_NAME: Final = "x-daybreak-name"
"""Member of a schema that stands once for all its uses, under this name."""

PATCH_OF: Final = "x-daybreak-patch-of"
"""Member of a merge patch's schema: the name of the schema of what it changes, whose fields it has."""


class SchemaOf:
    """A note at a type: the JSON schema that is told of it, made when somebody asks."""

    def __init__(self, schema: Callable[[], dict[str, Any]], name: str | None = None) -> None:
        self._schema = schema
        self._name = name

    def __get_pydantic_json_schema__(self, _core: object, _handler: object) -> dict[str, Any]:
        """As pydantic asks for it."""
        return self._schema() | ({SCHEMA_NAME: self._name} if self._name is not None else {})


def without_defaults(schema: dict[str, Any]) -> None:
    """Of a merge patch: what it does not name stays, so its fields have no defaults."""
    for each in schema["properties"].values():
        each.pop("default", None)
