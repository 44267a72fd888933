"""The real server, as a process: what it answers, what it refuses, and how it stops."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scheduler.connections import API_THREADS
from scheduler.process import CONFIGURATION_EXIT
from tests.fixtures.api import USERS, a_user
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import wait_until

PROGRAM = (sys.executable, "-m", "api")
HASTY = (
    sys.executable,
    "-c",
    """
from functools import partial
from api.connections import Limits
from api.server import run_api
from scheduler.process import run_process
run_process("api", partial(run_api, limits=Limits(connections=2, body_seconds=0.1)))
""",
)
"""The same with little patience."""
ROWS = b"external_id,first_name,timezone\np1,Ann,Europe/London\n", b"p2,Bob,Asia/Tokyo\n"


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(caller: HTTPConnection, method: str, path: str, body: Any = None) -> Answer:
    """Send a request on a connection, and read the answer."""
    caller.request(
        method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
    )
    return answer(caller)


def answer(caller: HTTPConnection) -> Answer:
    with caller.getresponse() as response:
        return Answer(response.status, response.headers["Content-Type"], response.read())


class Server:
    """The API on a free port, as a program."""

    def __init__(
        self, database_url: str, log: Path, port: int | None = None, program: tuple[str, ...] = PROGRAM
    ) -> None:
        self.port = port or free_port()
        self._log = log
        environment = {
            "PATH": os.environ["PATH"],
            "DAYBREAK_DATABASE_URL": database_url,
            "DAYBREAK_API_PORT": str(self.port),
            "DAYBREAK_LOG_FORMAT": "json",
            "DAYBREAK_API_AUTHENTICATION": "none",
        }
        with log.open("wb") as errors:
            self.process = subprocess.Popen(program, env=environment, cwd=log.parent, stderr=errors)

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=30)

    def is_listening(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    def is_serving(self) -> bool:
        try:
            return self.ask("GET", "/health/live").status == 200
        except OSError:
            return False

    def say(self, request: bytes, *, ends: bool = False) -> Answer:
        """Send what may be no HTTP at all, hang up for sending where it `ends`, and read the answer."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=10)) as caller:
            caller.sendall(request)
            if ends:
                caller.shutdown(socket.SHUT_WR)
            with closing(HTTPResponse(caller)) as response:
                response.begin()
                return Answer(response.status, response.headers["Content-Type"], response.read())

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a request on a connection of its own, and read the answer."""
        with closing(self.connect()) as caller:
            return ask(caller, method, path, body)

    def open(self, sent: bytes) -> socket.socket:
        """A connection on which something was sent; the caller closes it."""
        caller = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        caller.sendall(sent)
        return caller

    def serving_process(self) -> int:
        """Which process answers a request, made on a connection of its own."""
        assert self.ask("GET", USERS).status == 200
        return int(str(next(each for each in reversed(self.events()) if "route" in each)["process"]))

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Server]:
    with running(Server(database_url, tmp_path / "log")) as server:
        yield server


@pytest.fixture
def hasty(database_url: str, tmp_path: Path) -> Iterator[Server]:
    with running(Server(database_url, tmp_path / "log", program=HASTY)) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        wait_until(server.is_listening, "the API listens")
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def problem(answer: Answer, status: int) -> None:
    assert (answer.status, answer.content_type) == (status, "application/problem+json"), answer.body
    assert answer.json["status"] == status
    assert {"type", "title", "detail", "instance", "request_id"} <= answer.json.keys()


def test_it_serves_over_kept_connections_and_stops_when_told(server: Server) -> None:
    with closing(server.connect()) as caller:
        created = ask(caller, "POST", USERS, a_user())
        kept = caller.sock
        user = created.json["user"]
        assert created.status == 201
        assert ask(caller, "GET", f"{USERS}/{user['id']}").json == {"user": user}
        assert caller.sock is kept
    assert server.stop() == 0
    events = server.events()
    assert [event["event"] for event in events] == [
        "api_started",
        "request_served",
        "request_served",
        "api_stopped",
    ]
    assert events[2]["route"] == f"{USERS}/<identity:user_id>"
    assert {event["service"] for event in events} == {"api"}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_request_under_way_is_finished_before_it_stops(server: Server) -> None:
    with closing(server.connect()) as caller:
        caller.putrequest("POST", f"{USERS}/import")
        caller.putheader("Content-Type", "text/csv")
        caller.putheader("Transfer-Encoding", "chunked")
        caller.endheaders(chunk(ROWS[0]))
        # A later request that was answered shows that this one has been taken up.
        assert server.ask("GET", "/health/ready").status == 200
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not server.is_listening(), "the API takes no more connections")
        caller.send(chunk(ROWS[1]) + chunk(b""))
        done = answer(caller)
    assert (done.status, done.json["read"]) == (200, 2)
    assert server.process.wait(timeout=30) == 0


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
IMPORT_HEAD = b"POST /api/v1/users/import HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n" + CHUNKED
CREATE_HEAD = b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


NO_HTTP_OR_TOO_MUCH = [
    (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    (IMPORT_HEAD + b"zz\r\n", 400),
    (IMPORT_HEAD + b"3\r\nabcdef\r\n", 400),
    (CREATE_HEAD + b"Content-Length: -1\r\n\r\n", 400),
    (CREATE_HEAD + b"Content-Length: 5000000000\r\n\r\n", 413),
    (CREATE_HEAD + CHUNKED + chunk(b"[" * 1_048_577) + chunk(b""), 413),
    (CREATE_HEAD + CHUNKED + chunk(b"[" * 1000) + chunk(b""), 400),
]


def test_what_is_no_http_or_too_much_is_a_problem(server: Server) -> None:
    for request_bytes, status in NO_HTTP_OR_TOO_MUCH:
        problem(server.say(request_bytes), status)
    assert server.ask("GET", "/health/live").status == 200


def test_a_body_that_breaks_off_writes_nothing(server: Server) -> None:
    body = json.dumps(a_user()).encode()
    problem(server.say(IMPORT_HEAD + chunk(ROWS[0]), ends=True), 400)
    problem(server.say(IMPORT_HEAD + chunk(ROWS[0])[:-9], ends=True), 400)
    problem(server.say(CREATE_HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body, ends=True), 400)
    assert server.ask("GET", USERS).json["users"] == []


ALIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def received(caller: socket.socket, wanted: bytes, count: int = 1) -> bytes:
    """What comes, until it holds `wanted` as many times as that."""
    data = b""
    while data.count(wanted) < count:
        more = caller.recv(65_536)
        assert more, data
        data += more
    return data


def test_clients_that_are_slow_or_odd_are_served_and_hold_up_nobody(server: Server) -> None:
    with ExitStack() as clients:

        def client(sent: bytes) -> socket.socket:
            return clients.enter_context(closing(server.open(sent)))

        for beginning in (b"", ALIVE[:1], ALIVE[:-1]):
            for _ in range(API_THREADS):
                client(beginning)
        received(client(ALIVE * 5), b"HTTP/1.1 200", 5)
        by_bytes = client(b"\r\n")  # RFC 9112 §2.2: an empty line before a request does no harm
        for byte in ALIVE * 2:
            by_bytes.sendall(bytes((byte,)))
        received(by_bytes, b"HTTP/1.1 200", 2)
        body = json.dumps(a_user()).encode()
        patient = client(CREATE_HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        received(patient, b"HTTP/1.1 100 Continue\r\n\r\n")
        patient.sendall(body)
        received(patient, b"HTTP/1.1 201")
        old = client(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in received(old, b'{"status":"ok"}')
        while old.recv(1000):
            pass  # until the server has ended it
        endless = client(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000)
        assert received(endless, b"\r\n\r\n").startswith(b"HTTP/1.1 431")
        # One that has sent nothing yet, and one that has been answered, do not keep it from stopping.
        assert server.stop() == 0


def has_come(caller: socket.socket) -> bool:
    """Whether there is something to receive, or the end."""
    return bool(select.select([caller], [], [], 0)[0])


def is_cut_off(caller: socket.socket, sent: bytes) -> bool:
    """Send more; whether the server has ended the connection."""
    try:
        caller.sendall(sent)
        return has_come(caller) and not caller.recv(1000)
    except OSError:
        return True


def test_a_body_that_comes_too_slowly_loses_its_connection(hasty: Server) -> None:
    with closing(hasty.open(CREATE_HEAD + b"Content-Length: 1000000\r\n\r\n")) as slow:
        wait_until(lambda: is_cut_off(slow, b" "), "the server has ended the connection")
    with closing(hasty.open(IMPORT_HEAD)) as slow:
        wait_until(lambda: is_cut_off(slow, chunk(b"\n")), "the server has ended the connection")
    assert hasty.ask("GET", USERS).json["users"] == []


def test_who_comes_when_all_connections_are_taken_is_served_when_one_ends(hasty: Server) -> None:
    with ExitStack() as clients:
        first, second, third = (clients.enter_context(closing(hasty.open(ALIVE))) for _ in range(3))
        received(first, b"HTTP/1.1 200")
        for _ in range(3):
            second.sendall(ALIVE)
        received(second, b"HTTP/1.1 200", 4)
        assert not has_come(third)
        first.close()
        received(third, b"HTTP/1.1 200")


def test_processes_that_serve_are_replaced_and_end_with_their_parent(
    server: Server, database_url: str, tmp_path: Path
) -> None:
    second = Server(database_url, tmp_path / "second", server.port)
    with closing(server.connect()) as kept:
        first = server.serving_process()
        server.process.send_signal(signal.SIGHUP)

        def is_another() -> bool:
            assert ask(kept, "GET", "/health/live").status == 200
            return server.serving_process() != first

        wait_until(is_another, "another process serves, and no request has failed")
    os.kill(server.serving_process(), signal.SIGKILL)
    wait_until(server.is_serving, "a process that has died is replaced")
    assert second.process.wait(timeout=30) == CONFIGURATION_EXIT
    (line,) = (tmp_path / "second").read_text("utf-8").splitlines()
    assert line.startswith("DAYBREAK_API_HOST and DAYBREAK_API_PORT: ")
    server.process.kill()
    wait_until(lambda: not server.is_listening(), "no process is left")


NOWHERE = {"DAYBREAK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"DAYBREAK_API_AUTHENTICATION": "none"}, "DAYBREAK_DATABASE_URL"),
        (NOWHERE, "DAYBREAK_SECRET_KEY"),
        (
            NOWHERE | {"DAYBREAK_API_AUTHENTICATION": "none", "DAYBREAK_API_HOST": "192.0.2.1"},
            "DAYBREAK_API_HOST",
        ),
    ],
)
def test_without_what_it_needs_it_ends_with_one_clear_line(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    ended = subprocess.run(
        PROGRAM,
        env={"PATH": os.environ["PATH"]} | settings,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ended.returncode == CONFIGURATION_EXIT
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(named)
