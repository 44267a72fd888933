"""The smtp adapter against a real mail server: what arrives, over which connections, how it is protected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from scheduler.clock import SystemClock
from scheduler.provider_settings import ProviderEntry
from tests.fixtures.mail_servers import (
    HOST,
    PASSWORD,
    USER,
    Certificate,
    mail_server,
    make_certificate,
)
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from worker.channels.context import ProviderContext
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome, Provider
from worker.channels.slots import RequestSlots
from worker.channels.smtp import build

Make = Callable[..., Provider]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def make() -> Iterator[Make]:
    """Builds providers as a worker does, and closes them."""
    with ExitStack() as stack:

        def made(port: int, slots: RequestSlots | None = None, **options: Any) -> Provider:
            given = {"host": HOST, "port": port, "tls": "none", "from_address": "hello@example.com"} | options
            context = ProviderContext(
                SystemClock(), create_engine("postgresql+psycopg://"), Path("unused"), slots
            )
            provider = build(ProviderEntry("relay", "smtp", given), context)
            stack.callback(provider.close)
            return provider

        yield made


def failure(outcome: Outcome) -> tuple[FailureKind, str]:
    assert isinstance(outcome, Failed)
    return outcome.kind, outcome.category


def test_a_message_arrives_as_it_was_written(make: Make) -> None:
    with mail_server() as server:
        message = replace(
            outgoing(1, subject="Alles Gute, Zoë 🎂", text=".\nHallo Zoë,\n.hidden\n..\nFrom us\n"),
            html="<p>Hallo <b>Zoë</b></p>",
            unsubscribe_url="https://example.com/unsubscribe/" + "t" * 90,
        )
        provider = make(server.port, from_name="Bücher & Co", reply_to="help@example.com")
        control = Signal()
        [outcome] = provider.deliver([message], control)
    assert isinstance(outcome, Accepted)
    assert control.noted == [outcome]
    [mail] = server.mails
    assert (mail.sender, mail.recipients) == ("hello@example.com", ("ann1@example.org",))
    received = mail.message
    assert received["From"] == "Bücher & Co <hello@example.com>"
    assert received["To"] == "Annabel <ann1@example.org>"
    assert received["Reply-To"].addresses[0].addr_spec == "help@example.com"
    assert received["Subject"] == message.subject
    assert received["Message-ID"] == "<daybreak.7.1.20270228.0.email@example.com>"
    assert received["List-Unsubscribe"] == f"<{message.unsubscribe_url}>"
    assert received["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert received["Auto-Submitted"] == "auto-generated"
    text, html = received.get_body(("plain",)), received.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == message.text
    assert html.get_content() == f"{message.html}\r\n"
    assert all(len(line) <= 998 and line.isascii() for line in mail.content.split(b"\r\n"))
    assert b"\n" not in mail.content.replace(b"\r\n", b"")


def test_every_attempt_has_the_same_message_id(make: Make) -> None:
    with mail_server() as server:
        provider = make(server.port)
        for _ in range(2):
            provider.deliver([outgoing(1)], Signal())
    first, second = (mail.message["Message-ID"] for mail in server.mails)
    assert first == second


def test_a_batch_goes_over_connections_that_stay_open(make: Make) -> None:
    with mail_server() as server:
        provider = make(server.port, connections=3)
        for _ in range(2):
            outcomes = provider.deliver(outgoing_many(60), Signal())
            assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert sorted(server.ids) == sorted([message.id for message in outgoing_many(60)] * 2)
    assert 1 <= len({mail.port for mail in server.mails}) <= 3


def test_one_refused_recipient_leaves_the_others_alone(make: Make) -> None:
    with mail_server() as server:
        server.refusals = {
            "ann1@example.org": "550 5.1.1 <ann1@example.org>: no such user ann1",
            "ann3@example.org": "450 4.2.1 try later",
        }
        control = Signal()
        outcomes = make(server.port, connections=1).deliver(outgoing_many(5), control)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Failed, Accepted, Failed, Accepted]
    assert failure(outcomes[1]) == (FailureKind.PERMANENT, "smtp_550")
    assert failure(outcomes[3]) == (FailureKind.RETRYABLE, "smtp_450")
    assert isinstance(outcomes[1], Failed)
    assert outcomes[1].detail.startswith("SMTP 550: 5.1.1 ")
    assert "ann1" not in outcomes[1].detail
    assert len(control.noted) == 5
    assert len({mail.port for mail in server.mails}) == 1


def test_what_cannot_be_sent_is_not_and_shows_nothing_of_the_relay(make: Make) -> None:
    with mail_server() as server:
        control = Signal()
        outcomes = make(server.port).deliver(
            [
                outgoing(1, subject="=?utf-8?q?hi=0d=0aBcc:_evil@example.org?="),
                outgoing(2, address="ann@example.org>\r\nRCPT TO:<evil@example.org"),
                outgoing(3),
                outgoing(4, address="+4930123456"),
            ],
            control,
        )
    assert failure(outcomes[0]) == (FailureKind.PERMANENT, "header_injection")
    assert failure(outcomes[1]) == (FailureKind.PERMANENT, "header_injection")
    assert failure(outcomes[3]) == (FailureKind.PERMANENT, "invalid_address")
    assert server.ids == [outgoing(3).id]
    assert control.noted == [outcomes[2]]


def test_an_internationalised_address_needs_a_relay_that_takes_it(make: Make) -> None:
    message = outgoing(1, address="zoë@bücher.example")
    with mail_server(enable_SMTPUTF8=True) as server:
        assert isinstance(make(server.port).deliver([message], Signal())[0], Accepted)
    assert server.mails[0].recipients == ("zoë@xn--bcher-kva.example",)
    assert "zoë@xn--bcher-kva.example".encode() in server.mails[0].content
    with mail_server() as server:
        control = Signal()
        [outcome] = make(server.port).deliver([message], control)
        # Its domain alone needs nothing but ASCII.
        make(server.port).deliver([outgoing(2, address="zoe@bücher.example")], Signal())
    assert failure(outcome) == (FailureKind.PERMANENT, "smtputf8_missing")
    assert control.noted == []
    assert [mail.recipients for mail in server.mails] == [("zoe@xn--bcher-kva.example",)]


def test_what_is_too_large_for_the_relay_is_not_sent(make: Make) -> None:
    with mail_server(data_size_limit=5_000) as server:
        provider = make(server.port, connections=1)
        outcomes = provider.deliver([outgoing(1, text="x" * 6_000), outgoing(2)], Signal())
    assert failure(outcomes[0]) == (FailureKind.PERMANENT, "too_large")
    assert server.ids == [outgoing(2).id]


@pytest.mark.parametrize(("tls", "implicit"), [("starttls", False), ("implicit", True)])
def test_it_logs_in_over_tls(make: Make, certificate: Certificate, tls: str, implicit: bool) -> None:
    with mail_server(certificate=certificate, implicit_tls=implicit) as server:
        provider = make(
            server.port,
            tls=tls,
            certificate_authorities=str(certificate.path),
            username=USER,
            password=SecretStr(PASSWORD),
        )
        outcomes = provider.deliver(outgoing_many(10), Signal())
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(server.mails) == 10


def test_a_wrong_password_is_the_providers_failure(make: Make, certificate: Certificate) -> None:
    with mail_server(certificate=certificate) as server:
        provider = make(
            server.port,
            tls="starttls",
            certificate_authorities=str(certificate.path),
            username=USER,
            password=SecretStr("wrong"),
        )
        control = Signal()
        [outcome] = provider.deliver([outgoing(1)], control)
    assert failure(outcome) == (FailureKind.PROVIDER, "smtp_535")
    assert "wrong" not in str(outcome)
    assert control.noted == [outcome]


def test_a_relay_that_wants_a_password_it_is_not_given(make: Make, certificate: Certificate) -> None:
    with mail_server(certificate=certificate) as server:
        provider = make(server.port, tls="starttls", certificate_authorities=str(certificate.path))
        [outcome] = provider.deliver([outgoing(1)], Signal())
    assert failure(outcome) == (FailureKind.PROVIDER, "smtp_530")


def test_a_certificate_that_nobody_vouches_for_is_the_providers_failure(
    make: Make, certificate: Certificate
) -> None:
    for tls, implicit in (("starttls", False), ("implicit", True)):
        with mail_server(certificate=certificate, implicit_tls=implicit) as server:
            [outcome] = make(server.port, tls=tls).deliver([outgoing(1)], Signal())
        assert failure(outcome) == (FailureKind.PROVIDER, "tls_certificate")


def test_a_certificate_of_another_host_is_not_accepted(make: Make, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "127.0.0.9")
    with mail_server(certificate=other) as server:
        provider = make(server.port, tls="starttls", certificate_authorities=str(other.path))
        [outcome] = provider.deliver([outgoing(1)], Signal())
    assert failure(outcome) == (FailureKind.PROVIDER, "tls_certificate")


def test_nothing_is_sent_in_the_clear_unless_that_was_asked_for(make: Make) -> None:
    with mail_server() as server:
        [outcome] = make(server.port, tls="starttls").deliver([outgoing(1)], Signal())
    assert failure(outcome) == (FailureKind.PROVIDER, "starttls_missing")
    assert server.mails == []


def test_after_the_stop_nothing_is_begun(make: Make) -> None:
    with mail_server() as server:
        outcomes = make(server.port, connections=1).deliver(outgoing_many(5), Signal(starts=2))
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 2 + [NotAttempted] * 3
    assert len(server.mails) == 2


def test_slots_are_shared_and_given_back(make: Make) -> None:
    slots = RequestSlots(1)
    with mail_server() as server:
        outcomes = make(server.port, slots).deliver(outgoing_many(6), Signal())
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert slots.take()
    assert not slots.take()


def test_without_a_slot_the_batch_is_handed_back_in_time(make: Make) -> None:
    slots = RequestSlots(1)
    assert slots.take()
    with mail_server() as server:
        provider = make(server.port, slots, batch_timeout_seconds=0.2)
        assert provider.deliver(outgoing_many(2), Signal()) == [NotAttempted()] * 2


def test_closing_twice_does_no_harm(make: Make) -> None:
    with mail_server() as server:
        provider = make(server.port)
        provider.deliver([outgoing(1)], Signal())
        provider.close()
        provider.close()
