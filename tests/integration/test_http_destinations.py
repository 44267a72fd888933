"""Users' URLs never lead inside: the very address that libcurl connects to is checked."""

import socket
from collections.abc import Iterator

import pytest

from scheduler.errors import ConfigurationError
from tests.fixtures.answers import Answer
from tests.fixtures.http_providers import NOW, Make, makes_providers
from tests.fixtures.messages import Signal, outgoing
from tests.fixtures.sink import Sink, running_sink
from worker.channels.http import HttpProvider
from worker.channels.http_transfers import Transfers
from worker.channels.port import Accepted, Failed, FailureKind, Outcome


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture
def make(sink: Sink) -> Iterator[Make]:
    """Guarded providers that may use the sink's port, and no network that is not public."""
    with makes_providers(sink) as providers:

        def make(**settings: object) -> HttpProvider:
            ports = frozenset({80, sink.port})
            given = {
                "url": "{address}",
                "guard": True,
                "allowed_ports": ports,
                "connect_timeout_seconds": 0.5,
            }
            return providers(**{**given, **settings})

        yield make


def send(provider: HttpProvider, *urls: str, control: Signal | None = None) -> list[Outcome]:
    messages = [outgoing(number, address=url) for number, url in enumerate(urls)]
    return provider.deliver(messages, control or Signal())


HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "127.255.255.254",
    "0.0.0.0",
    "0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1%25lo]",
    "%31%32%37.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "100.64.0.1",
    "192.168.1.1",
    "224.0.0.1",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", HOSTS)
def test_an_address_inside_is_never_connected_to(make: Make, sink: Sink, host: str) -> None:
    control = Signal()
    [outcome] = send(make(), f"http://{host}:{sink.port}/", control=control)
    assert isinstance(outcome, Failed)
    # Not resolved, not reachable or refused: in no case a connection, and nothing said about what is inside.
    assert outcome.category in {"forbidden_destination", "resolve"}
    assert "127" not in outcome.detail
    assert sink.summary()["connections"] == 0
    if outcome.category == "forbidden_destination":
        assert outcome.kind is FailureKind.PERMANENT
        assert control.noted == []


def test_the_plain_forms_are_refused_for_good(make: Make, sink: Sink) -> None:
    urls = [f"http://{host}:{sink.port}/" for host in HOSTS[:19]]
    outcomes = send(make(), *urls)
    assert {outcome.category for outcome in outcomes if isinstance(outcome, Failed)} == {
        "forbidden_destination"
    }
    assert len(outcomes) == 19


def test_networks_of_ones_own_can_be_allowed(make: Make, sink: Sink) -> None:
    provider = make(allowed_networks=("127.0.0.0/8",))
    assert send(provider, sink.url, f"http://2130706433:{sink.port}/") == [Accepted(NOW)] * 2
    outcomes = send(provider, f"http://[::1]:{sink.port}/", f"http://[::ffff:127.0.0.1]:{sink.port}/")
    assert [outcome.category for outcome in outcomes if isinstance(outcome, Failed)] == [
        "forbidden_destination"
    ] * 2


def test_other_ports_than_the_allowed_are_refused(make: Make, sink: Sink) -> None:
    provider = make(allowed_networks=("127.0.0.0/8",), allowed_ports=frozenset({80, 443}))
    [outcome] = send(provider, sink.url)
    assert isinstance(outcome, Failed)
    assert outcome.category == "forbidden_destination"
    assert sink.summary()["connections"] == 0


def test_a_redirect_inside_is_not_followed(make: Make, sink: Sink) -> None:
    with running_sink() as inside:
        sink.answer_by = lambda _: Answer(status=302, headers=(f"Location: {inside.url}",))
        [outcome] = send(make(allowed_networks=("127.0.0.1/32",)), sink.url)
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.category) == (FailureKind.PERMANENT, "http_302")
        assert inside.summary()["connections"] == 0


def test_connections_that_were_allowed_are_used_again_and_none_is_left_open(make: Make, sink: Sink) -> None:
    provider = make(allowed_networks=("127.0.0.1/32",), concurrency=1)
    for _ in range(3):
        assert send(provider, *[sink.url] * 5) == [Accepted(NOW)] * 5
    assert sink.summary()["connections"] == 1
    # libcurl has a duplicate of each socket that was opened for it.
    transport = provider._transport
    assert isinstance(transport, Transfers)
    assert [transfer._opened for transfer in transport._idle] == [[]]


def test_a_refused_connection_to_an_allowed_address_may_be_tried_again(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    [outcome] = send(
        make(allowed_networks=("127.0.0.1/32",), allowed_ports=frozenset({port})), f"http://127.0.0.1:{port}/"
    )
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.category) == (FailureKind.RETRYABLE, "connect")
    assert str(port) not in outcome.detail


def test_a_name_with_an_address_inside_and_one_that_is_allowed_uses_that(make: Make, sink: Sink) -> None:
    """`localhost` has both ::1 and 127.0.0.1 on most machines; refusing one leaves the other."""
    assert send(make(allowed_networks=("127.0.0.1/32",)), f"http://localhost:{sink.port}/") == [Accepted(NOW)]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "gopher://127.0.0.1/", "dict://127.0.0.1:11211/", "", "http://u:p@127.0.0.1/"],
)
def test_other_schemes_and_logins_are_no_urls(make: Make, url: str) -> None:
    [outcome] = send(make(), url)
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.category) == (FailureKind.PERMANENT, "invalid_url")


def test_a_network_that_is_none_is_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError):
        make(allowed_networks=("10.0.0.1/8",))
