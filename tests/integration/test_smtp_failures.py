"""The smtp adapter against servers that refuse, hang, trickle and drop: what it makes of it, and what it sends."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from scheduler.clock import Clock, SettableClock, SystemClock
from tests.fixtures.mail_servers import HOST, Deed, Script, make_certificate, scripted_server
from tests.fixtures.messages import Signal, outgoing, outgoing_many
from worker.channels.mail import MailSender
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome
from worker.channels.smtp_provider import LONGEST_IDLE_SECONDS, SmtpLimits, SmtpProvider
from worker.channels.smtp_session import Relay, Tls

Make = Callable[..., SmtpProvider]
RETRYABLE, PERMANENT = FailureKind.RETRYABLE, FailureKind.PERMANENT
PROVIDER, UNKNOWN = FailureKind.PROVIDER, FailureKind.UNKNOWN
NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)
MORE_THAN_IS_BUFFERED = (70 * "x" + "\n") * 100_000


@pytest.fixture
def make() -> Iterator[Make]:
    """Builds providers, and closes them."""
    with ExitStack() as stack:

        def made(
            port: int,
            clock: Clock | None = None,
            tls: Tls = Tls.NONE,
            trusted: Path | None = None,
            **limits: Any,
        ) -> SmtpProvider:
            context = ssl.create_default_context(cafile=trusted)
            relay = Relay(HOST, port, tls, context, connect_timeout_seconds=2.0)
            given = SmtpLimits(**{"connections": 1, "total_timeout_seconds": 5.0} | limits)
            provider = SmtpProvider(
                "relay", relay, MailSender("hi@example.com"), given, clock or SystemClock()
            )
            stack.callback(provider.close)
            return provider

        yield made


@dataclass
class AbandonOnce:
    """Gives up whatever is in flight once something has happened."""

    happened: Event
    noted: list[Outcome] = field(default_factory=list)

    def start_no_more(self) -> bool:
        return self.happened.is_set()

    def abandon(self) -> bool:
        return self.happened.is_set()

    def note(self, outcome: Outcome, began_at: float) -> None:
        self.noted.append(outcome)


def failure(outcome: Outcome) -> tuple[FailureKind, str]:
    assert isinstance(outcome, Failed), outcome
    return outcome.kind, outcome.category


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"CONNECT": b"421 too busy"}, (RETRYABLE, "smtp_421")),
        ({"CONNECT": b"554 go away"}, (PROVIDER, "smtp_554")),
        ({"CONNECT": b"hello there"}, (RETRYABLE, "garbled_answer")),
        ({"CONNECT": Deed.DROP}, (RETRYABLE, "connection_lost")),
        ({"EHLO": b"550 no", "HELO": b"550 no"}, (PROVIDER, "smtp_550")),
        ({"EHLO": b"451 later", "HELO": b"451 later"}, (RETRYABLE, "smtp_451")),
        ({"MAIL": b"451 later"}, (RETRYABLE, "smtp_451")),
        ({"MAIL": b"421 closing"}, (RETRYABLE, "smtp_421")),
        ({"MAIL": b"550 not you"}, (PROVIDER, "smtp_550")),
        ({"MAIL": b"552 too large"}, (PERMANENT, "smtp_552")),
        ({"MAIL": Deed.DROP}, (RETRYABLE, "connection_lost")),
        ({"RCPT": b"450 greylisted"}, (RETRYABLE, "smtp_450")),
        ({"RCPT": b"550 nobody"}, (PERMANENT, "smtp_550")),
        ({"RCPT": b"530 log in"}, (PROVIDER, "smtp_530")),
        ({"RCPT": Deed.RESET}, (RETRYABLE, "connection_lost")),
        ({"DATA": b"451 later"}, (RETRYABLE, "smtp_451")),
        ({"DATA": b"554 no valid recipients"}, (PERMANENT, "smtp_554")),
        ({"DATA": b"250 what"}, (RETRYABLE, "smtp_250")),
        ({"DATA": Deed.DROP}, (RETRYABLE, "connection_lost")),
        ({".": b"421 closing"}, (RETRYABLE, "smtp_421")),
        ({".": b"452 disk full"}, (RETRYABLE, "smtp_452")),
        ({".": b"554 spam"}, (PERMANENT, "smtp_554")),
        ({".": b"what?"}, (UNKNOWN, "garbled_answer")),
        ({".": b"354 what?"}, (UNKNOWN, "smtp_354")),
        ({".": Deed.DROP}, (UNKNOWN, "connection_lost")),
        ({".": Deed.RESET}, (UNKNOWN, "connection_lost")),
    ],
)
def test_each_refusal_and_loss_is_what_the_table_says(
    make: Make, script: Script, expected: tuple[FailureKind, str]
) -> None:
    with scripted_server(script) as server:
        control = Signal()
        [outcome] = make(server.port).deliver([outgoing(1)], control)
    assert failure(outcome) == expected
    assert control.noted == [outcome]
    assert len(server.told) == 1
    assert len(server.contents) == ("." in script)


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("deed", [Deed.HANG, Deed.TRICKLE])
def test_no_server_holds_a_message_for_longer_than_its_time(make: Make, step: str, deed: Deed) -> None:
    clock = SystemClock()
    with scripted_server({step: deed}) as server:
        began_at = clock.monotonic()
        [outcome] = make(server.port, total_timeout_seconds=0.3).deliver([outgoing(1)], Signal())
        took_seconds = clock.monotonic() - began_at
    assert failure(outcome) == (UNKNOWN if step == "." else RETRYABLE, "timeout")
    assert 0.25 < took_seconds < 3


def test_a_server_that_reads_no_further_holds_nobody(make: Make) -> None:
    with scripted_server({"EHLO": b"250 relay", "BODY": Deed.HANG}) as server:
        provider = make(server.port, total_timeout_seconds=1.5)
        [outcome] = provider.deliver([outgoing(1, text=MORE_THAN_IS_BUFFERED)], Signal())
    assert failure(outcome) == (RETRYABLE, "timeout")


def test_a_message_that_lost_its_connection_before_its_end_was_not_accepted(make: Make) -> None:
    with scripted_server({"EHLO": b"250 relay", "BODY": Deed.RESET}) as server:
        [outcome] = make(server.port).deliver([outgoing(1, text=MORE_THAN_IS_BUFFERED)], Signal())
    assert failure(outcome) == (RETRYABLE, "connection_lost")


def test_a_relay_that_is_not_there(make: Make) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    control = Signal()
    [outcome] = make(port).deliver([outgoing(1)], control)
    assert failure(outcome) == (RETRYABLE, "connect")
    assert control.noted == [outcome]


@pytest.mark.parametrize(
    "first",
    [
        {"MAIL": [b"250 ok", Deed.DROP]},
        {"MAIL": [b"250 ok", Deed.RESET]},
        {"MAIL": [b"250 ok", b"421 too many messages"]},
        {".": b"250 taken over\r\n421 idle for too long"},
    ],
)
def test_a_kept_connection_that_has_ended_is_replaced_unnoticed(make: Make, first: Script) -> None:
    with scripted_server(first, {}) as server:
        provider = make(server.port)
        outcomes = [*provider.deliver([outgoing(1)], Signal()), *provider.deliver([outgoing(2)], Signal())]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(server.told) == 2
    assert len(server.contents) == 2


def test_a_message_is_begun_anew_once_only(make: Make) -> None:
    with scripted_server({"MAIL": [b"250 ok", b"421 closing"]}, {"MAIL": b"421 closing"}) as server:
        provider = make(server.port)
        provider.deliver([outgoing(1)], Signal())
        [outcome] = provider.deliver([outgoing(2)], Signal())
    assert failure(outcome) == (RETRYABLE, "smtp_421")
    assert len(server.told) == 2


def test_what_was_lost_after_the_final_dot_is_not_sent_again(make: Make) -> None:
    with scripted_server({".": [b"250 ok", Deed.DROP]}) as server:
        outcomes = make(server.port).deliver(outgoing_many(3), Signal())
    assert [type(outcome) for outcome in outcomes] == [Accepted, Failed, Accepted]
    assert failure(outcomes[1]) == (UNKNOWN, "connection_lost")
    assert len(server.contents) == 3


def test_a_refusal_is_cleared_before_the_next_message(make: Make) -> None:
    with scripted_server({"RCPT": [b"550 nobody", b"250 ok"]}) as server:
        outcomes = make(server.port).deliver(outgoing_many(2), Signal())
    assert [type(outcome) for outcome in outcomes] == [Failed, Accepted]
    assert server.told == [["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA", "."]]


def test_a_connection_that_was_idle_for_long_is_not_trusted(make: Make) -> None:
    clock = SettableClock(NOW)
    with scripted_server() as server:
        provider = make(server.port, clock)
        for pause in (0, 1, LONGEST_IDLE_SECONDS + 1):
            clock.advance(timedelta(seconds=pause))
            [outcome] = provider.deliver([outgoing(1)], Signal())
            assert outcome == Accepted(clock.now())
    assert [told.count(".") for told in server.told] == [2, 1]
    assert server.told[0][-1] == "QUIT"


def test_an_old_server_without_extensions_will_do(make: Make) -> None:
    with scripted_server({"EHLO": b"502 what?"}) as server:
        [outcome] = make(server.port).deliver([outgoing(1)], Signal())
    assert isinstance(outcome, Accepted)


def test_abandoned_after_the_final_dot_it_is_unknown_and_tells_nothing(make: Make) -> None:
    with scripted_server({".": Deed.HANG}) as server:
        control = AbandonOnce(server.reached)
        [outcome] = make(server.port).deliver([outgoing(1)], control)
    assert failure(outcome) == (UNKNOWN, "abandoned")
    assert control.noted == []


@pytest.mark.parametrize("step", ["CONNECT", "MAIL", "DATA"])
def test_abandoned_before_it_was_not_attempted(make: Make, step: str) -> None:
    with scripted_server({step: Deed.HANG}) as server:
        control = AbandonOnce(server.reached)
        outcomes = make(server.port).deliver(outgoing_many(2), control)
    assert outcomes == [NotAttempted()] * 2
    assert control.noted == []


def test_nobody_waits_for_a_name_service_that_hangs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    released, asked, resolve = Event(), Event(), socket.getaddrinfo

    def hang(*arguments: Any, **named: Any) -> Any:
        asked.set()
        assert released.wait(20)
        return resolve(*arguments, **named)

    with scripted_server() as server:
        provider = make(server.port, connections=2, total_timeout_seconds=0.2)
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        assert provider.deliver([outgoing(1)], AbandonOnce(asked)) == [NotAttempted()]
        control = Signal()
        [outcome] = provider.deliver([outgoing(2)], control)
        assert failure(outcome) == (RETRYABLE, "connect_timeout")
        assert control.noted == [outcome]
        released.set()
        [outcome] = provider.deliver([outgoing(3)], Signal())
        assert isinstance(outcome, Accepted)
    # Those who were left behind have sent nothing once the name was found.
    assert len(server.contents) == 1


def test_a_server_that_speaks_no_tls_is_the_providers_failure(make: Make) -> None:
    with scripted_server() as server:
        [outcome] = make(server.port, tls=Tls.IMPLICIT).deliver([outgoing(1)], Signal())
    assert failure(outcome) == (PROVIDER, "tls")


def test_a_handshake_that_breaks_off_is_tried_again_later(make: Make) -> None:
    with scripted_server({"CONNECT": Deed.DROP}) as server:
        [outcome] = make(server.port, tls=Tls.IMPLICIT).deliver([outgoing(1)], Signal())
    assert isinstance(outcome, Failed)
    assert outcome.kind is RETRYABLE


def test_nothing_said_before_tls_counts_after_it(make: Make, tmp_path: Path) -> None:
    """A third party may have put it between: CVE-2011-0411 the other way round."""
    certificate = make_certificate(tmp_path)
    offer = {"EHLO": b"250-relay\r\n250 STARTTLS"}
    for answer, expected in ((b"220 go", None), (b"220 go\r\n250 injected", (PROVIDER, "tls"))):
        with scripted_server({**offer, "STARTTLS": answer}, tls=certificate.server_context()) as server:
            provider = make(server.port, tls=Tls.STARTTLS, trusted=certificate.path)
            [outcome] = provider.deliver([outgoing(1)], Signal())
        assert isinstance(outcome, Accepted) if expected is None else failure(outcome) == expected


def test_four_connections_hang_together_and_the_batch_ends_in_time(make: Make) -> None:
    clock = SystemClock()
    with scripted_server({"RCPT": Deed.HANG}) as server:
        began_at = clock.monotonic()
        provider = make(server.port, connections=4, total_timeout_seconds=0.3, batch_timeout_seconds=0.5)
        outcomes = provider.deliver(outgoing_many(100), Signal())
        took_seconds = clock.monotonic() - began_at
    assert took_seconds < 3
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds.count(Failed) in (4, 8)
    assert kinds.count(NotAttempted) == 100 - kinds.count(Failed)
