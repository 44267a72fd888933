"""Create, read, change and delete users over HTTP at sixteen connections, each write with its replanning.

    python -m tests.load.api [--users N] [--connections N]

The API is the real server in a process of its own beside PostgreSQL with fsync on, the clients are processes as
well, so that they do not share an interpreter with what they measure. Anything but the expected status ends the run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Final

import click

from deploy.embedded import start_embedded
from scheduler.logs import configure_logs
from scheduler.store import migrate
from scheduler.store.database import create_database_engine
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until

_JSON: Final = {"Content-Type": "application/json"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the load and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=16_000)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args(arguments)
    configure_logs(level="WARNING", log_format="human", service="load")
    with tempfile.TemporaryDirectory(prefix="daybreak-load-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with start_embedded(root / "postgresql") as server:
            engine = create_database_engine(server.url, pool_size=1, application_name="daybreak-load")
            migrate.upgrade(engine)
            engine.dispose()
            with _api(server.url, root) as port:
                _run(port, options.users, options.connections)


@contextmanager
def _api(database_url: str, root: Path) -> Iterator[int]:
    port = free_port()
    environment = os.environ | {
        "DAYBREAK_DATABASE_URL": database_url,
        "DAYBREAK_DATA_DIR": str(root),
        "DAYBREAK_API_PORT": str(port),
        "DAYBREAK_API_WORKERS": "2",
        "DAYBREAK_POOL_SIZE": "16",
        "DAYBREAK_LOG_LEVEL": "WARNING",
    }
    with subprocess.Popen([sys.executable, "-m", "api"], env=environment) as server:
        try:
            wait_until(partial(_is_ready, port), "the API is ready")
            yield port
        finally:
            server.send_signal(signal.SIGTERM)


def _is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _run(port: int, users: int, connections: int) -> None:
    shares = [range(users)[number::connections] for number in range(connections)]
    with ProcessPoolExecutor(connections) as clients:
        ids: list[list[int]] = [[] for _ in shares]
        click.echo(
            f"{'':<10}{'requests':>9}{'per second':>12}{'p50':>9}{'p95':>9}{'p99':>9}   at {connections} connections"
        )
        for name, call in (("create", _create), ("read", _read), ("change", _change), ("delete", _delete)):
            work = ids if name != "create" else [list(share) for share in shares]
            started = perf_counter()
            answers = list(clients.map(partial(_client, port, call), work))
            seconds = perf_counter() - started
            if name == "create":
                ids = [created for created, _ in answers]
            _report(name, [latency for _, latencies in answers for latency in latencies], seconds)


def _report(name: str, latencies: list[float], seconds: float) -> None:
    ordered = sorted(latencies)
    percentiles = "".join(
        f"{1000 * ordered[int(share * (len(ordered) - 1))]:>6.1f} ms" for share in (0.5, 0.95, 0.99)
    )
    click.echo(f"{name:<10}{len(ordered):>9,}{len(ordered) / seconds:>12,.0f}{percentiles}")


def _client(
    port: int, call: Callable[[HTTPConnection, int], int], work: Sequence[int]
) -> tuple[list[int], list[float]]:
    """One connection's work: what each call answered, and how long it took in seconds."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    results, latencies = [], []
    for number in work:
        started = perf_counter()
        results.append(call(connection, number))
        latencies.append(perf_counter() - started)
    connection.close()
    return results, latencies


def _create(connection: HTTPConnection, number: int) -> int:
    user = {
        "external_id": f"load-{number}",
        "first_name": "Ann",
        "last_name": f"Example {number}",
        "email": f"load-{number}@example.com",
        "timezone": ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Africa/Lagos")[number % 4],
        "dates": {"birthday": f"1990-{1 + number % 12:02}-{1 + number % 28:02}"},
    }
    answer = _expect(connection, 201, "POST", "/api/v1/users", user)
    return int(answer["user"]["id"])


def _read(connection: HTTPConnection, user_id: int) -> int:
    _expect(connection, 200, "GET", f"/api/v1/users/{user_id}")
    return user_id


def _change(connection: HTTPConnection, user_id: int) -> int:
    _expect(connection, 200, "PATCH", f"/api/v1/users/{user_id}", {"timezone": "Pacific/Auckland"})
    return user_id


def _delete(connection: HTTPConnection, user_id: int) -> int:
    _expect(connection, 200, "DELETE", f"/api/v1/users/{user_id}")
    return user_id


def _expect(
    connection: HTTPConnection, status: int, method: str, path: str, body: object = None
) -> dict[str, dict[str, int]]:
    connection.request(
        method, path, None if body is None else json.dumps(body), {} if body is None else _JSON
    )
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != status:
        raise RuntimeError(f"{method} {path} answered {answer.status}: {content[:200]!r}")
    found: dict[str, dict[str, int]] = json.loads(content)
    return found


if __name__ == "__main__":
    main()
