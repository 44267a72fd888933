"""Run the API under gunicorn until it is told to stop.

A parent process holds the socket and keeps `api_workers` processes alive, each with its own threads and
database connections, made after the fork. SIGTERM: no new connections, requests under way are finished
within the stop deadline. SIGHUP: new workers, then the old ones end. A client that sends nothing for
`_SILENCE_SECONDS` loses its connection, so that slow ones cannot hold all threads.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
from threading import Event
from typing import TYPE_CHECKING, Any, Final

import orjson
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.gthread import ThreadWorker
from loguru import logger
from sqlalchemy import Engine

from api.app import create_app
from api.problems import MEDIA_TYPE
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

_REFUSALS: Final[dict[type[Exception], tuple[int, str]]] = {
    LimitRequestLine: (414, "URI Too Long"),
    LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    ExpectationFailed: (417, "Expectation Failed"),
}


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
    # One connection for each thread, so that no request waits for another's.
    return engine_for(settings, "api", least_connections=THREADS)


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
            "worker_class": "api.server.ApiWorker",
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
        return CheckedInput(create_app(self._settings, self._engine, SystemClock()))

    @staticmethod
    def _on_starting(_arbiter: Any) -> None:
        gunicorn = logging.getLogger("gunicorn.error")
        gunicorn.propagate = True
        gunicorn.addFilter(_is_no_silent_client)

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


def _is_no_silent_client(record: logging.LogRecord) -> bool:
    """False for what gunicorn reports as an error where a client fell silent: anybody could fill the log by it."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


class ApiWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn publishes no types
    """Answers what is no HTTP with a problem, logs neither addresses nor paths, and refuses once it stops."""

    def set_accept_enabled(self, enabled: bool) -> None:
        """Take connections, or none for now; a stopping process none for ever.

        Gunicorn leaves the socket open until the last request is answered: whoever connects meanwhile would
        be cut off without an answer, where a refused connection is tried elsewhere.
        """
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()

    def handle_error(self, _request: Any, client: socket.socket, _address: Any, error: Exception) -> None:
        """Refuse a request that could not be read."""
        if not isinstance(error, ParseException):
            logger.opt(exception=error).error("request_lost")
            return
        status, title = _REFUSALS.get(type(error), (400, "Bad Request"))
        logger.bind(status=status, cause=type(error).__name__).warning("request_refused")
        body = orjson.dumps(
            {
                "type": "about:blank",
                "title": title,
                "status": status,
                "detail": "the request is not valid HTTP",
            }
        )
        head = f"HTTP/1.1 {status} {title}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        try:
            client.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
        except OSError:
            logger.debug("refused_client_is_gone")


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
