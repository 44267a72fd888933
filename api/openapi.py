"""The OpenAPI 3.1 document, made from the routes: their notes (`endpoint`), their models, their docstrings.

Every route is in it that is not for people. What holds for all routes (who may call, the header fields that any POST
or write takes, the problems that any may answer) is said here once, and written at each operation.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from api.bodies import may_be_left_out
from api.endpoint import JSON, Endpoint, endpoint_of
from api.openapi_examples import ANSWERS, BODIES, FILES
from api.openapi_links import add_links
from api.openapi_parts import (
    DESCRIPTION,
    HEADER_PARAMETERS,
    HEADERS,
    PATH_SCHEMAS,
    PROBLEM_SCHEMAS,
    SECURITY_SCHEME,
    VERSIONED,
    WITHOUT_PATH,
    header_references,
    problem_response,
    response_name,
)
from api.paths import LARGEST_IDENTITY, template
from scheduler.domain.schema_of import PATCH_OF, SCHEMA_NAME

Schema = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{model}"
_HEADER_REFERENCE: Final = "#/components/parameters/"
_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_USUAL_HEADERS: Final = ("X-Request-Id", "RateLimit", "RateLimit-Policy")
_MINIMAL: Final = "Done; the caller prefers no more (Prefer: return=minimal)"
_UNCHANGED: Final = "It is still of the version that If-None-Match names"
_IDENTITY: Final = {"type": "integer", "format": "int64", "minimum": 1, "maximum": LARGEST_IDENTITY}


@dataclass(frozen=True, slots=True)
class Route:
    """A method of a path, and what its handler has noted."""

    rule: Rule
    method: str
    handler: Callable[..., Any]
    noted: Endpoint
    tag: str

    @property
    def operation_id(self) -> str:
        """A name for programs; a handler of several paths has one for each, by the parameter it adds."""
        name = self.handler.__name__
        own = inspect.signature(self.handler).parameters
        omitted = [each for each, parameter in own.items() if parameter.default is None]
        added = [each for each in omitted if each in self.rule.arguments]
        return name + "".join(f"_of_{each}" for each in added)


def routes(app: Flask) -> Iterator[Route]:
    """The routes that the document tells of, in the order in which they were registered."""
    for rule in app.url_map.iter_rules():
        handler = app.view_functions[rule.endpoint]
        noted = endpoint_of(handler)
        if noted is None or not noted.is_listed:
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield Route(rule, method, handler, noted, rule.endpoint.rpartition(".")[0])


def document(app: Flask, *, url: str = "/", is_guarded: bool = True) -> Schema:
    """The document of the routes of `app`; `is_guarded` is whether callers must prove who they are."""
    listed = list(routes(app))
    models = _Models(listed)
    paths: dict[str, Schema] = {}
    for route in listed:
        paths.setdefault(template(route.rule), {})[route.method.lower()] = _operation(
            route, models, is_guarded
        )
    add_links(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Daybreak",
            "version": metadata.version("daybreak"),
            "summary": "Sends each person the right message at the right hour of their day.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": url}],
        "tags": list(_tags(app, listed)),
        "paths": paths,
        "components": {
            "schemas": {**PROBLEM_SCHEMAS, **models.schemas},
            "headers": HEADERS,
            "parameters": HEADER_PARAMETERS,
            "responses": {
                response_name(status): problem_response(status)
                for status in sorted({status for route in listed for status in _error_statuses(route)})
            },
            **({"securitySchemes": {"bearer": SECURITY_SCHEME}} if is_guarded else {}),
        },
    }


class _Models:
    """The schemas of all models of the routes, each once."""

    def __init__(self, listed: list[Route]) -> None:
        wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
        for route in listed:
            for model in (route.noted.query, route.noted.body):
                if model is not None:
                    wanted[model, "validation"] = None
            for answer in route.noted.answers.values():
                if answer is not None:
                    wanted[answer, "serialization"] = None
        self._references, definitions = models_json_schema(list(wanted), ref_template=_REFERENCE)
        self._named: dict[str, Schema] = {}
        self._all: dict[str, Schema] = {
            name: self._with_names(each) for name, each in definitions.get("$defs", {}).items()
        }
        queries = {self._name(route.noted.query) for route in listed if route.noted.query is not None}
        bodies = {self._name(route.noted.body) for route in listed if route.noted.body is not None}
        for patch in [each for each in self._all.values() if PATCH_OF in each]:
            self._describe_patch(patch)
        # The models of queries are written as parameters.
        self.schemas = {name: each for name, each in self._all.items() if name not in queries - bodies}
        self.schemas |= self._named

    def _describe_patch(self, patch: Schema) -> None:
        """Say of a merge patch that each field is that of the whole, or null where it may be missing there."""
        whole = self._all[patch.pop(PATCH_OF)]
        for name in patch["properties"]:
            value = {
                key: each
                for key, each in whole["properties"][name].items()
                if key not in ("default", "title")
            }
            is_optional = name not in whole.get("required", ())
            patch["properties"][name] = {"anyOf": [value, {"type": "null"}]} if is_optional else value

    def _with_names(self, schema: Any) -> Any:
        """The schema, with a reference in place of each part that says how it is called."""
        if isinstance(schema, list):
            return [self._with_names(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if "patternProperties" in schema:
            schema = {"additionalProperties": False, **schema}
        if SCHEMA_NAME not in schema:
            return {name: self._with_names(each) for name, each in schema.items()}
        name = str(schema[SCHEMA_NAME])
        around = ("title", "default", SCHEMA_NAME)
        self._named[name] = {each: value for each, value in schema.items() if each not in around}
        kept = {"default": schema["default"]} if "default" in schema else {}
        return {"$ref": _REFERENCE.format(model=name), **kept}

    def _name(self, model: type[BaseModel]) -> str:
        return str(self._references[model, "validation"]["$ref"]).rpartition("/")[2]

    def of_query(self, model: type[BaseModel]) -> Schema:
        """The schema of a query's model."""
        return self._all[self._name(model)]

    def of_body(self, model: type[BaseModel]) -> Schema:
        """A reference to the schema of what is sent to us."""
        return dict(self._references[model, "validation"])

    def of_answer(self, model: type[BaseModel]) -> Schema:
        """A reference to the schema of what we send."""
        return dict(self._references[model, "serialization"])


