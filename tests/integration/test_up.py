"""`daybreak up` for real: everything runs, what dies comes back, and nothing is left at the end."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil
import pytest

from scheduler.clock import SystemClock
from tests.fixtures.command_line import PEOPLE, PROGRAM, data_folder, daybreak, environment
from tests.fixtures.ports import free_port
from tests.fixtures.rabbitmq import RabbitNode
from tests.fixtures.waiting import wait_until


class Up:
    """A running `daybreak up`, on a port and in a data folder of its own."""

    def __init__(self, folder: Path, cwd: Path, **settings: str) -> None:
        self.folder = folder
        self.cwd = cwd
        self.port = free_port()
        self.settings = {"DATA_DIR": str(folder), "API_PORT": str(self.port), "LOG_FORMAT": "json"} | settings
        self._log = cwd / "up.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [PROGRAM, "up"], env=environment(self.settings), cwd=cwd, stdout=output, stderr=output
            )
        self.family: dict[int, psutil.Process] = {}

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def output(self) -> str:
        return self._log.read_text()

    def pid_of(self, name: str) -> int:
        """The process that runs under that name now."""
        started = [event["pid"] for event in self.events("process_started") if event["name"] == name]
        assert isinstance(started[-1], int)
        return started[-1]

    def remember_family(self) -> None:
        """Note all processes there are, to look for them afterwards."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            self.family[process.pid] = process

    def is_ready(self) -> bool:
        return self._status() == 200

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.is_ready() or self.process.poll() is not None, "the API is ready", seconds=60)
        assert self.process.poll() is None, self.output()
        wait_until(lambda: self.events("notice")[-1:] and self._said_ready(), "the address is printed")
        self.remember_family()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command on the same data folder."""
        return daybreak(*arguments, settings=self.settings, cwd=self.cwd)

    def survivors(self) -> list[psutil.Process]:
        """Those of the family that still run; the dead that nobody has buried yet do not."""
        return [process for process in self.family.values() if _runs(process)]

    def _said_ready(self) -> bool:
        return any(str(event["text"]).startswith("ready: ") for event in self.events("notice"))

    def _status(self) -> int | None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command_line(process: psutil.Process) -> str:
    """Empty for one that has ended meanwhile, as sessions of the database do."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with data_folder() as folder:
        running = Up(folder, tmp_path)
        try:
            running.wait_until_ready()
            yield running
        finally:
            _end(running)


def _end(running: Up) -> None:
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
    try:
        running.process.wait(timeout=60)
    finally:
        for process in running.survivors():
            process.kill()


def test_everything_runs_what_dies_comes_back_and_nothing_is_left(up: Up) -> None:
    imported = up.run("users", "import", str(PEOPLE), "--json")
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["created"] == 300

    killed = up.pid_of("worker")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: up.pid_of("worker") != killed, "a new worker is started")
    wait_until(lambda: len(up.events("worker_started")) == 2, "the new worker works")
    (death,) = up.events("process_died")
    assert (death["name"], death["ended_by"]) == ("worker", "SIGKILL")

    asked = up.pid_of("scheduler")
    os.kill(asked, signal.SIGTERM)
    wait_until(lambda: up.pid_of("scheduler") != asked, "a new scheduler is started")
    (ending,) = up.events("process_ended")
    assert (ending["name"], ending["ended_by"], ending["level"]) == ("scheduler", "exit code 0", "INFO")
    assert len(up.events("process_died")) == 1, "an orderly end is no error"

    up.remember_family()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=60) == 0, up.output()
    assert up.survivors() == []
    assert [event["name"] for event in up.events("process_stopped")] == ["api", "scheduler", "worker"]
    assert up.events("embedded_postgresql_stopped")
    assert not up.is_ready()


def test_the_password_stands_on_no_command_line(up: Up) -> None:
    passwords = json.loads((up.folder / "postgresql.credentials.json").read_text()).values()
    lines = list(filter(None, map(_command_line, up.family.values())))
    assert len(lines) > 4
    assert not [line for line in lines for password in passwords if password in line]


def test_a_database_that_dies_comes_back_where_it_was(up: Up) -> None:
    server = psutil.Process(int((up.folder / "postgresql" / "postmaster.pid").read_text().splitlines()[0]))
    server.kill()
    wait_until(lambda: len(up.events("embedded_postgresql_started")) == 2, "the server is started again")
    wait_until(up.is_ready, "the API is ready again")
    first, second = up.events("embedded_postgresql_started")
    assert first["port"] == second["port"]
    up.remember_family()


def test_a_second_one_on_the_data_folder_or_the_port_is_refused_with_one_line(up: Up) -> None:
    same_folder = up.run("up")
    assert same_folder.returncode == 78
    assert f"(process {up.process.pid})".encode() in same_folder.stderr
    assert len(same_folder.stderr.splitlines()) == 1
    with data_folder() as other:
        settings = up.settings | {"DATA_DIR": str(other)}
        same_port = daybreak("up", settings=settings, cwd=up.cwd)
    assert same_port.returncode == 78
    assert same_port.stderr.startswith(f"daybreak: DAYBREAK_API_PORT: got {up.port}, but ".encode())


def test_killed_it_takes_everything_with_it(up: Up) -> None:
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not up.survivors(), "all its processes are gone")


def test_a_second_interrupt_kills(up: Up) -> None:
    worker = psutil.Process(up.pid_of("worker"))
    worker.suspend()
    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: len(up.events("process_stopped")) == 2, "only the worker is left")
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=15) == 1
    assert up.survivors() == []


def test_it_runs_on_somebody_elses_database(database_url: str, tmp_path: Path) -> None:
    with data_folder() as folder:
        running = Up(folder, tmp_path, DATABASE_URL=database_url, WORKER_PROCESSES="2")
        try:
            running.wait_until_ready()
            assert {event["name"] for event in running.events("process_started")} == {
                "scheduler",
                "worker-1",
                "worker-2",
                "api",
            }
            assert not (folder / "postgresql").exists()
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(timeout=60) == 0
        finally:
            _end(running)


def test_it_runs_on_rabbitmq(rabbitmq: RabbitNode, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    born = SystemClock().now().date().replace(year=2000)
    head = "external_id,first_name,last_name,email,birth_date,timezone,preferred_time"
    people.write_text(f"{head}\nann,Ann,Lee,ann@example.org,{born},UTC,00:00\n")
    with data_folder() as folder:
        running = Up(folder, tmp_path, BROKER_URL=rabbitmq.url)
        try:
            running.wait_until_ready()
            wait_until(lambda: running.events("publisher_connected"), "the scheduler is connected")
            wait_until(lambda: len(running.events("consumer_connected")) == 2, "the worker is connected")
            imported = running.run("users", "import", str(people))
            assert imported.returncode == 0, imported.stderr
            wait_until(lambda: running.events("batch_delivered"), "her message is sent")
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(timeout=60) == 0
        finally:
            _end(running)
    assert not running.events("publish_failed") + running.events("consumer_disconnected")


def test_a_process_alone_runs_on_the_embedded_database_and_takes_it_down(tmp_path: Path) -> None:
    with data_folder() as folder:
        settings = {"DATA_DIR": str(folder), "LOG_FORMAT": "json", "LOG_LEVEL": "INFO"}
        log = tmp_path / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [PROGRAM, "worker"], env=environment(settings), cwd=tmp_path, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: "worker_started" in log.read_text(), "the worker works", seconds=60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0, log.read_text()
        finally:
            process.kill()
        assert not (folder / "postgresql" / "postmaster.pid").exists()
