"""`daybreak demo` for real: within minutes somebody is greeted on time, and the page shows it."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import create_server
from typing import Any

import psutil
import pytest

from deploy.demo import demo_settings
from scheduler.settings import Settings, default_data_dir
from tests.fixtures.command_line import PROGRAM, data_folder, environment
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until


class Demo:
    """A running `daybreak demo`, on a port and in a data folder of its own."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.port = free_port()
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [PROGRAM, "demo", "--people", "400"],
                env=environment({"DATA_DIR": str(folder), "API_PORT": str(self.port)}),
                cwd=log.parent,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8")

    def key(self) -> str:
        """The development key, once it is printed."""
        found = re.search(r"/#key=(dbk_\w+)", self.output)
        return "" if found is None else found[1]

    def overview(self) -> dict[str, Any] | None:
        """What the page shows, once it answers."""
        assert self.process.poll() is None, self.output
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/api/v1/overview", headers={"Authorization": f"Bearer {self.key()}"})
            answer = connection.getresponse()
            found: dict[str, Any] | None = json.loads(answer.read()) if answer.status == 200 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()
        return found

    def sent(self) -> list[dict[str, Any]]:
        found = self.overview()
        return found["sent"] if found else []

    def users(self) -> int:
        found = self.overview()
        return int(found["totals"]["users"]) if found else 0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


@pytest.fixture
def folder() -> Iterator[Path]:
    with data_folder() as path:
        yield path


def test_somebody_is_greeted_on_time_and_it_can_be_seen(folder: Path, tmp_path: Path) -> None:
    demo = Demo(folder, tmp_path / "demo.log")
    try:
        # Up to a minute until the next one strikes, and what it takes to start.
        sent = wait_until(demo.sent, "a greeting is shown", seconds=110)
        wait_until(
            lambda: f"{sent[0]['local_time']} in {sent[0]['timezone']}" in demo.output, "it is printed"
        )
        family = psutil.Process(demo.process.pid).children(recursive=True)
    finally:
        code = demo.stop()
    assert code == 0, demo.output
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert f"http://127.0.0.1:{demo.port}/#key={demo.key()}" in demo.output
    assert all(message["lateness_seconds"] < 30 for message in sent)
    assert "Traceback" not in demo.output
    assert "ERROR" not in demo.output

    again = Demo(folder, tmp_path / "again.log")
    try:
        wait_until(lambda: again.users() >= 400, "the same people are there")
        wait_until(lambda: "Watch" in again.output, "it has looked at what is to come")
        assert 400 <= again.users() < 800
        assert again.key() == demo.key(), "the data folder keeps the key"
    finally:
        assert again.stop() == 0, again.output


def test_the_demonstration_keeps_its_data_apart_unless_told_where() -> None:
    assert demo_settings(Settings()).data_dir == default_data_dir() / "demo"
    told = Settings(data_dir=Path("elsewhere")).read_from({"data_dir": "environment"})
    assert demo_settings(told).data_dir == told.data_dir


def test_the_demonstration_takes_another_port_where_the_usual_one_is_taken() -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        usual = Settings(api_port=port)
        assert demo_settings(usual).api_port != port
        insisted = usual.read_from({"api_port": "environment"})
        assert demo_settings(insisted).api_port == port
