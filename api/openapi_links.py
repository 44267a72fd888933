"""Which operation goes on from which: what one has given out is the parameter of another (OpenAPI 3.1, Link Object)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Source:
    """The answer of an operation has at `place` what paths that begin with `paths` call `parameter`."""

    operation_id: str
    status: str
    place: str
    paths: str
    parameter: str


_SOURCES: Final = (
    _Source("create_user", "201", "$response.body#/user/id", "/api/v1/users/", "user_id"),
    _Source("list_users", "200", "$response.body#/users/0/id", "/api/v1/users/", "user_id"),
    _Source("create_user", "201", "$response.body#/user/external_id", "/api/v1/users/ext", "external_id"),
    _Source("list_users", "200", "$response.body#/users/0/external_id", "/api/v1/users/ext", "external_id"),
    _Source("create_occasion", "201", "$response.body#/occasion/key", "/api/v1/occasions/", "key"),
    _Source("list_occasions", "200", "$response.body#/occasions/0/key", "/api/v1/occasions/", "key"),
    _Source("list_groups", "200", "$response.body#/groups/0/key", "/api/v1/occasion-groups/", "key"),
    _Source("send_messages", "201", "$response.body#/send/id", "/api/v1/messages/sends/", "send_id"),
    _Source("send_messages", "201", "$response.body#/message_ids/0", "/api/v1/messages/", "message_id"),
    _Source("list_messages", "200", "$response.body#/messages/0/id", "/api/v1/messages/", "message_id"),
    _Source("list_batches", "200", "$response.body#/batches/0/id", "/api/v1/batches/", "batch_id"),
    _Source("list_jobs", "200", "$response.body#/jobs/0/name", "/api/v1/jobs/", "name"),
    _Source("list_providers", "200", "$response.body#/providers/0/name", "/api/v1/providers/", "name"),
    _Source("list_dead_letters", "200", "$response.body#/dead_letters/0/id", "/api/v1/dead-", "letter_id"),
    _Source("suppress", "201", "$response.body#/suppression/id", "/api/v1/suppressions/", "suppression_id"),
    _Source("create_key", "201", "$response.body#/api_key/id", "/api/v1/api-keys/", "key_id"),
)


def add_links(paths: dict[str, Schema]) -> None:
    """Add to each answer that gives something out what can be done with it."""
    operations = {
        operation["operationId"]: (path, operation)
        for path, methods in paths.items()
        for operation in methods.values()
    }
    for source in _SOURCES:
        answer = operations[source.operation_id][1]["responses"][source.status]
        links = answer.setdefault("links", {})
        for name, (path, _) in operations.items():
            if path.startswith(source.paths) and f"{{{source.parameter}}}" in path:
                links[name] = {"operationId": name, "parameters": {source.parameter: source.place}}
