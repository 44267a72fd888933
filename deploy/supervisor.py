"""Run the whole of Daybreak on one machine: database, scheduler, workers and API, until it is told to stop.

    from deploy.supervisor import System, run_system

    def show(system: System) -> None:            # in a thread of its own, once everything answers
        system.say(f"open {system.address}")
        import_people(system.settings)           # settings.database_url is set, embedded or not
        while not system.stopping.wait(1.0):     # set as soon as the end is asked for
            ...

    sys.exit(run_system(load_settings(), on_ready=show))

`run_system` is to be called from the main thread: it takes SIGINT, SIGTERM and SIGHUP, and Linux ties the
children's lives to the thread that starts them. The settings it is given reach the processes as their
environment, whatever this process's own environment says; no secret stands on a command line.
"""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from types import FrameType
from typing import Final

from loguru import logger

from deploy.children import Child, Program
from deploy.data_folder import server_use, sole_system
from deploy.database import upgrade_schema, with_database
from deploy.embedded import EmbeddedServer, start_embedded
from deploy.environment import environment_for
from deploy.terminal import MergedOutput
from scheduler import connections
from scheduler.clock import Clock, SystemClock
from scheduler.errors import ConfigurationError
from scheduler.logs import configure_logs
from scheduler.process import CONFIGURATION_EXIT
from scheduler.settings import Settings

_LEAST_CONNECTIONS: Final = 100
_OTHER_CONNECTIONS: Final = 25
"""Kept free for commands, the demonstration and PostgreSQL's own reserve."""

_LOOK_SECONDS: Final = 0.1
_READY_TIMEOUT_SECONDS: Final = 2.0
_KILL_MARGIN_SECONDS: Final = 5.0
_SUPERVISOR: Final = "daybreak"


@dataclass(frozen=True, slots=True)
class System:
    """A running system, as `on_ready` sees it.

    `settings` name the database it runs on, embedded or not; `address` is where the API answers; `say` prints
    a line among the output of the processes; `stopping` is set once the end is asked for, and setting it asks.
    """

    settings: Settings
    address: str
    say: Callable[[str], None]
    stopping: Event


def run_system(settings: Settings, on_ready: Callable[[System], None] | None = None) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP, or until `stopping` is set; returns the exit code.

    0: stopped as asked. 1: a process did not stop in time and was killed, or `on_ready` raised. 78: a process
    found its settings wrong. A second SIGINT kills. Raises ConfigurationError where something must be set
    differently (the port is taken, another system runs on the data folder), and DatabaseUnavailable.
    """
    output = _open_output(settings)
    stopping, give_up = Event(), Event()
    with ExitStack() as stack:
        stack.enter_context(sole_system(settings.data_dir))
        _require_free_port(settings)
        stack.enter_context(_signals(stopping, give_up))
        database = stack.enter_context(_database(settings, output, give_up))
        upgrade_schema(database.settings, output.say)
        system = System(database.settings, local_address(settings), output.say, stopping)
        return _Supervisor(system, database, output.merged, SystemClock(), give_up).run(on_ready)


class _Supervisor:
    """The processes of a system. First stops what takes in, then what decides, last what delivers."""

    def __init__(
        self, system: System, database: _Database, output: MergedOutput, clock: Clock, give_up: Event
    ) -> None:
        self._system = system
        self._database = database
        self._give_up = give_up
        self._exit_code = 0
        environment = environment_for(system.settings) | {"PYTHONUNBUFFERED": "1"}
        self._children = [
            Child(program, environment, output, clock) for program in _programs(system.settings)
        ]

    def run(self, on_ready: Callable[[System], None] | None) -> int:
        """Start all, keep them running until the end is asked for, stop all; returns the exit code."""
        try:
            for child in self._children:
                child.start()
            Thread(target=self._announce, args=(on_ready,), daemon=True).start()
            while not self._system.stopping.wait(_LOOK_SECONDS):
                self._look_after()
        finally:
            self._stop()
        return self._exit_code

    def _look_after(self) -> None:
        self._database.keep_running()
        for child in self._children:
            if child.keep_running() == CONFIGURATION_EXIT:
                # It has said which setting is wrong, and would find it no better the next time.
                self._end_with(CONFIGURATION_EXIT)

    def _stop(self) -> None:
        self._system.stopping.set()
        self._system.say("stopping (Ctrl-C once more kills)")
        patience_seconds = self._system.settings.stop_deadline_seconds + _KILL_MARGIN_SECONDS
        for stage in ("api", "scheduler", "worker"):
            members = [child for child in self._children if child.program.module == stage]
            for child in members:
                child.ask_to_stop()
            for child in members:
                if not child.wait_for_end(patience_seconds, self._give_up):
                    self._exit_code = self._exit_code or 1

    def _announce(self, on_ready: Callable[[System], None] | None) -> None:
        """Wait until the API says that all is well, then hand over to `on_ready`."""
        while not _is_ready(self._system.settings):
            if self._system.stopping.wait(_LOOK_SECONDS):
                return
        self._system.say(f"ready: {self._system.address} (Ctrl-C stops everything)")
        try:
            if on_ready is not None:
                on_ready(self._system)
        except Exception:
            logger.exception("on_ready_failed")
            self._end_with(1)

    def _end_with(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._system.stopping.set()


class _Database:
    """The database under a system: somebody else's, or an embedded server that is started again if it dies."""

    def __init__(self, settings: Settings, server: EmbeddedServer | None) -> None:
        self.settings = settings
        self.server = server

    def keep_running(self) -> None:
        """Start the embedded server again, where it was, if it is gone."""
        if self.server is not None and not self.server.is_running():
            logger.bind(port=self.server.port).error("embedded_postgresql_died")
            self.server = _start_server(self.settings, port=self.server.port)


