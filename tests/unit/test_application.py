"""The application's own ways past Flask: what it leaves out is not there to be done, and what it remembers holds."""

import pytest
from werkzeug.routing import Map, Rule

from api.app import IdentityConverter, described_app
from api.application import KnownRoutes

ROUTES = Map(
    [
        Rule("/users", endpoint="list"),
        Rule("/users/<identity:user_id>", endpoint="one"),
        Rule("/users/<identity:user_id>/messages", endpoint="messages"),
        Rule("/users/external/<path:external_id>", endpoint="external"),
        Rule("/groups/<identity:group_id>/users/<identity:user_id>", endpoint="member"),
    ],
    converters={"identity": IdentityConverter},
)


def test_nothing_stands_in_the_registries_that_are_not_looked_at() -> None:
    app = described_app()
    registries = (
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.url_value_preprocessors,
        app.url_default_functions,
    )
    assert not any(functions for registry in registries for functions in registry.values())
    assert not app.teardown_appcontext_funcs


@pytest.mark.parametrize(
    ("first", "then", "found"),
    [
        ("/users", "/users", ("list", {})),
        ("/users/7", "/users/999999999999999999", ("one", {"user_id": 999999999999999999})),
        ("/users/7", "/users/07", None),
        ("/users/7", "/users/7a", None),
        ("/users/7", "/users/", None),
        ("/users/7", "/users/\u0667", None),
        ("/users/7", "/users", None),
        ("/users/7/messages", "/users/7/messages", None),
        ("/users/external/7", "/users/external/7", None),
        ("/groups/7/users/7", "/groups/7/users/7", None),
    ],
)
def test_a_rule_is_known_for_every_id_and_for_nothing_else(
    first: str, then: str, found: tuple[str, dict[str, int]] | None
) -> None:
    routes = KnownRoutes()
    rule, arguments = ROUTES.bind("a.example").match(first, return_rule=True)
    routes.note("GET", first, rule, dict(arguments))
    known = routes.find("GET", then)
    assert (None if known is None else (known[0].endpoint, known[1])) == found
    assert routes.find("DELETE", then) is None
