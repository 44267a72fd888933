"""Flask, without what it does for applications of another kind.

What is before all handlers and after them is one object, `conduct`. Flask's own registries of hooks, of functions for
the end of a request, and its signals are not looked at: nothing may stand in them (tests/unit/test_application.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from flask import Flask, Response
from flask import Request as FlaskRequest
from flask.ctx import RequestContext
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter, Rule

from api.answers import Answer
from api.paths import IDENTITY_PATTERN

_MOST_HOSTS: Final = 100
_IDENTITY: Final = re.compile(IDENTITY_PATTERN)


class Conduct(Protocol):
    """What is done before each handler and after it."""

    def begin(self) -> Response | None:
        """An answer instead of the handler's own, or None."""

    def finish(self, response: Response) -> Answer:
        """The answer as it is sent, or another one."""


class Request(FlaskRequest):
    """A request of which nothing is left over but files, if it brought any."""

    def close(self) -> None:
        """Close its files."""
        if "files" in self.__dict__:
            super().close()


class KnownRoutes:
    """The rules that paths were found to mean; a path may end in an id, and all ids mean the same rule.

    Paths with anything else in them that differs are not remembered, so there are as many as there are rules.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, bool], tuple[Rule, str | None]] = {}

    def find(self, method: str, path: str) -> tuple[Rule, dict[str, Any]] | None:
        """The rule and its arguments; None: it is to be looked for."""
        place, identity = _place(path)
        found = self._found.get((method, place, identity is None))
        if found is None:
            return None
        rule, argument = found
        return rule, {} if argument is None else {argument: identity}

    def note(self, method: str, path: str, rule: Rule, arguments: dict[str, Any]) -> None:
        """Remember what was found, where it holds for every id."""
        place, identity = _place(path)
        wanted = [] if identity is None else [identity]
        if list(arguments.values()) == wanted:
            self._found[method, place, identity is None] = rule, next(iter(arguments), None)


def _place(path: str) -> tuple[str, int | None]:
    """A path without the id that it ends in, and that id; None: it ends otherwise."""
    place, _, last = path.rpartition("/")
    return (place, int(last)) if _IDENTITY.fullmatch(last) else (path, None)


class _Context(RequestContext):
    """What Flask keeps of a request while it is answered."""

    def match_request(self) -> None:
        """Find the rule that the path means."""
        request, known = self.request, self.app.known_routes  # type: ignore[attr-defined]
        found = known.find(request.method, request.path)
        if found is not None and "HTTP_UPGRADE" not in request.environ:
            request.url_rule, request.view_args = found
            return
        super().match_request()
        if request.url_rule is not None and request.view_args is not None:
            known.note(request.method, request.path, request.url_rule, request.view_args)


class _NoSessions(SessionInterface):
    """Nobody has a session: requests share one that is none."""

    def __init__(self) -> None:
        self._none = self.null_session_class()

    def open_session(self, _app: Flask, _request: FlaskRequest) -> SessionMixin:
        """What refuses to hold anything."""
        return self._none


class Api(Flask):
    """The application; it has no `conduct` yet."""

    request_class = Request
    response_class = Answer
    session_interface = _NoSessions()
    conduct: Conduct

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.known_routes = KnownRoutes()
        self._known_hosts: dict[tuple[str, str | None], str] = {}

    def create_url_adapter(self, request: FlaskRequest | None) -> MapAdapter | None:
        """What finds the rule of a request; without one, none. How its host is called among hosts is found out once."""
        if request is None:
            return None
        if "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)
        host = request.scheme, request.environ.get("HTTP_HOST")
        name = self._known_hosts.get(host) if host[1] is not None else None
        if name is None:
            adapter = super().create_url_adapter(request)
            if adapter is not None and len(self._known_hosts) < _MOST_HOSTS:
                self._known_hosts[host] = adapter.server_name
            return adapter
        return MapAdapter(
            self.url_map,
            name,
            request.root_path,
            "",
            request.scheme,
            request.path,
            request.method,
            request.query_string.decode(errors="replace"),
        )

    def request_context(self, environ: dict[str, Any]) -> RequestContext:
        """What is kept of a request that came with `environ`."""
        return _Context(self, environ)

    def preprocess_request(self) -> Response | None:
        """What is before all handlers."""
        return self.conduct.begin()

    def process_response(self, response: Response) -> Response:
        """What is after all handlers."""
        return self.conduct.finish(response)

    def do_teardown_request(self, *_: object) -> None:
        """Nothing is left to be done."""

    def do_teardown_appcontext(self, *_: object) -> None:
        """Nothing is left to be done."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is: none of ours is a coroutine, which would be asked of each hook at each request."""
        return func
