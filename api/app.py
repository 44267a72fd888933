"""The Flask application, put together from its settings, an engine and a clock."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Flask
from sqlalchemy import Engine
from werkzeug.routing import BaseConverter

from api.application import Api
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


class IdentityConverter(BaseConverter):
    """`<identity:…>` in a rule: an id as the database gives them, in plain digits; none has as many as 19."""

    regex = IDENTITY_PATTERN

    def to_python(self, value: str) -> int:
        """The id."""
        return int(value)


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


def _empty_app() -> Api:
    app = Api("api")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    app.url_map.converters["identity"] = IdentityConverter
    # A path with two slashes is another path, not a redirect.
    app.url_map.merge_slashes = False
    return app
