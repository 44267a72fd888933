"""How the API behaves on every route, as hooks around the application: no handler knows of any of it.

Before the handler: preflights of other origins are answered, the caller's requests are counted, a POST that is
repeated is found. After it, from the inside out: the answer to a POST is kept, conditional reads and `Prefer` are
honoured, the answer is compressed, and headers are added. What a request does not ask for costs it nothing.
"""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, Request, Response
from flask.globals import app_ctx, request_ctx
from sqlalchemy import Engine

from api import idempotency
from api.access import Access
from api.answers import Answer
from api.application import Api
from api.conduct import compression, cross_origin, headers, preference, rate_limits
from api.request_log import RequestLog
from scheduler.clock import Clock
from scheduler.settings import Settings


def register_conduct(app: Api, settings: Settings, engine: Engine, clock: Clock) -> None:
    """Put the hooks around `app`. Raises ConfigurationError where the settings allow for nobody."""
    idempotency.mark_commits(engine)
    app.conduct = _Conduct(app, settings, engine, clock)


class _Conduct:
    """All hooks of one application, as one before its handlers and one after them.

    They are handed the request and what is noted of it as plain objects: to look either up costs more than most of
    what is done with it.
    """

    def __init__(self, app: Flask, settings: Settings, engine: Engine, clock: Clock) -> None:
        self._log = RequestLog(clock)
        self._origins = cross_origin.Origins(settings.api_cors_origins)
        self._access = Access(app, settings, engine, clock)
        self._limits = rate_limits.RateLimits(
            clock, settings.api_requests_per_minute, settings.api_failed_authentications_per_minute
        )
        self._headers = headers.Completion(headers.security_headers(settings))

    def begin(self) -> Response | None:
        """Before the handler: an answer instead of its own, or None. Raises Refused."""
        request, g = _present()
        self._log.begin(request, g)
        if self._origins.any_allowed and (answer := self._origins.answer_preflight(request)) is not None:
            return answer
        self._access.admit(request, g)
        if self._limits.is_limiting:
            self._limits.count_request(request, g)
        return idempotency.begin(self._access, request, g)

    def finish(self, response: Response) -> Answer:
        """After the handler: the answer as it is sent, or another one."""
        request, g = _present()
        idempotency.finish(g, response)
        self._access.note_use(g, response)
        answer = self._limits.look_at(request, g, cast("Answer", response))
        headers.answer_conditionally(request, answer)
        preference.shorten(request, answer)
        compression.compress(request, answer)
        self._headers.complete(answer)
        self._origins.allow(request, answer)
        self._log.finish(request, g, answer)
        return answer


def _present() -> tuple[Request, Any]:
    """The present request, and what is noted of it."""
    context: Any = request_ctx
    application: Any = app_ctx
    return context._get_current_object().request, application._get_current_object().g  # noqa: SLF001  # documented
