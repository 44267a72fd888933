"""The Flask application, put together from its settings, an engine and a clock."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Flask
from sqlalchemy import Engine
from werkzeug.routing import BaseConverter, ValidationError

from api.bodies import MOST_BODY_BYTES
from api.callbacks import callbacks
from api.dead_letters import dead_letters
from api.health import health
from api.imports import imports
from api.inbox import inbox
from api.live import live
from api.messages import messages
from api.occasions import occasions
from api.preferences import preferences
from api.problems import register_problems
from api.providers import providers
from api.request_log import register_request_log
from api.services import EXTENSION, Services
from api.unsubscribe import unsubscribe
from api.users import users
from scheduler.clock import Clock
from scheduler.registry import Registry
from scheduler.service import planner_for
from scheduler.settings import Settings

BLUEPRINTS: Final[tuple[Blueprint, ...]] = (
    users,
    imports,
    inbox,
    occasions,
    messages,
    dead_letters,
    providers,
    health,
    live,
    callbacks,
    preferences,
    unsubscribe,
)

_LARGEST_IDENTITY: Final = 2**63 - 1


class IdentityConverter(BaseConverter):
    """`<identity:…>` in a rule: an id as the database gives them, in plain digits."""

    regex = "[1-9][0-9]{0,18}"

    def to_python(self, value: str) -> int:
        """The id; one that no row can have matches no route."""
        identity = int(value)
        if identity > _LARGEST_IDENTITY:
            raise ValidationError
        return identity


def create_app(settings: Settings, engine: Engine, clock: Clock) -> Flask:
    """The API over one database; opens nothing until the first request."""
    app = Flask("api")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    app.url_map.converters["identity"] = IdentityConverter
    # A path with two slashes is another path, not a redirect.
    app.url_map.merge_slashes = False
    registry = Registry(engine, planner_for(settings, engine), clock)
    app.extensions[EXTENSION] = Services(settings, engine, clock, registry)
    register_request_log(app, clock)
    register_problems(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app
