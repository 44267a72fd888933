"""One connection to a mail relay: opened, kept, and used for one message after the other.

smtplib speaks the protocol; how long it waits is decided here. Its own timeout starts anew with every byte, so a
relay that sends one now and then would hold it for ever. Here each attempt has a `Patience`: an end, and a way to
be given up from another thread, both looked at many times a second.

After the final dot the relay may have taken the message over although no answer comes: that outcome is unknown.
Before it, nothing was accepted, whatever happened (RFC 5321 §4.1.1.4).
"""

from __future__ import annotations

import select
import smtplib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import SecretStr

from scheduler.clock import Clock
from worker.channels.mail import Mail
from worker.channels.port import FailureKind
from worker.channels.smtp_reply import (
    LONGEST_REPLY,
    Step,
    category_of_reply,
    is_positive,
    kind_of_reply,
)

_SLICE_SECONDS: Final = 0.1  # how long nobody looks whether to go on waiting
_GOODBYE_SECONDS: Final = 0.5
_READ_BYTES: Final = 8192
_CLOSING: Final = 421  # RFC 5321 §3.8: the server is about to close the connection


class Tls(StrEnum):
    """How a connection is protected."""

    STARTTLS = "starttls"
    """By STARTTLS (RFC 3207); a relay that does not offer it is not used."""

    IMPLICIT = "implicit"
    """From the first byte (RFC 8314 §3)."""

    NONE = "none"
    """Not at all."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The server that takes messages over, and how it is reached."""

    host: str
    port: int
    tls: Tls
    tls_context: ssl.SSLContext = field(repr=False)
    connect_timeout_seconds: float
    ehlo_name: str | None = None
    """What to call ourselves; None: the address literal of our side of the connection (RFC 5321 §4.1.4)."""
    username: SecretStr | None = None
    password: SecretStr | None = None


class GivenUp(Exception):
    """Somebody has ended the attempt; `may_have_arrived` once the final dot was sent."""

    def __init__(self, *, may_have_arrived: bool = False) -> None:
        self.may_have_arrived = may_have_arrived
        super().__init__()


class SmtpFailure(Exception):
    """An attempt that did not end in an acceptance. `code` and `said` are the reply's, if there was one.

    `is_stale`: the connection had ended before anything of the message was sent. `was_asked`: the relay's
    condition shows in it.
    """

    def __init__(
        self,
        kind: FailureKind,
        category: str,
        detail: str = "",
        *,
        code: int | None = None,
        said: bytes = b"",
        is_stale: bool = False,
        was_asked: bool = True,
    ) -> None:
        self.kind = kind
        self.category = category
        self.detail = detail
        self.code = code
        self.said = said
        self.is_stale = is_stale
        self.was_asked = was_asked
        super().__init__(category)


class _TooLate(Exception):
    """The time for the attempt is over."""


class Patience:
    """How long an attempt may go on: until an instant of the monotonic clock, or until it is given up."""

    def __init__(self, clock: Clock, until: float, is_given_up: Callable[[], bool]) -> None:
        self._clock = clock
        self._until = until
        self._is_given_up = is_given_up

    def left_seconds(self) -> float:
        """How long it may still go on. Raises GivenUp or _TooLate if no longer."""
        if self._is_given_up():
            raise GivenUp
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise _TooLate
        return left

    def slice_seconds(self) -> float:
        """How long to wait before asking again. Raises as `left_seconds`."""
        return min(self.left_seconds(), _SLICE_SECONDS)


