"""Where messages go: nginx, which answers as fast as anything can, or the sink that keeps a ledger.

Both listen on a free port of loopback. Rates are measured against nginx; where log and ledger are compared, or the
instant of each acceptance matters, against the ledger.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.processes import ROOT
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until

_CONFIGURATION: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        client_max_body_size 64m;
        location = /status {{ stub_status; }}
        location / {{ return 200; }}
    }}
}}
"""
_REQUESTS_LINE: Final = re.compile(r"^\s*\d+\s+\d+\s+(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx that answers 200 to everything."""

    port: int

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self.port}/"

    def requests(self) -> int:
        """The requests it has answered, without those that asked for this."""
        found = _REQUESTS_LINE.search(_get(f"{self.url}status"))
        assert found is not None, "nginx did not say how many requests it had"
        return int(found[1])


def nginx_path() -> str | None:
    """Where nginx is; None where it is not installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")


@contextmanager
def running_nginx() -> Iterator[Nginx]:
    """An nginx in a temporary folder, gone at the end. Raises RuntimeError where it is not installed."""
    path = nginx_path()
    if path is None:
        raise RuntimeError("the benchmark needs nginx: `make nginx`, or `apt-get install nginx-light`")
    with tempfile.TemporaryDirectory(prefix="daybreak-nginx-") as folder:
        Path(folder).chmod(0o755)
        nginx = Nginx(free_port())
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, port=nginx.port))
        command = [path, "-p", folder, "-e", f"{folder}/error.log", "-c", str(configuration)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: _answers(nginx), "nginx answers")
                yield nginx
            finally:
                process.terminate()


@dataclass(frozen=True, slots=True)
class CountingSink:
    """A running sink that keeps a ledger of what it accepted, with the instant of each acceptance."""

    url: str
    ledger: Path
    pid: int

    def counts(self) -> dict[str, int]:
        """What it has counted so far, see `tests/fixtures/sink.py`."""
        counted: dict[str, int] = json.loads(_get(f"{self.url}_counts"))
        return counted

    def acceptances(self) -> Iterator[tuple[float, str]]:
        """Instant (UNIX seconds) and key of each acceptance, in order."""
        with self.ledger.open() as lines:
            for line in lines:
                instant, _, key = line.rstrip("\n").partition(" ")
                yield float(instant), key


@contextmanager
def counting_sink(folder: Path, *, elements: str | None = None) -> Iterator[CountingSink]:
    """A counting sink in a process of its own; `elements` is the member of the body with the messages of a request."""
    ledger = Path(tempfile.mkdtemp(prefix="ledger-", dir=folder)) / "ledger"
    command = [sys.executable, "-m", "tests.fixtures.sink", "--port", "0", "--ledger", str(ledger)]
    command += ["--elements", elements] if elements else []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, "the sink did not say where it listens"
        try:
            yield CountingSink(f"{found[0]}/", ledger, process.pid)
        finally:
            process.terminate()


def _answers(nginx: Nginx) -> bool:
    try:
        return nginx.requests() > 0
    except OSError:
        return False


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