def _tags(app: Flask, listed: list[Route]) -> Iterator[Schema]:
    for name in dict.fromkeys(route.tag for route in listed):
        module = sys.modules[app.blueprints[name].import_name]
        yield {
            "name": _tag(name),
            "description": " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split()),
        }


def _tag(blueprint: str) -> str:
    return blueprint.replace("_", " ")


def _operation(route: Route, models: _Models, is_guarded: bool) -> Schema:
    summary, _, rest = (inspect.getdoc(route.handler) or "").partition("\n\n")
    noted = route.noted
    operation: Schema = {
        "tags": [_tag(route.tag)],
        "operationId": route.operation_id,
        "summary": " ".join(summary.split()).rstrip("."),
        "parameters": [
            *_path_parameters(route),
            *_query_parameters(noted, models),
            *_header_parameters(route),
        ],
        "responses": dict(sorted(_responses(route, models).items())),
    }
    if rest:
        operation["description"] = " ".join(rest.split())
    if noted.body is not None or noted.body_types != (JSON,):
        operation["requestBody"] = _request_body(noted, models)
    if noted.scope is not None and is_guarded:
        operation["security"] = [{"bearer": [str(noted.scope)]}]
    return operation


def _path_parameters(route: Route) -> Iterator[Schema]:
    converters = route.rule._converters  # noqa: SLF001 - the rule's text would have to be parsed for it
    for name in (name for is_dynamic, name in route.rule._trace if is_dynamic):  # noqa: SLF001
        is_identity = type(converters[name]).__name__ == "IdentityConverter"
        schema = _IDENTITY if is_identity else PATH_SCHEMAS.get(name, {"type": "string", "minLength": 1})
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(noted: Endpoint, models: _Models) -> Iterator[Schema]:
    if noted.query is None:
        return
    schema = models.of_query(noted.query)
    for name, each in schema.get("properties", {}).items():
        described = _without_null(each)
        parameter: Schema = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if text := described.pop("description", None):
            parameter["description"] = text
        if inner := described.get("contentSchema"):
            parameter["content"] = {described["contentMediaType"]: {"schema": inner}}
        else:
            parameter["schema"] = described
        yield parameter


