"""Every route says who may call it, and the few that anybody may call are known by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from flask import Flask
from werkzeug.routing import Rule

from api.app import described_app
from api.endpoint import Endpoint, endpoint_of
from scheduler.domain.access import ROLE_SCOPES, Role, Scope

FOR_ANYBODY: Final = {
    "static",
    "live.page",
    "health.live",
    "health.ready",
    "health.summary",
    "docs.page",
    "docs.asset",
    "docs.read_document",
    "callbacks.record_callback",
    "unsubscribe.ask",
    "unsubscribe.answer",
}
"""What holds nothing of anybody, or proves itself: callbacks by their signature, unsubscribe links by theirs."""

READS: Final = {
    Scope.USERS_READ,
    Scope.OCCASIONS_READ,
    Scope.MESSAGES_READ,
    Scope.OPERATIONS_READ,
    Scope.AUDIT_READ,
}
READS_BY_POST: Final = {"occurrences.preview_occasion"}
"""Requests that change nothing and whose question is too long for a query."""


@pytest.fixture(scope="module")
def app() -> Flask:
    return described_app()


def marked(app: Flask) -> Iterator[tuple[Rule, Endpoint]]:
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            noted = endpoint_of(app.view_functions[rule.endpoint])
            assert noted is not None, f"{rule.rule} ({rule.endpoint}) does not say who may call it"
            yield rule, noted


def test_every_route_says_who_may_call_it(app: Flask) -> None:
    assert len(list(marked(app))) > 40


def test_a_route_that_does_not_is_answered_to_nobody() -> None:
    app = described_app()
    app.add_url_rule("/forgotten", "forgotten", lambda: "all of it")
    with pytest.raises(AssertionError, match="forgotten"):
        list(marked(app))
    answer = app.test_client().get("/forgotten")
    assert (answer.status_code, b"all of it" in answer.data) == (500, False)


def test_what_anybody_may_call_is_known_by_name(app: Flask) -> None:
    open_to_all = {rule.endpoint for rule, noted in marked(app) if noted.scope is None}
    assert open_to_all <= FOR_ANYBODY
    assert not {name for name in open_to_all if name.partition(".")[0] == "api_keys"}


def test_what_changes_something_asks_for_more_than_to_read(app: Flask) -> None:
    found = {
        rule.endpoint
        for rule, noted in marked(app)
        if (rule.methods or set()) & {"POST", "PUT", "PATCH", "DELETE"} and noted.scope in READS
    }
    assert found <= READS_BY_POST


OURS: Final = {
    "id",
    "tenant_id",
    "tenant",
    "version",
    "state",
    "created_at",
    "updated_at",
    "created_by",
    "key_hash",
}
"""What a caller must not set."""


def test_no_body_sets_what_is_ours_to_set(app: Flask) -> None:
    models = {model for _, noted in marked(app) for model in (noted.body, noted.query) if model is not None}
    assert len(models) > 25
    for model in models:
        assert model.model_config.get("extra") == "forbid", model.__name__
    for body in {noted.body for _, noted in marked(app) if noted.body is not None}:
        assert not OURS & set(body.model_fields), body.__name__


def test_a_viewer_changes_nothing_and_only_an_admin_manages_keys_and_people() -> None:
    assert ROLE_SCOPES[Role.VIEWER] < READS
    alone = {Scope.KEYS_MANAGE, Scope.PRIVACY, Scope.AUDIT_READ}
    assert not alone & (ROLE_SCOPES[Role.EDITOR] | ROLE_SCOPES[Role.OPERATOR])
    assert ROLE_SCOPES[Role.ADMIN] == frozenset(Scope)
