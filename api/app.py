"""The Flask application, put together from its settings, an engine and a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Blueprint, Flask, Request
from flask.sessions import SessionInterface, SessionMixin
from sqlalchemy import Engine
from werkzeug.routing import BaseConverter, MapAdapter

from api.answers import Answer
from api.audit import audit_log
from api.batches import batches
from api.bodies import MOST_BODY_BYTES
from api.callbacks import callbacks
from api.conduct import register_conduct
from api.dead_letters import dead_letters
from api.docs import docs
from api.exports import exports
from api.health import health
from api.idempotency import claims_a_key
from api.imports import imports
from api.inbox import inbox
from api.jobs import jobs
from api.keys import api_keys
from api.live import live
from api.messages import messages
from api.occasion_groups import occasion_groups
from api.occasions import occasions
from api.occurrences import occurrences
from api.paths import IDENTITY_PATTERN
from api.preferences import preferences
from api.privacy import privacy
from api.problems import register_problems
from api.providers import providers
from api.sends import sends
from api.services import EXTENSION, Services
from api.statistics import statistics
from api.tenancy import tenant_of_caller
from api.unsubscribe import unsubscribe
from api.users import users
from scheduler.clock import Clock, SystemClock
from scheduler.service import registry_for
from scheduler.settings import Settings
from scheduler.store.database import create_database_engine
from scheduler.store.readers import Readers
from scheduler.store.tenants import keep_apart

BLUEPRINTS: Final[tuple[Blueprint, ...]] = (
    users,
    imports,
    exports,
    privacy,
    inbox,
    occasions,
    occurrences,
    occasion_groups,
    messages,
    sends,
    batches,
    jobs,
    statistics,
    dead_letters,
    providers,
    health,
    live,
    callbacks,
    preferences,
    unsubscribe,
    api_keys,
    audit_log,
    docs,
)


_MOST_HOSTS: Final = 100


class IdentityConverter(BaseConverter):
    """`<identity:…>` in a rule: an id as the database gives them, in plain digits; none has as many as 19."""

    regex = IDENTITY_PATTERN

    def to_python(self, value: str) -> int:
        """The id."""
        return int(value)


class _NoSessions(SessionInterface):
    """Nobody has a session: requests share one that is none."""

    def __init__(self) -> None:
        self._none = self.null_session_class()

    def open_session(self, _app: Flask, _request: Request) -> SessionMixin:
        """What refuses to hold anything."""
        return self._none


class _Api(Flask):
    """Flask, without what it does for applications of another kind."""

    response_class = Answer
    session_interface = _NoSessions()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._known_hosts: dict[tuple[str, str | None], str] = {}

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """What finds the rule of a request. How its host is called among hosts is found out once."""
        if request is None or "HTTP_UPGRADE" in request.environ:
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

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is: none of ours is a coroutine, which would be asked of each hook at each request."""
        return func


def create_app(settings: Settings, engine: Engine, clock: Clock) -> Flask:
    """The API over one database; opens nothing until the first request. Raises ConfigurationError."""
    app = _empty_app()
    registry = registry_for(settings, engine, clock, claims_a_key)
    app.extensions[EXTENSION] = Services(settings, engine, clock, registry, Readers(engine))
    keep_apart(engine, tenant_of_caller)
    register_problems(app)
    register_conduct(app, settings, engine, clock)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app


def described_app() -> Flask:
    """The API over a database that is none: to tell of its routes, not to be asked."""
    engine = create_database_engine(
        "postgresql://nobody@127.0.0.1:1/none", pool_size=1, application_name="daybreak"
    )
    return create_app(Settings(api_authentication="none"), engine, SystemClock())


def _empty_app() -> Flask:
    app = _Api("api")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    app.url_map.converters["identity"] = IdentityConverter
    # A path with two slashes is another path, not a redirect.
    app.url_map.merge_slashes = False
    return app
