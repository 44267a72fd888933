"""Kept connections where the network or the provider is at its worst: TLS, full buffers, answers out of turn."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.fixtures.http_providers import NOW, Make, makes_providers
from tests.fixtures.mail_servers import make_certificate
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from tests.fixtures.sink import running_sink
from worker.channels import http_kept
from worker.channels.port import Accepted, Failed, FailureKind

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Serve = Callable[[socket.socket], None]


@pytest.fixture
def make() -> Iterator[Make]:
    with running_sink() as sink, makes_providers(sink) as make:
        yield make


@contextmanager
def server(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that gives each connection, one at a time, to `serve`; the URL it has."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    if tls is None:
                        serve(connection)
                    else:
                        with tls.wrap_socket(connection, server_side=True) as wrapped:
                            serve(wrapped)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=accept, daemon=True)
        thread.start()
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def read_request(connection: socket.socket) -> bytes:
    """Head and body of the next request; raises OSError once there are no more."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += _received(connection)
    return bytes(body)


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError
    return data


def test_requests_and_answers_larger_than_all_buffers_go_over_tls(make: Make, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    bodies: list[int] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000

    def serve(connection: socket.socket) -> None:
        while True:
            bodies.append(len(read_request(connection)))
            connection.sendall(answer)

    with server(serve, certificate.server_context()) as url:
        provider = make(url=url, certificate_authorities=str(certificate.path), concurrency=1)
        text = "Happy birthday! " * 100_000
        messages = [outgoing(1, text=text), outgoing(2), outgoing(3, text=text)]
        assert provider.deliver(messages, Signal()) == [Accepted(NOW)] * 3
        provider.close()
        untrusted = make(url=url).deliver([outgoing()], Signal())
    assert bodies[0] == bodies[2] > len(text) > bodies[1]
    [failed] = untrusted
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.category) == (FailureKind.RETRYABLE, "tls_certificate")


def test_a_refusal_that_comes_while_the_request_is_being_sent_counts(make: Make) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass

    with server(serve) as url:
        provider = make(url=url)
        [failed] = provider.deliver([outgoing(text="x" * 20_000_000)], Signal())
        provider.close()
    assert isinstance(failed, Failed)
    assert failed.category == "http_413"


def test_an_answer_that_nobody_asked_for_is_never_taken_for_that_of_a_request(make: Make) -> None:
    """Such as the 408 of a server that is tired of waiting for a request."""
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        while True:
            requests.append(read_request(connection))
            connection.sendall(OK + b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    with server(serve) as url:
        provider = make(url=url, concurrency=1)
        assert provider.deliver(outgoing_many(4), Signal()) == [Accepted(NOW)] * 4
        provider.close()
    assert len(requests) == 4


def test_a_connection_that_was_idle_for_long_is_not_trusted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[int] = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection.fileno())
        while True:
            read_request(connection)
            connection.sendall(OK)

    with server(serve) as url:
        provider = make(url=url, concurrency=1)
        for _ in range(3):
            assert provider.deliver([outgoing()], Signal()) == [Accepted(NOW)]
        assert len(connections) == 1
        monkeypatch.setattr(http_kept, "LONGEST_IDLE_SECONDS", -1.0)
        assert provider.deliver([outgoing()], Signal()) == [Accepted(NOW)]
        provider.close()
    assert len(connections) == 2


def test_a_server_that_takes_no_bytes_ends_in_time(make: Make) -> None:
    over = Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        over.wait(5)

    with server(serve) as url:
        provider = make(url=url, total_timeout_seconds=0.5)
        [failed] = provider.deliver([outgoing(text="x" * 20_000_000)], Signal())
        over.set()
        provider.close()
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.category) == (FailureKind.UNKNOWN, "timeout")
