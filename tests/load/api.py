"""Create, read, change and delete users over HTTP at sixteen connections, each write with its replanning.

    python -m tests.load.api [--users N] [--connections N] [--processes N] [--reads N] [--authentication none]

The API is the real server in processes of its own beside PostgreSQL with fsync on, asked with an API key and counting
requests as users have it; the client is one light loop (`client`). Before anything is measured some users are created,
read, changed and deleted, and the tables analyzed, as on a server that has run for a minute. Each answer is checked,
and in the end the database is compared with what was answered. Rates depend on what else the machine does; the
processor time of a request, printed for each side, hardly does.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from secrets import token_urlsafe
from time import perf_counter, process_time
from typing import Final

import click
import psutil
from pydantic import SecretStr
from sqlalchemy import Engine, text

from deploy.embedded import start_embedded
from scheduler.clock import SystemClock
from scheduler.domain.access import SYSTEM, Role
from scheduler.keys import NewKey
from scheduler.logs import configure_logs
from scheduler.service import keys_for
from scheduler.settings import Settings
from scheduler.store import migrate
from scheduler.store.database import create_database_engine
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until
from tests.load.client import Request, answers, request

USERS: Final = "/api/v1/users"
_REQUESTS_PER_MINUTE: Final = 10_000_000
"""More than can be asked, so that requests are counted and none is refused."""

_MOST_TO_WARM_UP: Final = 600
"""Users; half as many as are measured, if that is less."""

_ZONES: Final = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Africa/Lagos")
_ID: Final = re.compile(rb'"id":(\d+),"external_id":"load-(\d+)"')
_PLANNED: Final = re.compile(rb'"planned":(\d+)')
_REMOVED: Final = re.compile(rb'"removed":(\d+)')


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the load and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=16_000)
    parser.add_argument("--reads", type=int, default=0, help="requests that read; 0: one for each user")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2, help="processes that serve the API")
    parser.add_argument("--authentication", choices=("required", "none"), default="required")
    options = parser.parse_args(arguments)
    configure_logs(level="WARNING", log_format="human", service="load")
    with tempfile.TemporaryDirectory(prefix="daybreak-load-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with start_embedded(root / "postgresql") as server:
            engine = create_database_engine(server.url, pool_size=1, application_name="daybreak-load")
            migrate.upgrade(engine)
            settings = Settings(
                database_url=SecretStr(server.url),
                secret_key=SecretStr(token_urlsafe(32)),
                data_dir=root,
                api_port=free_port(),
                api_workers=options.processes,
                api_authentication=options.authentication,
            )
            with serving(settings) as process:
                load = _Load(settings.api_port, options.connections, process, engine)
                load.run(
                    options.users, options.reads or options.users, _Requests(key_headers(settings, engine))
                )
            engine.dispose()


@contextmanager
def serving(settings: Settings) -> Iterator[psutil.Process]:
    """The API in processes of its own, ready; the one that has started them."""
    assert settings.database_url is not None
    assert settings.secret_key is not None
    environment = os.environ | {
        "DAYBREAK_DATABASE_URL": settings.database_url.get_secret_value(),
        "DAYBREAK_SECRET_KEY": settings.secret_key.get_secret_value(),
        "DAYBREAK_DATA_DIR": str(settings.data_dir),
        "DAYBREAK_API_PORT": str(settings.api_port),
        "DAYBREAK_API_WORKERS": str(settings.api_workers),
        "DAYBREAK_API_AUTHENTICATION": settings.api_authentication,
        "DAYBREAK_API_REQUESTS_PER_MINUTE": str(_REQUESTS_PER_MINUTE),
        "DAYBREAK_LOG_LEVEL": "WARNING",
    }
    with subprocess.Popen([sys.executable, "-m", "api"], env=environment) as server:
        try:
            wait_until(partial(_is_ready, settings.api_port), "the API is ready")
            yield psutil.Process(server.pid)
        finally:
            server.send_signal(signal.SIGTERM)


def key_headers(settings: Settings, engine: Engine) -> tuple[str, ...]:
    """What proves who asks: the key of an admin, as each installation has one."""
    if settings.api_authentication == "none":
        return ()
    key = keys_for(settings, engine, SystemClock()).create(SYSTEM, NewKey("load", Role.ADMIN))
    return (f"Authorization: Bearer {key.text}",)


def _is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class _Load:
    """The four kinds of requests, one after the other, on one server and its database."""

    port: int
    connections: int
    server: psutil.Process
    engine: Engine

    def run(self, users: int, reads: int, requests: _Requests) -> None:
        """Measure them, and compare the database with the answers."""
        warmed_up = min(_MOST_TO_WARM_UP, users // 2)
        self._warm_up(range(users, users + warmed_up), requests)
        audited = self._count("audit_log")
        click.echo(
            f"{'':<8}{'requests':>9}{'per second':>12}{'p50':>11}{'p95':>11}{'p99':>11}   processor ms a request:"
            " API, PostgreSQL, client"
        )
        created = self._measure("create", [requests.create(number) for number in range(users)])
        numbers = {int(found[1]): int(found[2]) for body in created if (found := _ID.search(body))}
        _compare("users with ids of their own", len(numbers), users)
        _compare("messages planned", _sum(_PLANNED, created), self._count("message_log"))
        work = list(numbers.items())
        self._measure("read", [requests.read(*each) for each in islice(cycle(work), reads)])
        self._measure("change", [requests.change(*each) for each in work])
        left = self._count("message_log")
        deleted = self._measure("delete", [requests.delete(user_id) for user_id in numbers])
        _compare("messages removed", _sum(_REMOVED, deleted), left)
        for table, rows in (
            ("users", 0),
            ("message_log", 0),
            ("deleted_users", users + warmed_up),
            ("audit_log", audited + 3 * users),
        ):
            _compare(f"rows of {table}", self._count(table), rows)

    def _warm_up(self, numbers: Iterable[int], requests: _Requests) -> None:
        """Make the server what it is after its first minute: imports and plans made, statistics taken by autovacuum.

        These users are gone in the end, and remembered as deleted.
        """
        created = self._answers([requests.create(number) for number in numbers])
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        people = [(int(found[1]), int(found[2])) for body in created if (found := _ID.search(body))]
        for kind in (requests.read, requests.change):
            self._answers([kind(*each) for each in people])
        self._answers([requests.delete(user_id) for user_id, _ in people])

    def _answers(self, requests: Sequence[Request]) -> list[bytes]:
        return [body for body, _ in answers(self.port, requests, self.connections)]

    def _measure(self, name: str, requests: Sequence[Request]) -> list[bytes]:
        before = self._processor_seconds()
        started = perf_counter()
        found = list(answers(self.port, requests, self.connections))
        seconds = perf_counter() - started
        spent = [after - earlier for after, earlier in zip(self._processor_seconds(), before, strict=True)]
        ordered = sorted(latency for _, latency in found)
        percentiles = "".join(
            f"{1000 * ordered[int(share * (len(ordered) - 1))]:>8.1f} ms" for share in (0.5, 0.95, 0.99)
        )
        costs = "".join(f"{1000 * each / len(found):>7.3f}" for each in spent)
        click.echo(f"{name:<8}{len(found):>9,}{len(found) / seconds:>12,.0f}{percentiles}  {costs}")
        return [body for body, _ in found]

    def _processor_seconds(self) -> tuple[float, float, float]:
        """What the API, PostgreSQL (sessions of the API alone) and this client have used so far."""
        with self.engine.connect() as connection:
            sessions = connection.execute(
                text("SELECT pid FROM pg_stat_activity WHERE application_name = 'daybreak-api'")
            ).scalars()
            database = sum(seconds_of(psutil.Process(pid)) for pid in sessions)
        api = sum(seconds_of(each) for each in self.server.children(recursive=True))
        return api, database, process_time()

    def _count(self, table: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def seconds_of(process: psutil.Process) -> float:
    """What a process has used of a processor so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _sum(field: re.Pattern[bytes], bodies: Sequence[bytes]) -> int:
    return sum(int(found[1]) for body in bodies if (found := field.search(body)))


