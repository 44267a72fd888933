"""Links to unsubscribe: short, the same each time, and nobody else's."""

from __future__ import annotations

import base64
from typing import Final

import pytest
from pydantic import SecretStr

from scheduler.domain.occasion import Channel
from scheduler.links import InvalidLink, LinkSigner, UnsubscribeLink

KEY: Final = SecretStr("k" * 40)
SIGNER: Final = LinkSigner(KEY, "https://example.com")
LARGEST: Final = 2**63 - 1


def token(channel: Channel = Channel.EMAIL, user_id: int = 12) -> str:
    return SIGNER.unsubscribe_url(1, user_id, channel, 7).rpartition("/")[2]


@pytest.mark.parametrize("channel", Channel)
@pytest.mark.parametrize("user_id", [1, LARGEST])
def test_a_link_says_what_it_was_made_for(channel: Channel, user_id: int) -> None:
    assert SIGNER.read(token(channel, user_id)) == UnsubscribeLink(1, user_id, channel, 7)


def test_a_link_is_short_constant_and_safe_in_a_url() -> None:
    url = SIGNER.unsubscribe_url(1, LARGEST, Channel.WEBHOOK, 2**31 - 1)
    assert url == SIGNER.unsubscribe_url(1, LARGEST, Channel.WEBHOOK, 2**31 - 1)
    assert url.startswith("https://example.com/unsubscribe/")
    assert len(url) < 130
    assert set(token()) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@pytest.mark.parametrize("public_url", ["https://example.com/daybreak", "https://example.com/daybreak/"])
def test_a_path_of_the_public_address_is_kept(public_url: str) -> None:
    url = LinkSigner(KEY, public_url).unsubscribe_url(1, 2, Channel.SMS, 3)
    assert url.startswith("https://example.com/daybreak/unsubscribe/1-2-sms-3.")


def _forgeries() -> list[str]:
    good = token()
    claim, _, signature = good.rpartition(".")
    tail = base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")
    return [
        *(
            "",
            ".",
            good[:-1],
            good + "A",
            good.upper(),
            f" {good}",
            f"{good}\n",
            "ü" + good,
            "\0",
            "x" * 10_000,
        ),
        f"{claim.replace('12', '13')}.{signature}",
        f"{claim.replace('email', 'sms')}.{signature}",
        f"{claim}.{tail}",
        f"{claim}.",
        signature,
        LinkSigner(SecretStr("l" * 40), "https://example.com").unsubscribe_url(1, 12, Channel.EMAIL, 7)[-60:],
    ]


@pytest.mark.parametrize("forged", _forgeries())
def test_what_was_not_signed_is_no_link(forged: str) -> None:
    with pytest.raises(InvalidLink) as caught:
        SIGNER.read(forged)
    assert str(caught.value) == "this link is not valid"


@pytest.mark.parametrize(
    "claim",
    [
        "",
        "1-2-email",
        "1-2-fax-3",
        "1-2-email-3-4",
        f"1-{LARGEST + 1}-email-3",
        "1-\u0662-email-3",
        "-1-2-sms-3",
    ],
)
def test_not_even_with_the_right_signature_is_nonsense_a_link(claim: str) -> None:
    with pytest.raises(InvalidLink):
        SIGNER.read(SIGNER._signer.sign(claim).decode())


def test_the_key_stays_out_of_sight() -> None:
    assert "kkk" not in repr(vars(SIGNER)["_address"]) + repr(SIGNER)
