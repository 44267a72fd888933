"""Run the API under gunicorn until it is told to stop.

A parent process holds the socket and keeps `api_workers` processes alive, each with its own threads and
database connections, made after the fork. SIGTERM: no new connections, requests under way are finished
within the stop deadline. SIGHUP: new workers, then the old ones end. A client that sends nothing for
`_SILENCE_SECONDS`, where something is due, loses its connection, so that slow ones cannot hold all threads.
"""

from __future__ import annotations

import errno
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
from api.connections import USUAL, Limits
from api.serving import ApiWorker
from scheduler import connections
from scheduler.clock import SystemClock
from scheduler.connections import API_THREADS
from scheduler.errors import ConfigurationError
from scheduler.service import engine_for
from scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_SILENCE_SECONDS: Final = 30
_BIND_SECONDS: Final = 5
"""How long the port may still be held by the processes of an API that was killed."""
_BACKLOG: Final = 2048
"""Connections that wait to be taken."""
_KEEPALIVE_SECONDS: Final = 75
_STUCK_SECONDS: Final = 60
_LONGEST_REQUEST_LINE: Final = 8190  # the most that gunicorn can be told


def run_api(settings: Settings, stop: Event, limits: Limits = USUAL) -> None:
    """Serve until SIGTERM or SIGINT; `stop` is looked at once, in case it was set before this began.

    Raises ConfigurationError where there is no database to serve from, where callers must prove who they are and
    there is no secret key for it, and where others listen on the port. Ends the process. `limits` are its clients'.
    """
    engine = _engine(settings)
    # What is set wrongly is to stop the start, not each of the processes that serve.
    create_app(settings, engine, SystemClock())
    engine.dispose()
    listener = _listener(settings, stop)
    logger.bind(host=settings.api_host, port=settings.api_port, workers=settings.api_workers).info(
        "api_started"
    )
    _Server(settings, stop, listener, limits).run()


def _listener(settings: Settings, stop: Event) -> socket.socket:
    """The socket that clients connect to. Raises ConfigurationError where its address cannot be had."""
    host, port = settings.api_host, settings.api_port
    tries_until = SystemClock().monotonic() + _BIND_SECONDS
    while True:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            _listen(listener, host, port)
        except OSError as error:
            listener.close()
            is_held = error.errno == errno.EADDRINUSE
            if is_held and SystemClock().monotonic() < tries_until and not stop.wait(0.2):
                continue
            raise ConfigurationError(
                f"DAYBREAK_API_HOST and DAYBREAK_API_PORT: got {host} and {port}, where the API cannot listen "
                f"({error.strerror}); take an address of this machine and a port that is free"
            ) from error
        return listener


def _listen(listener: socket.socket, host: str, port: int) -> None:
    # The sockets of clients inherit it: it ends reads that nothing answers.
    silence = struct.pack("ll", _SILENCE_SECONDS, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(_BACKLOG)


def _engine(settings: Settings) -> Engine:
    return engine_for(
        settings,
        "api",
        least_connections=connections.of_an_api_process(),
        statement_seconds=settings.api_statement_seconds,
    )


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn publishes no types
    """Gunicorn's parent process, configured from the settings alone."""

    def __init__(self, settings: Settings, stop: Event, listener: socket.socket, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._stop = stop
        self._listener_number = listener.detach()  # gunicorn's from here on
        self._engine: Engine | None = None
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn all that is not its default; it reads no file, no variable and no argument."""
        for name, value in {
            "bind": f"fd://{self._listener_number}",
            "backlog": _BACKLOG,
            "workers": self._settings.api_workers,
            "worker_class": type("LimitedWorker", (ApiWorker,), {"limits": self._limits}),
            "threads": API_THREADS,
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

    def _when_ready(self, _arbiter: Any) -> None:
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