@contextmanager
def _database(settings: Settings, output: _Output, give_up: Event) -> Iterator[_Database]:
    if settings.database_url is not None:
        yield _Database(settings, None)
        return
    with server_use(settings.data_dir) as use:
        # A server that a command has started goes with that command: wait for its end, then start our own.
        use.become_sole(lambda: output.say("waiting for a daybreak command that uses the database"))
        server = _start_server(settings)
        output.say(f"PostgreSQL on port {server.port}, data in {settings.data_dir}")
        database = _Database(with_database(settings, server), server)
        try:
            use.share()
            yield database
        finally:
            if database.server is not None:
                database.server.stop(timeout_seconds=0.1 if give_up.is_set() else 10.0)


def _start_server(settings: Settings, port: int | None = None) -> EmbeddedServer:
    most = max(_LEAST_CONNECTIONS, _connections(settings) + _OTHER_CONNECTIONS)
    return start_embedded(settings.data_dir, port=port, settings={"max_connections": str(most)})


def _connections(settings: Settings) -> int:
    """The most connections that the processes hold together."""
    scheduler = max(settings.pool_size, connections.of_the_scheduler(settings))
    api = max(settings.pool_size, connections.of_an_api_process()) * settings.api_workers
    worker = max(settings.pool_size, connections.of_a_worker(settings)) * settings.worker_processes
    return scheduler + api + worker


def _programs(settings: Settings) -> Iterator[Program]:
    yield Program("scheduler", "scheduler")
    for number in range(1, settings.worker_processes + 1):
        yield Program("worker" if settings.worker_processes == 1 else f"worker-{number}", "worker")
    yield Program("api", "api")


@contextmanager
def _signals(stopping: Event, give_up: Event) -> Iterator[None]:
    """Turn signals into events: the first asks for the end, a second SIGINT for an end without patience."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and stopping.is_set():
            give_up.set()
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class _Output:
    """Where everything is said."""

    merged: MergedOutput
    say: Callable[[str], None]


def _open_output(settings: Settings) -> _Output:
    """Lines for people with their source in front, or, where logs are JSON, JSON alone."""
    for_people = settings.log_format == "human"
    coloured = for_people and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    merged = MergedOutput(sys.stdout, labelled=for_people, coloured=coloured)
    configure_logs(
        level=settings.log_level,
        log_format=settings.log_format,
        service="supervisor",
        stream=merged.stream_of(_SUPERVISOR),
    )
    if for_people:
        return _Output(merged, lambda text: merged.write_line(_SUPERVISOR, text))
    return _Output(merged, lambda text: logger.bind(text=text).info("notice"))


def _require_free_port(settings: Settings) -> None:
    """Raise ConfigurationError unless the API can listen where it is to."""
    host, port = settings.api_host, settings.api_port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise ConfigurationError(
            f"DAYBREAK_API_HOST: got {host!r}, which is not known ({error.strerror}); "
            "takes an address of this machine"
        ) from None
    except OSError as error:
        raise ConfigurationError(_port_complaint(host, port, error)) from None


def _port_complaint(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"DAYBREAK_API_PORT: got {port}, but another program listens on {host}:{port}; takes a free port"
        )
    if error.errno == errno.EACCES:
        return f"DAYBREAK_API_PORT: got {port}, which only root may use; takes a port from 1024 on"
    return f"DAYBREAK_API_HOST: got {host!r} ({error.strerror}); takes an address of this machine"


def local_address(settings: Settings) -> str:
    """Where a browser on this machine finds the API."""
    host = _reachable_host(settings)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.api_port}"


def _reachable_host(settings: Settings) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api_host, settings.api_host)  # noqa: S104 - names, binds nothing


def _is_ready(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(
        _reachable_host(settings), settings.api_port, timeout=_READY_TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
