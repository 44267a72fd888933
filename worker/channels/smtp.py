"""The adapter `smtp`: what it takes in the providers file, and how a provider is made of it.

What it promises when it delivers is said in `smtp_provider.py`.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from worker.channels.context import ProviderContext
from worker.channels.mail import MailSender, ascii_address
from worker.channels.options import ProviderOptions, parse_options
from worker.channels.port import Provider
from worker.channels.smtp_provider import SmtpLimits, SmtpProvider
from worker.channels.smtp_session import Relay, Tls

MOST_CONNECTIONS: Final = 64

_PORTS: Final = {Tls.STARTTLS: 587, Tls.IMPLICIT: 465, Tls.NONE: 25}


def _host_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", value):
        raise ValueError("takes the name or the IP address of a host")
    return value


def _sender_address(value: str) -> str:
    try:
        is_ascii = ascii_address(value).isascii()
    except ValueError:
        is_ascii = False
    if not is_ascii:
        raise ValueError("takes an e-mail address whose part before the @ is ASCII")
    return value


_HostName = Annotated[str, AfterValidator(_host_name)]
_SenderAddress = Annotated[str, AfterValidator(_sender_address)]
_Seconds = Annotated[float, Field(gt=0, le=3600)]


class SmtpOptions(ProviderOptions):
    """What the adapter takes. Only `host` and `from_address` must be given."""

    host: _HostName
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """None: 587 with STARTTLS, 465 with implicit TLS, 25 with none."""
    tls: Tls = Tls.STARTTLS
    certificate_authorities: Path | None = None
    """A file of PEM certificates, instead of the system's."""
    username: SecretStr | None = None
    password: SecretStr | None = None
    from_address: _SenderAddress
    from_name: Annotated[str, StringConstraints(max_length=100)] = ""
    reply_to: _SenderAddress | None = None
    bounce_address: _SenderAddress | None = None
    ehlo_name: _HostName | None = None
    connections: Annotated[int, Field(ge=1, le=MOST_CONNECTIONS)] = 4
    connect_timeout_seconds: _Seconds = 10.0
    total_timeout_seconds: _Seconds = 60.0
    """For one message in all. Relays may think about a message for long: too short a time makes copies."""
    batch_timeout_seconds: _Seconds = 60.0
    """After so long no further message of a batch is begun; they are handed back."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password are given together or not at all")
        for secret in filter(None, (self.username, self.password)):
            if not re.fullmatch(r"[\x20-\x7e]{1,500}", secret.get_secret_value()):
                raise ValueError("username and password take visible ASCII characters")
        if self.username is not None and self.tls is Tls.NONE and not _is_loopback(self.host):
            raise ValueError(
                'with tls = "none" a password goes to this machine only (localhost, 127.0.0.1, ::1)'
            )
        return self


def build(entry: ProviderEntry, context: ProviderContext) -> Provider:
    """The provider of `entry`. Raises ConfigurationError; connects to nothing."""
    options = parse_options(SmtpOptions, entry)
    try:
        sender = MailSender(options.from_address, options.from_name, options.reply_to, options.bounce_address)
    except ValueError as error:
        raise ConfigurationError(f"provider {entry.name} (smtp): from_name {error}") from None
    relay = Relay(
        host=options.host,
        port=options.port or _PORTS[options.tls],
        tls=options.tls,
        tls_context=_tls_context(entry.name, options.certificate_authorities),
        connect_timeout_seconds=options.connect_timeout_seconds,
        ehlo_name=options.ehlo_name,
        username=options.username,
        password=options.password,
    )
    limits = SmtpLimits(options.connections, options.total_timeout_seconds, options.batch_timeout_seconds)
    return SmtpProvider(entry.name, relay, sender, limits, context.clock, context.slots)


def _tls_context(name: str, authorities: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(
            f"provider {name} (smtp): certificate_authorities {authorities} cannot be read as PEM certificates"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
