"""`POST /callbacks/<provider>`: verify, read, record."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flask import Blueprint, Response, request
from loguru import logger
from werkzeug.exceptions import RequestEntityTooLarge

from api.answers import json_answer
from api.bodies import MOST_BODY_BYTES, check_complete
from api.callbacks import generic, sendgrid, twilio
from api.callbacks.port import CallbackRequest, NotAuthentic, Reader
from api.callbacks.sns import SnsReader
from api.endpoint import endpoint
from api.problems import Problem, Refused
from api.services import services
from scheduler.callbacks import Callbacks
from scheduler.errors import ConfigurationError, NotFound

callbacks = Blueprint("callbacks", __name__, url_prefix="/callbacks")

READERS: Final[dict[str, Reader]] = {
    "sendgrid": sendgrid.read,
    "twilio": twilio.read,
    "ses": SnsReader(),
    "http": generic.read,
    "two-field-email": generic.read,
}
"""By the kind of the provider."""


@callbacks.post("/<provider>")
@endpoint(None, is_listed=False)
def record_callback(provider: str) -> Response:
    """Take in the events that a provider reports; how many were new, and how many changed the log."""
    plan = services().settings.provider_plan
    entry = plan.providers.get(provider)
    reader = READERS.get(entry.kind) if entry is not None else None
    if entry is None or reader is None:
        raise NotFound("provider with callbacks", provider)
    now = services().clock.now()
    headers = {name.lower(): value for name, value in request.headers.items()}
    called = CallbackRequest(_public_url(), request.args, headers, _body(), now)
    try:
        events = reader(entry, called)
    except NotAuthentic as error:
        logger.bind(provider=provider, cause=str(error)).warning("callback_refused")
        raise Refused(Problem(HTTPStatus.UNAUTHORIZED, "Not authentic", str(error))) from None
    except ConfigurationError as error:
        logger.bind(provider=provider, cause=str(error)).error("callback_not_configured")
        raise NotFound("provider with callbacks", provider) from None
    recorded = Callbacks(services().engine, services().clock, plan).record(provider, events)
    return json_answer(
        {"recorded": recorded.recorded, "ignored": recorded.ignored, "applied": recorded.applied}
    )


def _public_url() -> str:
    """The address that was called, as the provider knows it: a proxy may have changed scheme and host."""
    public = services().settings.public_url
    if public is None:
        return request.url
    query = f"?{request.query_string.decode('latin-1')}" if request.query_string else ""
    return public.rstrip("/") + request.path + query


def _body() -> bytes:
    request.max_content_length = MOST_BODY_BYTES + 1
    body = request.get_data(cache=False)
    if len(body) > MOST_BODY_BYTES:
        raise RequestEntityTooLarge
    check_complete(len(body))
    return body
