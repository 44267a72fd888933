"""The document tells of every route, and says of each what is so."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from sqlalchemy import Engine

from api.app import create_app, described_app
from api.endpoint import endpoint_of
from api.openapi import document, routes
from api.openapi_examples import BODIES, FILES
from scheduler.clock import SettableClock
from scheduler.domain.access import Scope
from tests.fixtures.api import GUARDED, USERS, a_user, add_user, api_client, body_of
from tests.fixtures.command_line import daybreak

APP = described_app()
DOCUMENT = document(APP)
PROBLEM = "application/problem+json"
SUPPRESSIONS = "/api/v1/suppressions"


@pytest.fixture
def client(engine: Engine, clock: SettableClock) -> FlaskClient:
    return api_client(engine, clock)


def handlers(app: Flask) -> Iterator[tuple[str, Any]]:
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            yield rule.rule, app.view_functions[rule.endpoint]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_it_is_valid() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_route_is_in_it_unless_it_is_for_people() -> None:
    unlisted = set()
    for rule, handler in handlers(APP):
        noted = endpoint_of(handler)
        assert noted is not None, rule
        if not noted.is_listed:
            unlisted.add(rule)
    assert unlisted == {
        "/",
        "/docs",
        "/docs/<name>",
        "/openapi.json",
        "/unsubscribe/<token>",
        "/callbacks/<provider>",
    }
    listed = {(route.rule.rule, route.method) for route in routes(APP)}
    assert len(listed) == len(list(operations()))


def test_every_handler_says_what_it_does() -> None:
    for rule, handler in handlers(APP):
        assert inspect.getdoc(handler), rule
    for path, method, operation in operations():
        assert operation["summary"], (method, path)


def test_every_operation_has_a_name_of_its_own_and_says_what_it_answers() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    for path, method, operation in operations():
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert good, (method, path)
        for status in good:
            assert "content" in operation["responses"][status] or status in ("202", "204"), (
                method,
                path,
                status,
            )


def test_every_operation_names_its_scope() -> None:
    open_to_all = {path for path, _, operation in operations() if "security" not in operation}
    assert open_to_all == {"/health", "/health/live", "/health/ready"}
    for path, method, operation in operations():
        for needed in operation.get("security", ()):
            assert [Scope(each) for each in needed["bearer"]], (method, path)
            assert {"401", "403", "429", "503"} <= set(operation["responses"]), (method, path)


def test_every_error_is_a_problem() -> None:
    for name, response in DOCUMENT["components"]["responses"].items():
        assert list(response["content"]) == [PROBLEM], name


def test_every_post_may_be_repeated() -> None:
    for path, method, operation in operations():
        names = {each.get("$ref", "").rpartition("/")[2] for each in operation["parameters"]}
        assert ("IdempotencyKey" in names) == (method == "post"), (method, path)


def test_every_part_is_used_and_none_is_ours_alone() -> None:
    text = json.dumps(DOCUMENT)
    for kind in ("schemas", "parameters", "responses", "headers"):
        for name in DOCUMENT["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, (kind, name)
            assert "__" not in name, f"two models are called {name.rpartition('__')[2]}"
    assert "x-daybreak" not in text


def contents() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is sent and answered, by operation and media type."""
    for _, _, operation in operations():
        name = operation["operationId"]
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} takes", media_type, content
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                yield f"{name} answers {status}", media_type, content
    for name, answer in DOCUMENT["components"]["responses"].items():
        for media_type, content in answer["content"].items():
            yield name, media_type, content


def test_every_body_has_an_example_that_keeps_to_its_schema() -> None:
    for what, media_type, content in contents():
        assert "example" in content or " answers " in what, (what, media_type)
        if "example" in content:
            whole = {"components": DOCUMENT["components"], **content["schema"]}
            found = [error.message for error in OAS31Validator(whole).iter_errors(content["example"])]
            assert not found, (what, found)


