"""How the API behaves on every route, as hooks around the application: no handler knows of any of it.

Before the handler: preflights of other origins are answered, the caller's requests are counted, a POST that is
repeated is found. After it, from the inside out: the answer to a POST is kept, conditional reads and `Prefer` are
honoured, the answer is compressed, and headers are added. What a request does not ask for costs it nothing.
"""

from __future__ import annotations

from flask import Flask, Response

from api.conduct import compression, cross_origin, headers, preference, rate_limits
from api.idempotency import register_idempotency
from scheduler.clock import Clock
from scheduler.settings import Settings


def register_conduct(app: Flask, settings: Settings, clock: Clock) -> None:
    """Put the hooks that come before the caller is known around `app`, and all that look at its answers."""
    origins = cross_origin.Origins(settings.api_cors_origins)
    limits = rate_limits.RateLimits(
        clock, settings.api_requests_per_minute, settings.api_failed_authentications_per_minute
    )
    app.extensions[rate_limits.EXTENSION] = limits
    security = headers.security_headers(settings)

    def finish(response: Response) -> Response:
        response = limits.look_at(response)
        headers.answer_conditionally(response)
        preference.shorten(response)
        compression.compress(response)
        headers.add_missing(response, security)
        origins.allow(response)
        return response

    if origins.any_allowed:
        app.before_request(origins.answer_preflight)
    app.after_request(finish)


def register_conduct_of_callers(app: Flask) -> None:
    """Put the hooks that need to know the caller around `app`: to be called after access is registered."""
    limits: rate_limits.RateLimits = app.extensions[rate_limits.EXTENSION]
    if limits.is_limiting:
        app.before_request(limits.count_request)
    register_idempotency(app)