def _without_null(schema: Mapping[str, Any]) -> Schema:
    """The schema of a value that may be absent; a query has no null."""
    found = {name: value for name, value in schema.items() if name != "title" and value is not None}
    choices = [each for each in found.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        del found["anyOf"]
        found |= choices[0]
    elif choices:
        found["anyOf"] = choices
    return found


def _header_parameters(route: Route) -> Iterator[Schema]:
    names = []
    if route.noted.scope is not None and route.method == "POST":
        names.append("IdempotencyKey")
    if route.noted.scope is not None and route.method in _WRITES:
        names.append("Prefer")
    if HTTPStatus.PRECONDITION_FAILED in route.noted.errors:
        names.append("IfMatch")
    if route.method == "GET" and _is_versioned(route):
        names.append("IfNoneMatch")
    for name in names:
        yield {"$ref": _HEADER_REFERENCE + name}


def _is_versioned(route: Route) -> bool:
    """Whether a good answer is one version of one thing, and has its tag."""
    return any(model is not None and model.__name__ in VERSIONED for model in route.noted.answers.values())


def _request_body(noted: Endpoint, models: _Models) -> Schema:
    if noted.body is None:
        text: Schema = {"type": "string"}
        is_required = True
        content: Schema = {each: {"schema": text, "example": FILES[each]} for each in noted.body_types}
    else:
        described: Schema = {"schema": models.of_body(noted.body), "example": BODIES[noted.body.__name__]}
        is_required = not may_be_left_out(noted.body, noted.body_types)
        content = dict.fromkeys(noted.body_types, described)
    return {"required": is_required, "content": content}


def _responses(route: Route, models: _Models) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for status, model in route.noted.answers.items():
        found[str(int(status))] = _answer(HTTPStatus(status), model, route, models)
    named = [each["$ref"].rpartition("/")[2] for each in _header_parameters(route)]
    if "Prefer" in named and (whole := found.get("201", found.get("200"))):
        headers = whole.get("headers", {}) | header_references("Preference-Applied")
        found.setdefault("204", {"description": _MINIMAL, "headers": headers})
    if "IfNoneMatch" in named:
        found.setdefault("304", {"description": _UNCHANGED, "headers": header_references("ETag")})
    for error in _error_statuses(route):
        found.setdefault(str(int(error)), {"$ref": f"#/components/responses/{response_name(error)}"})
    return found


def _answer(status: HTTPStatus, model: type[BaseModel] | None, route: Route, models: _Models) -> Schema:
    called = model.__name__ if model is not None else ""
    names = ["Location"] if status is HTTPStatus.CREATED and called not in WITHOUT_PATH else []
    if called in VERSIONED:
        names.append("ETag")
    if route.method == "POST" and route.noted.scope is not None:
        names.append("Idempotent-Replayed")
    answer: Schema = {"description": _first_line(model) or status.phrase}
    if names := [*names, *_USUAL_HEADERS] if route.noted.scope is not None else names:
        answer["headers"] = header_references(*names)
    if model is not None:
        answer["content"] = {each: _content(each, model, models) for each in route.noted.answer_types}
    return answer


def _content(media_type: str, model: type[BaseModel], models: _Models) -> Schema:
    if media_type != JSON:
        # A line of NDJSON or a row of CSV is not what a reader of the whole answer sees.
        return {"schema": {"type": "string"}}
    found = ANSWERS.get(model.__name__)
    return {"schema": models.of_answer(model), **({"example": found} if found is not None else {})}


def _first_line(model: type[BaseModel] | None) -> str:
    return (
        " ".join((model.__doc__ or "").partition("\n\n")[0].split()).rstrip(".") if model is not None else ""
    )


def _error_statuses(route: Route) -> set[HTTPStatus]:
    """What the route itself may refuse, and what the hooks around it may."""
    noted = route.noted
    found = {HTTPStatus(each) for each in noted.errors} | {HTTPStatus.INTERNAL_SERVER_ERROR}
    if noted.scope is not None:
        found |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE}
        found |= {HTTPStatus.TOO_MANY_REQUESTS}
        if route.method == "POST":
            found |= {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}
    if noted.query is not None:
        found |= {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_URI_TOO_LONG}
    if route.rule.arguments:
        found.add(HTTPStatus.NOT_FOUND)
    if noted.body is not None:
        found |= {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}
    if noted.body is not None or noted.body_types != (JSON,):
        found |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    return found
