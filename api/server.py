"""Run the API under gunicorn until it is told to stop.

A parent process holds the socket and keeps `api_workers` processes alive, each with its own threads and
database connections, made after the fork. SIGTERM: no new connections, requests under way are finished
within the stop deadline. SIGHUP: new workers, then the old ones end. A client that sends nothing for
`_SILENCE_SECONDS` loses its connection, so that slow ones cannot hold all threads.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import struct
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ParseException
from loguru import logger
from sqlalchemy import Engine

from api.app import create_app
from scheduler.clock import SystemClock
from scheduler.service import engine_for
from scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

THREADS: Final = 8
"""Requests that one process works on at the same time; more wait."""

_SILENCE_SECONDS: Final = 30
_KEEPALIVE_SECONDS: Final = 75
_STUCK_SECONDS: Final = 60
_LONGEST_REQUEST_LINE: Final = 8190  # the most that gunicorn can be told


def run_api(settings: Settings, stop: Event) -> None:
    """Serve until SIGTERM or SIGINT; `stop` is looked at once, in case it was set before this began.

    Raises ConfigurationError where there is no database to serve from, or where callers must prove who they are and
    there is no secret key for it. Ends the process.
    """
    engine = _engine(settings)
    # What is set wrongly is to stop the start, not each of the processes that serve.
    create_app(settings, engine, SystemClock())
    engine.dispose()
    logger.bind(host=settings.api_host, port=settings.api_port, workers=settings.api_workers).info(
        "api_started"
    )
    _Server(settings, stop).run()


def _engine(settings: Settings) -> Engine:
    # For each thread one for transactions and one kept for reads (`Readers`): no request waits for another's.
    return engine_for(
        settings, "api", least_connections=2 * THREADS, statement_seconds=settings.api_statement_seconds
    )


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn publishes no types
    """Gunicorn's parent process, configured from the settings alone."""

    def __init__(self, settings: Settings, stop: Event) -> None:
        self._settings = settings
        self._stop = stop
        self._engine: Engine | None = None
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn all that is not its default; it reads no file, no variable and no argument."""
        host = self._settings.api_host
        for name, value in {
            "bind": f"{f'[{host}]' if ':' in host else host}:{self._settings.api_port}",
            "workers": self._settings.api_workers,
            "worker_class": "api.serving.ApiWorker",
            "threads": THREADS,
            "graceful_timeout": self._settings.stop_deadline_seconds,
            "timeout": _STUCK_SECONDS,
            "keepalive": _KEEPALIVE_SECONDS,
            "limit_request_line": _LONGEST_REQUEST_LINE,
            "loglevel": "warning",
            "errorlog": None,
            "control_socket_disable": True,
            "on_starting": self._on_starting,
            "when_ready": self._when_ready,
            "worker_exit": self._worker_exit,
            "on_exit": self._on_exit,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> CheckedInput:
        """The application of one worker process, with an engine of its own."""
        self._engine = _engine(self._settings)
        app = create_app(self._settings, self._engine, SystemClock())
        # What is here now stays: looking through it for garbage, again and again, costs requests their time.
        gc.collect()
        gc.freeze()
        return CheckedInput(app)

    @staticmethod
    def _on_starting(_arbiter: Any) -> None:
        logging.getLogger("gunicorn.error").propagate = True

    def _when_ready(self, arbiter: Any) -> None:
        # The sockets of clients inherit it: it ends reads that nothing answers.
        silence = struct.pack("ll", _SILENCE_SECONDS, 0)
        for listener in arbiter.LISTENERS:
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        if self._stop.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def _worker_exit(self, _arbiter: Any, _worker: Any) -> None:
        if self._engine is not None:
            self._engine.dispose()

    @staticmethod
    def _on_exit(_arbiter: Any) -> None:
        logger.info("api_stopped")


class CheckedInput:
    """A WSGI application whose bodies, where they are no HTTP, fail as other broken ones do."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        environ["wsgi.input"] = _Body(environ["wsgi.input"])
        return self._app(environ, start_response)


class _Body:
    """A body that raises OSError, not the server's own errors: werkzeug makes ClientDisconnected of it."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        try:
            data: bytes = self._body.read(size)
        except ParseException as error:
            raise OSError(type(error).__name__) from error
        return data