def _compare(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise RuntimeError(f"{what}: {found}, not {wanted}")


@dataclass(frozen=True, slots=True)
class _Requests:
    """The requests of the load, each with `headers`."""

    headers: tuple[str, ...]

    def create(self, number: int) -> Request:
        user = {
            "external_id": f"load-{number}",
            "first_name": "Ann",
            "last_name": f"Example {number}",
            "email": f"load-{number}@example.com",
            "timezone": _ZONES[number % len(_ZONES)],
            "dates": {"birthday": f"1990-{1 + number % 12:02}-{1 + number % 28:02}"},
        }
        holds = f'"external_id":"load-{number}"'.encode()
        return request("POST", USERS, user, status=201, holds=holds, headers=self.headers)

    def read(self, user_id: int, number: int) -> Request:
        holds = f'"id":{user_id},"external_id":"load-{number}"'.encode()
        return request("GET", f"{USERS}/{user_id}", status=200, holds=holds, headers=self.headers)

    def change(self, user_id: int, number: int) -> Request:
        patch = {"timezone": "Pacific/Auckland", "first_name": f"Ann {number}"}
        holds = f'"first_name":"Ann {number}"'.encode()
        return request("PATCH", f"{USERS}/{user_id}", patch, status=200, holds=holds, headers=self.headers)

    def delete(self, user_id: int) -> Request:
        path = f"{USERS}/{user_id}"
        return request("DELETE", path, status=200, holds=b'"removed":', headers=self.headers)


if __name__ == "__main__":
    main()
