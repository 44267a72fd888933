"""A message as an e-mail: what the standard library reads in it, and what nobody can smuggle into it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Final

import pytest

from tests.fixtures.mail_servers import parsed
from tests.fixtures.messages import outgoing
from worker.channels.mail import MailSender, UnsendableMail, ascii_address, compose
from worker.channels.port import OutgoingMessage

NOW: Final = datetime(2027, 3, 1, 9, 0, 5, tzinfo=UTC)
SENDER: Final = MailSender("hello@example.com", "Daybreak")
HEADERS: Final = [
    *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Daybreak-Id"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
]

# What tries to become a header of its own, as an address book may hold it.
INJECTIONS: Final = [
    "Ann\r\nBcc: evil@example.org",
    "Ann\nBcc: evil@example.org",
    "Ann\rBcc: evil@example.org",
    "Ann\x00",
    "Ann\x85Bcc: evil@example.org",
    "Ann\u2028Bcc: evil@example.org",
    "=?utf-8?q?Ann=0d=0aBcc:_evil@example.org?=",
    "=?utf-8?b?QW5uDQpCY2M6IGV2aWxAZXhhbXBsZS5vcmc=?=",
    "=?iso-8859-1?q?Ann=0aBcc=3A_evil@example.org?=",
    "Ann =?utf-8?q?=0d=0aBcc:?= evil@example.org",
    "=?utf-8?q?=3D=3Futf-8=3Fq=3FAnn=0d=0aBcc=3A=3F=3D?=",
    "=?utf-8?q?=3D=3Futf-8=3Fq=3FAnn=3D0d=3D0aBcc=3A=3F=3D?=",
    "=?utf-7?q?+AA0ACg-Bcc?=",
]


def read(message: OutgoingMessage, sender: MailSender = SENDER) -> EmailMessage:
    return parsed(compose(message, sender, NOW).content)


def named(name: str) -> OutgoingMessage:
    return replace(outgoing(), fields={"full_name": name})


def test_it_has_these_headers_each_once() -> None:
    message = read(outgoing())
    assert message.keys() == HEADERS
    assert message["Date"] == "Mon, 01 Mar 2027 09:00:05 +0000"
    assert message["Message-ID"] == "<daybreak.7.1.20270228.0.email@example.com>"
    assert message.get_content() == "Hey, Ann 1, it's your birthday!\r\n"


@pytest.mark.parametrize("value", INJECTIONS)
def test_control_characters_are_refused_wherever_they_hide(value: str) -> None:
    for message in (
        outgoing(subject=value),
        named(value),
        outgoing(id=value),
        outgoing(address=f"{value}@example.org"),
        replace(outgoing(), unsubscribe_url=f"https://example.org/{value}"),
    ):
        with pytest.raises(UnsendableMail) as caught:
            compose(message, SENDER, NOW)
        assert "evil" not in caught.value.detail
    with pytest.raises(ValueError, match="control characters"):
        MailSender("hello@example.com", value)


@pytest.mark.parametrize(
    "value",
    [
        "Zoë",
        "=?utf-8?q?hello?=",
        "a =? b",
        "\U0001f382 " * 40,
        "long words " * 30,
        "x" * 300,
        "two  blanks",
        'a, b; <c> "d" \\ (e) @ f: g.',
        "日本語の長い名前" * 20,
    ],
)
def test_any_other_text_comes_out_as_it_went_in(value: str) -> None:
    content = compose(replace(named(value), subject=value), SENDER, NOW).content
    message = parsed(content)
    assert message.keys() == HEADERS
    # An encoded word is shown as it was written, not as what it stands for.
    assert message["Subject"] == value.strip()
    # Read by the older parser: the newer one leaves a blank between two words of a name.
    name, address = parseaddr(message_from_bytes(content)["To"])
    assert (str(make_header(decode_header(name))), address) == (value.strip(), "ann1@example.org")


def test_no_line_is_longer_than_mail_allows() -> None:
    message = replace(
        named("Ä" * 100), subject="Ö" * 500, text="u" * 5000 + "\n" + "ü" * 5000, html="<p>" + "x" * 5000
    )
    lines = compose(message, SENDER, NOW).content.split(b"\r\n")
    assert max(map(len, lines)) <= 78


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a\n\n",
        ".\n..\n.x",
        "a\rb\r\nc",
        "From x\n",
        "trailing  \n\t\n",
        "\x0c\x00",
        "=\n",
        "ü\n" * 99,
        "ü " * 999,
    ],
)
def test_a_body_comes_out_as_it_went_in(text: str) -> None:
    plain = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n") + "\n"
    assert read(outgoing(text=text)).get_content().replace("\r\n", "\n") == plain
    both = read(replace(outgoing(text=text), html=text))
    assert both.get_content_type() == "multipart/alternative"
    parts = [part for part in both.iter_parts() if isinstance(part, EmailMessage)]
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    assert [part.get_content().replace("\r\n", "\n") for part in parts] == [plain, plain]


def test_an_unsubscribe_link_stands_whole_in_its_header() -> None:
    url = "https://example.com/unsubscribe/" + "a" * 200
    message = read(replace(outgoing(), unsubscribe_url=url))
    assert message["List-Unsubscribe"] == f"<{url}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert (
        f"List-Unsubscribe: <{url}>\r\n".encode()
        in compose(replace(outgoing(), unsubscribe_url=url), SENDER, NOW).content
    )


def test_one_click_needs_https() -> None:
    message = read(replace(outgoing(), unsubscribe_url="http://localhost:8080/unsubscribe/a"))
    assert "List-Unsubscribe" in message
    assert "List-Unsubscribe-Post" not in message


def test_bounces_and_answers_go_where_they_are_to() -> None:
    sender = MailSender("hello@bücher.example", "Bücher", "help@example.com", "bounces@example.com")
    mail = compose(outgoing(), sender, NOW)
    assert mail.sender == "bounces@example.com"
    message = parsed(mail.content)
    assert message["Reply-To"].addresses[0].addr_spec == "help@example.com"
    assert str(message["From"]) == "Bücher <hello@xn--bcher-kva.example>"
    assert message["Message-ID"].endswith("@xn--bcher-kva.example>")


@pytest.mark.parametrize(
    ("address", "ascii_form"),
    [
        ("Ann@Example.org", "Ann@Example.org"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
        ("a@faß.example", "a@xn--fa-hia.example"),
        ("a@例え。テスト", "a@xn--r8jz45g.xn--zckzah"),
        ("zoë@\uff45xample.org", "zoë@example.org"),
    ],
)
def test_a_domain_is_written_in_ascii(address: str, ascii_form: str) -> None:
    assert ascii_address(address) == ascii_form


@pytest.mark.parametrize(
    "address",
    ["", "ann", "@example.org", "ann@", "a b@example.org", "a@b@example.org", "a@-x.org", "a@x..org",
     "a@" + "ü" * 80 + ".org", "<a@example.org>", "a@example.org, b@example.org", "a@[127.0.0.1]", "+4930123456"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UnsendableMail) as caught:
        compose(outgoing(address=address), SENDER, NOW)
    assert caught.value.category == "invalid_address"


def test_half_a_character_is_refused() -> None:
    for message in (outgoing(text="\ud800"), outgoing(subject="\ud800"), named("\ud800")):
        with pytest.raises(UnsendableMail) as caught:
            compose(message, SENDER, NOW)
        assert caught.value.category == "not_unicode"


def test_a_mail_shows_nothing_of_itself() -> None:
    assert "example" not in repr(compose(outgoing(), SENDER, NOW))