def test_what_is_given_out_leads_to_operations_that_take_it() -> None:
    names = {operation["operationId"]: (path, operation) for path, _, operation in operations()}
    links = [
        link
        for _, operation in names.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert len(links) > 40
    for link in links:
        path, operation = names[link["operationId"]]
        for name in link["parameters"]:
            assert f"{{{name}}}" in path
            assert any(each.get("name") == name for each in operation["parameters"])


def test_a_body_is_required_unless_all_of_it_may_be_left_out() -> None:
    bodies = {
        operation["operationId"]: operation["requestBody"]["required"]
        for _, _, operation in operations()
        if "requestBody" in operation
    }
    assert {name for name, required in bodies.items() if not required} == {"resume_occasion", "rotate_key"}


def test_every_error_that_a_route_may_answer_is_in_it() -> None:
    for path, method, operation in operations():
        needed = {"500"}
        if path.startswith("/api/"):
            needed |= {"401", "403", "429", "503"}
        if "{" in path:
            needed.add("404")
        if method == "post":
            needed |= {"400", "409", "422"}
        if "requestBody" in operation:
            needed |= {"400", "413", "415"}
        if any(each.get("$ref", "").endswith("/IfMatch") for each in operation["parameters"]):
            needed.add("412")
        assert needed <= set(operation["responses"]), (method, path)


def test_it_is_served_and_kept_by_who_has_it(client: FlaskClient) -> None:
    first = client.get("/openapi.json")
    assert body_of(first)["paths"].keys() == DOCUMENT["paths"].keys()
    again = client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    packed = client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["ETag"] != first.headers["ETag"]


def test_it_tells_of_credentials_where_they_are_needed(engine: Engine, clock: SettableClock) -> None:
    guarded = body_of(create_app(GUARDED, engine, clock).test_client().get("/openapi.json"))
    assert guarded["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    opened = body_of(api_client(engine, clock).get("/openapi.json"))
    assert "security" not in opened["paths"][USERS]["get"]


def test_the_page_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    with client.get("/docs") as page:
        assert page.content_type.startswith("text/html")
        assert b"//" not in page.data.replace(b"<!doctype", b"")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/docs/index.html").status_code == 404
    assert client.get("/docs/..%2f__init__.py").status_code == 404


def test_the_command_prints_it_without_a_database(tmp_path: Path) -> None:
    printed = daybreak("api", "openapi", settings={}, cwd=tmp_path)
    assert json.loads(printed.stdout) == json.loads(json.dumps(DOCUMENT))


# What is sent is as it says


def breaches(path: str, method: str, status: int, body: object) -> list[str]:
    """Where an answer is not as the document has it."""
    response = DOCUMENT["paths"][path][method]["responses"][str(status)]
    if name := response.get("$ref", "").rpartition("/")[2]:
        response = DOCUMENT["components"]["responses"][name]
    [schema] = [each["schema"] for each in response["content"].values()]
    whole = {"components": DOCUMENT["components"], **schema}
    return [error.message for error in OAS31Validator(whole).iter_errors(body)]


def undescribed(path: str, method: str, status: int, body: dict[str, Any]) -> set[str]:
    """Members of an answer, and of the object in it, that the document says nothing of."""
    response = DOCUMENT["paths"][path][method]["responses"][str(status)]
    reference = response["content"]["application/json"]["schema"]["$ref"]
    return set(body) - set(DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]["properties"])


@pytest.mark.parametrize(
    "path",
    [
        USERS,
        SUPPRESSIONS,
        "/health",
        "/health/live",
        "/api/v1/messages",
        "/api/v1/occasions",
        "/api/v1/providers",
        "/api/v1/dead-letters",
        "/api/v1/overview",
        "/api/v1/audit-log",
        "/api/v1/batches",
        "/api/v1/jobs",
        "/api/v1/statistics",
        "/api/v1/api-keys",
    ],
)
def test_what_is_read_is_as_described(client: FlaskClient, path: str) -> None:
    add_user(client, phone="+442071838750", attributes={"plan": "gold"})
    client.post(SUPPRESSIONS, json={"channel": "email", "address": "a@example.org"})
    response = client.get(path)
    assert response.status_code == 200
    body = body_of(response)
    assert breaches(path, "get", 200, body) == []
    assert undescribed(path, "get", 200, body) == set()


def test_what_is_written_is_as_described(client: FlaskClient) -> None:
    user = a_user(phone="+442071838750")
    created = client.post(USERS, json=user)
    assert breaches(USERS, "post", 201, body_of(created)) == []
    one = f"{USERS}/{{user_id}}"
    path = created.headers["Location"]
    assert breaches(one, "patch", 200, body_of(client.patch(path, json={"first_name": "Bea"}))) == []
    assert breaches(one, "put", 200, body_of(client.put(path, json=user))) == []
    assert breaches(one, "get", 404, body_of(client.get(f"{USERS}/999"))) == []
    assert breaches(USERS, "post", 422, body_of(client.post(USERS, json={}))) == []
    inbox = f"{USERS}/{{user_id}}/inbox"
    assert breaches(inbox, "get", 200, body_of(client.get(f"{path}/inbox"))) == []
    unsubscribed = client.put(f"{path}/unsubscribes/email")
    assert breaches(f"{one}/unsubscribes/{{channel}}", "put", 200, body_of(unsubscribed)) == []


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (USERS, "UserInput"),
        ("/api/v1/occasions", "OccasionInput"),
        ("/api/v1/occasions/preview", "PreviewBody"),
        ("/api/v1/messages", "SendInput"),
        ("/api/v1/dead-letters/replay", "ReplayBody"),
        ("/api/v1/dead-letters/discard", "DiscardBody"),
        (SUPPRESSIONS, "SuppressionInput"),
    ],
)
def test_the_examples_are_taken(client: FlaskClient, path: str, model: str) -> None:
    response = client.post(path, json=BODIES[model])
    assert response.status_code in (200, 201), response.text
    assert breaches(path, "post", response.status_code, body_of(response)) == []
    described = DOCUMENT["paths"][path]["post"]["responses"][str(response.status_code)]
    told = set(described["headers"]) & {"Location", "ETag"}
    assert told == {"Location", "ETag"} & set(response.headers.keys())


def test_an_example_of_a_file_is_taken(client: FlaskClient) -> None:
    for media_type, text in FILES.items():
        told = body_of(client.post(f"{USERS}/import", data=text, content_type=media_type))
        assert (told["read"], told["rejected"]) == (1, 0), told


def test_an_answer_that_is_not_as_described_is_found(client: FlaskClient) -> None:
    body = body_of(client.get("/health/live"))
    assert breaches("/health/live", "get", 200, body | {"status": "ill"})
    assert undescribed("/health/live", "get", 200, body | {"more": 1}) == {"more"}
