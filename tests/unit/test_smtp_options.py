"""What the smtp adapter takes, and what it refuses with one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from scheduler.clock import SystemClock
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry
from tests.fixtures.messages import outgoing
from worker.channels.context import ProviderContext
from worker.channels.port import FailureKind
from worker.channels.smtp import build
from worker.channels.smtp_provider import SmtpProvider
from worker.channels.smtp_reply import Step, detail_of_reply, is_positive, kind_of_reply


def built(**options: Any) -> SmtpProvider:
    given = {"host": "mail.example.com", "from_address": "hello@example.com"} | options
    context = ProviderContext(SystemClock(), create_engine("postgresql+psycopg://"), Path("unused"))
    provider = build(ProviderEntry("relay", "smtp", given), context)
    assert isinstance(provider, SmtpProvider)
    provider.close()
    return provider


@pytest.mark.parametrize(("tls", "port"), [("starttls", 587), ("implicit", 465), ("none", 25)])
def test_the_port_follows_from_the_protection(tls: str, port: int) -> None:
    [connection, *others] = built(tls=tls)._idle
    assert len(others) == 3
    assert connection._relay.port == port


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"host": "mail example"}, "host takes the name or the IP address of a host"),
        ({"from_address": "hello"}, "from_address takes an e-mail address whose part before the @ is ASCII"),
        ({"from_address": "zoë@example.com"}, "from_address takes an e-mail address"),
        ({"from_name": "a\r\nBcc: b"}, "from_name the name holds control characters"),
        ({"port": 0}, "port "),
        ({"tls": "maybe"}, "tls "),
        ({"conections": 4}, "conections unknown field 'conections'"),
        ({"username": "a"}, "username and password are given together or not at all"),
        (
            {"username": "a", "password": "geheim"} | {"tls": "none"},
            'with tls = "none" a password goes to this',
        ),
        ({"username": "a", "password": "schlüssel"}, "username and password take visible ASCII characters"),
        ({"certificate_authorities": "missing.pem"}, "certificate_authorities missing.pem cannot be read"),
    ],
)
def test_a_wrong_option_is_one_line_without_secrets(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        built(**options)
    line = str(caught.value)
    assert line.startswith("provider relay (smtp): ")
    assert complaint in line
    assert "\n" not in line
    assert not any(secret in line for secret in ("geheim", "schlüssel"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_password_may_go_to_this_machine_in_the_clear(host: str) -> None:
    built(host=host, tls="none", username=SecretStr("a"), password=SecretStr("b"))


@pytest.mark.parametrize(
    ("step", "code", "kind"),
    [
        (Step.SESSION, 421, FailureKind.RETRYABLE),
        (Step.SESSION, 454, FailureKind.RETRYABLE),
        (Step.SESSION, 554, FailureKind.PROVIDER),
        (Step.SENDER, 550, FailureKind.PROVIDER),
        (Step.SENDER, 552, FailureKind.PERMANENT),
        (Step.RECIPIENT, 550, FailureKind.PERMANENT),
        (Step.RECIPIENT, 535, FailureKind.PROVIDER),
        (Step.DATA, 250, FailureKind.RETRYABLE),
        (Step.FINAL_DOT, 451, FailureKind.RETRYABLE),
        (Step.FINAL_DOT, 554, FailureKind.PERMANENT),
        (Step.FINAL_DOT, 354, FailureKind.UNKNOWN),
        (Step.FINAL_DOT, -1, FailureKind.UNKNOWN),
    ],
)
def test_whom_a_refusal_concerns(step: Step, code: int, kind: FailureKind) -> None:
    assert not is_positive(step, code)
    assert kind_of_reply(step, code) is kind


def test_a_detail_names_no_address_and_nothing_of_the_message() -> None:
    said = b"5.1.1 <ann1@example.org>: ann1 unknown at postmaster@other.example,\nsubject Happy Birthday"
    assert detail_of_reply(550, said, outgoing(1)) == (
        "SMTP 550: 5.1.1 [...]: […] unknown at [...] subject […]"
    )
    assert detail_of_reply(421, b"", None) == "SMTP 421"


@pytest.mark.parametrize(
    ("step", "said", "kind"),
    [
        (Step.RECIPIENT, b"5.7.1 <ann@example.org>: Relay access denied", FailureKind.PROVIDER),
        (Step.RECIPIENT, b"5.7.1 Client host rejected: Access denied", FailureKind.PROVIDER),
        (
            Step.RECIPIENT,
            b"5.7.1 Service unavailable; Client host [192.0.2.1] blocked using a list",
            FailureKind.PROVIDER,
        ),
        (Step.RECIPIENT, b"5.1.1 <ann@example.org>: Recipient address rejected", FailureKind.PERMANENT),
        (Step.FINAL_DOT, b"5.7.1 relay access denied, says the text of this message", FailureKind.PERMANENT),
    ],
)
def test_a_refusal_of_us_that_was_put_off_to_the_recipient_is_the_providers(
    step: Step, said: bytes, kind: FailureKind
) -> None:
    assert kind_of_reply(step, 554, said) is kind