class SmtpSession(smtplib.SMTP):
    """A connection that has been greeted, protected and logged in; used by one thread at a time."""

    def __init__(self, relay: Relay, patience: Patience) -> None:
        """Open it. Raises SmtpFailure or GivenUp; then nothing is left open."""
        super().__init__(local_hostname="localhost")  # else smtplib asks the name service for ours
        self._host = relay.host  # whom the certificate must be of, as smtplib has it
        self._relay = relay
        self._patience = patience
        self._unread = b""
        self._step = Step.SESSION
        self._must_reset = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def is_quiet(self) -> bool:
        """Whether it stands open with nothing to read: what a server says unasked is goodbye."""
        if self.sock is None or self._unread:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def send_mail(self, mail: Mail, patience: Patience) -> None:
        """Hand a message over; that this returns is the acceptance.

        Raises SmtpFailure or GivenUp. The session is closed then, unless the relay just said no.
        """
        self._patience = patience
        self._step = Step.SENDER
        try:
            self._transact(mail)
        except SmtpFailure as failure:
            self._must_reset = True
            if failure.code is None or not 400 <= failure.code <= 599 or failure.code == _CLOSING:
                self.close()
            raise
        except GivenUp:
            self.close()
            raise GivenUp(may_have_arrived=self._step is Step.FINAL_DOT) from None
        except (OSError, smtplib.SMTPException, _TooLate) as error:
            self.close()
            raise self._lost(error) from None

    def say_goodbye(self, clock: Clock) -> None:
        """Close it, with QUIT where the relay still listens."""
        self._patience = Patience(clock, clock.monotonic() + _GOODBYE_SECONDS, lambda: False)
        try:
            if self.sock is not None:
                self.quit()
        except (OSError, smtplib.SMTPException, _TooLate):
            self._must_reset = True
        finally:
            self.close()

    def send(self, s: bytes | str) -> None:  # type: ignore[override]  # typeshed: any buffer
        """Send all of it within the attempt's patience. Raises SMTPServerDisconnected."""
        left = memoryview(s.encode(self.command_encoding) if isinstance(s, str) else s)
        while left:
            sock = self._connected()
            sock.settimeout(self._patience.slice_seconds())
            try:
                left = left[sock.send(left) :]
            except TimeoutError:
                continue
            except OSError:
                raise smtplib.SMTPServerDisconnected("connection lost while sending") from None

    def getreply(self) -> tuple[int, bytes]:
        """The code and the text of a reply, all lines of it; -1 for what is none. Raises SMTPServerDisconnected."""
        said: list[bytes] = []
        read_bytes = 0
        while True:
            line = self._read_line()
            read_bytes += len(line)
            if not line[:3].isdigit() or line[3:4] not in (b"", b" ", b"-") or read_bytes > LONGEST_REPLY:
                return -1, b"\n".join(said)
            said.append(line[4:].strip())
            if line[3:4] != b"-":
                return int(line[:3]), b"\n".join(said)

    def _open(self) -> None:
        self.sock = _connect(self._relay, self._patience)
        try:
            if self._relay.tls is Tls.IMPLICIT:
                self._begin_tls(lambda: self._wrap())
            self._expect(*self.getreply())
            self.local_hostname = self._relay.ehlo_name or _address_literal(self._connected())
            self.ehlo_or_helo_if_needed()
            if self._relay.tls is Tls.STARTTLS:
                self._begin_tls(lambda: self.starttls(context=self._relay.tls_context))
                self.ehlo_or_helo_if_needed()
            self._log_in()
        except smtplib.SMTPResponseException as refused:
            said = refused.smtp_error
            self._expect(refused.smtp_code, said.encode() if isinstance(said, str) else said)
            raise AssertionError("unreachable: smtplib raises it for refusals only") from None
        except (OSError, smtplib.SMTPServerDisconnected, _TooLate) as error:
            raise self._lost(error) from None

    def _wrap(self) -> None:
        self.sock = self._relay.tls_context.wrap_socket(self._connected(), server_hostname=self._relay.host)

    def _begin_tls(self, begin: Callable[[], object]) -> None:
        """Change to TLS. What the server had said before, unprotected, is forgotten with its features."""
        self._connected().settimeout(min(self._relay.connect_timeout_seconds, self._patience.left_seconds()))
        try:
            begin()
        except smtplib.SMTPNotSupportedError:
            detail = 'the relay offers no STARTTLS; tls = "none" would send in the clear'
            raise SmtpFailure(FailureKind.PROVIDER, "starttls_missing", detail) from None
        except ssl.SSLCertVerificationError as error:
            detail = f"the relay's certificate is not accepted: {error.verify_message}"
            raise SmtpFailure(FailureKind.PROVIDER, "tls_certificate", detail) from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError):
            raise SmtpFailure(FailureKind.RETRYABLE, "tls", "the TLS handshake broke off") from None
        except ssl.SSLError as error:
            detail = f"no TLS session with the relay: {error.reason}"
            raise SmtpFailure(FailureKind.PROVIDER, "tls", detail) from None
        if self._unread:
            raise SmtpFailure(FailureKind.PROVIDER, "tls", "the relay sent more before TLS than it was asked")

    def _log_in(self) -> None:
        relay = self._relay
        if relay.username is None or relay.password is None:
            return
        try:
            self.login(relay.username.get_secret_value(), relay.password.get_secret_value())
        except (smtplib.SMTPServerDisconnected, smtplib.SMTPResponseException):
            raise
        except smtplib.SMTPException:
            detail = "the relay offers no way to log in that is known here (CRAM-MD5, PLAIN, LOGIN)"
            raise SmtpFailure(FailureKind.PROVIDER, "auth_missing", detail) from None

    def _transact(self, mail: Mail) -> None:
        if self._must_reset:
            self._command("RSET")
            self._must_reset = False
        self.command_encoding = "utf-8" if mail.needs_utf8 else "ascii"
        self._command("MAIL", f"FROM:<{mail.sender}>{self._options(mail)}")
        self._step = Step.RECIPIENT
        self._command("RCPT", f"TO:<{mail.recipient}>")
        self._step = Step.DATA
        self._command("DATA")
        self.send(mail.content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        # Until the last of it has left, the message has no end, and nothing without an end is accepted.
        self._step = Step.FINAL_DOT
        self._expect(*self.getreply())

    def _options(self, mail: Mail) -> str:
        """The parameters of MAIL (RFC 1870, RFC 6531). Raises SmtpFailure for what this relay cannot take."""
        options = ""
        if self.has_extn("size"):
            most = self.esmtp_features["size"]
            if most.isdecimal() and 0 < int(most) < len(mail.content):
                raise SmtpFailure(
                    FailureKind.PERMANENT,
                    "too_large",
                    f"{len(mail.content)} bytes, where the relay takes {most}",
                    was_asked=False,
                )
            options += f" SIZE={len(mail.content)}"
        if mail.needs_utf8:
            if not self.has_extn("smtputf8"):
                detail = "the address is not in ASCII, and the relay offers no SMTPUTF8"
                raise SmtpFailure(FailureKind.PERMANENT, "smtputf8_missing", detail, was_asked=False)
            options += " SMTPUTF8 BODY=8BITMIME"
        return options

    def _command(self, name: str, arguments: str = "") -> None:
        self._expect(*self.docmd(name, arguments))

    def _expect(self, code: int, said: bytes) -> None:
        """Raise SmtpFailure unless the server goes along with the present step."""
        if is_positive(self._step, code):
            return
        raise SmtpFailure(
            kind_of_reply(self._step, code, said),
            category_of_reply(code),
            code=code,
            said=said,
            is_stale=self._step is Step.SENDER and code == _CLOSING,
        )

    def _lost(self, error: Exception) -> SmtpFailure:
        """What it means that no answer came."""
        is_unknown = self._step is Step.FINAL_DOT
        is_late = isinstance(error, _TooLate)
        return SmtpFailure(
            FailureKind.UNKNOWN if is_unknown else FailureKind.RETRYABLE,
            "timeout" if is_late else "connection_lost",
            f"{'no answer' if is_late else 'the connection ended'} "
            f"{'after the message was sent' if is_unknown else 'before the message was sent'}",
            is_stale=self._step is Step.SENDER and not is_late,
        )

    def _read_line(self) -> bytes:
        while b"\n" not in self._unread and len(self._unread) <= LONGEST_REPLY:
            sock = self._connected()
            sock.settimeout(self._patience.slice_seconds())
            try:
                data = sock.recv(_READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                raise smtplib.SMTPServerDisconnected("connection lost while reading")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.rstrip(b"\r")

    def _connected(self) -> socket.socket:
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        return self.sock


def _connect(relay: Relay, patience: Patience) -> socket.socket:
    """A connection to the first address that answers."""
    try:
        found = socket.getaddrinfo(relay.host, relay.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        detail = "the relay's name has no address"
        raise SmtpFailure(FailureKind.RETRYABLE, "resolve", detail) from None
    failure: Exception = OSError("no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(relay.connect_timeout_seconds, patience.left_seconds()))
            sock.connect(address)
            # Two small packets in a row would else wait for each other's acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except GivenUp:
            sock.close()
            raise
        except (OSError, _TooLate) as error:
            sock.close()
            failure = error
        else:
            return sock
    is_late = isinstance(failure, TimeoutError | _TooLate)
    raise SmtpFailure(
        FailureKind.RETRYABLE, "connect_timeout" if is_late else "connect", "the relay cannot be reached"
    )


def _address_literal(sock: socket.socket) -> str:
    address = sock.getsockname()[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
