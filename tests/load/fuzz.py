"""Schemathesis over the whole OpenAPI document, with all its checks, as an admin and as a viewer.

    python -m tests.load.fuzz [--short] [--seconds N | --examples N] [--seed N]

Both roles at once, each in a process of its own; what they have to say is printed when both have ended.

Short: each operation with its examples and a few requests made by chance (`--examples`, or as many as fit in
`--seconds`), and what can be done one after another; half a minute. Else also what stands at the edges of each schema,
some fifteen thousand requests for each role, and then by chance for as long as `--seconds` say, if they do.

The API is the real server in a process of its own beside PostgreSQL. Ends with 1 where a check has failed: a 5xx, an
answer that the document does not describe, input that is taken or refused against it, a route without credentials.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import jwt

from deploy.embedded import start_embedded
from scheduler.domain.access import Role
from scheduler.logs import configure_logs
from scheduler.store import migrate
from scheduler.store.database import create_database_engine
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until

_SECRET: Final = "a secret key for fuzzing, of no other use"
_ISSUER: Final = "fuzz"
_FAR_FUTURE: Final = 4_102_444_800  # the year 2100
_ROOT: Final = Path(__file__).resolve().parents[2]
_CONFIGURATION: Final = Path(__file__).with_name("schemathesis.toml")
_SHORT_PHASES: Final = "examples,fuzzing,stateful"
_EXAMPLES: Final = {Role.ADMIN: 2, Role.VIEWER: 1}
"""By chance, of each operation; a viewer is refused most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz as each role; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="about half a minute")
    parser.add_argument("--seconds", type=int, help="for each role; without it, a few by chance")
    parser.add_argument(
        "--examples", type=int, help="by chance, of each operation, where the time does not end it"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    configure_logs(level="WARNING", log_format="human", service="fuzz")
    with tempfile.TemporaryDirectory(prefix="daybreak-fuzz-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        with start_embedded(root / "postgresql") as server:
            _prepare(server.url)
            with _api(server.url, root) as port, ThreadPoolExecutor() as threads:
                fuzz = partial(_fuzz, port, root, options)
                ended = list(threads.map(fuzz, (Role.ADMIN, Role.VIEWER)))
    for run in ended:
        sys.stdout.buffer.write(run.stdout)
    return 1 if any(run.returncode for run in ended) else 0


def _prepare(url: str) -> None:
    """A migrated database."""
    engine = create_database_engine(url, pool_size=1, application_name="daybreak-fuzz")
    migrate.upgrade(engine)
    engine.dispose()


def _token(role: Role) -> str:
    """Who it is for cannot be revoked: an API key would be, by the first request that ends it."""
    claims = {"iss": _ISSUER, "aud": _ISSUER, "sub": f"fuzz-{role}", "roles": [str(role)], "exp": _FAR_FUTURE}
    return jwt.encode(claims, _SECRET, algorithm="HS256")


@contextmanager
def _api(database_url: str, root: Path) -> Iterator[int]:
    port = free_port()
    environment = os.environ | {
        "DAYBREAK_DATABASE_URL": database_url,
        "DAYBREAK_DATA_DIR": str(root),
        "DAYBREAK_API_PORT": str(port),
        "DAYBREAK_SECRET_KEY": _SECRET,
        "DAYBREAK_JWT_SECRET": _SECRET,
        "DAYBREAK_JWT_ISSUER": _ISSUER,
        "DAYBREAK_JWT_AUDIENCE": _ISSUER,
        "DAYBREAK_API_REQUESTS_PER_MINUTE": "0",
        "DAYBREAK_API_FAILED_AUTHENTICATIONS_PER_MINUTE": "0",
        "DAYBREAK_LOG_FORMAT": "json",
    }
    log = root / "api.log"
    with (
        log.open("wb") as lines,
        subprocess.Popen([sys.executable, "-m", "api"], env=environment, stderr=lines) as server,
    ):
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


def _fuzz(
    port: int, root: Path, options: argparse.Namespace, role: Role
) -> subprocess.CompletedProcess[bytes]:
    """One run, with its exit code and all that it printed."""
    if options.seconds is None:
        bounds = ["--max-examples", str(options.examples or _EXAMPLES[role])]
    else:
        bounds = ["--max-time", str(options.seconds)]
    phases = ["--phases", _SHORT_PHASES] if options.short else []
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(_CONFIGURATION), "run", f"http://127.0.0.1:{port}/openapi.json"),
        *("--header", f"Authorization: Bearer {_token(role)}"),
        # One thread: Hypothesis parses the lambdas that it describes, and in Python 3.11 that fails now and then with
        # a SystemError where two threads do it at once (CPython's issue 106905).
        *("--checks", "all", "--workers", "1", "--seed", str(options.seed), "--request-timeout", "60"),
        *("--max-response-time", "60"),  # whatever else the machine does
        *("--request-retries", "2"),  # a kept connection may end in the instant in which it is used again
        *("--warnings", "off", *phases, *bounds),
    ]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    return subprocess.run(
        command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
