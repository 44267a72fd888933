"""What a reply of a mail server says about a message, or about the server: plain functions of what was seen.

| seen | outcome |
|---|---|
| 2yz to the final dot | accepted |
| 4yz at any step | failed, retryable |
| 5yz to the recipient, to DATA or to the final dot | failed, permanent |
| 552, 555 or another size or syntax refusal of the sender's command | failed, permanent |
| any other 5yz before the recipient: greeting, EHLO, STARTTLS, AUTH, the sender | failed, the provider's |
| 530, 534, 535, 538 (RFC 4954 §6) at any step | failed, the provider's |
| 5yz to the recipient that refuses us and not the address (relaying, our host) | failed, the provider's |
| anything else before the final dot was sent | failed, retryable |
| anything else after it | failed, unknown |

A 4yz or 5yz to the final dot is a refusal: the server has not taken the message over (RFC 5321 §4.2.5).
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from worker.channels.http_answer import excerpt
from worker.channels.port import FailureKind, OutgoingMessage

LONGEST_REPLY: Final = 65_536  # bytes, all lines of it

_NOT_LET_IN: Final = frozenset({530, 534, 535, 538})
# RFC 1870 §6.1 and RFC 5321 §4.1.1.11: what the sender's command says of this message is not taken.
_TOO_MUCH_FOR_SENDER: Final = frozenset({552, 555})
_REFUSES_US: Final = re.compile(
    rb"relay(ing)? (access )?(is )?(denied|not permitted|not allowed|prohibited)|unable to relay|not permitted to relay"
    rb"|client host rejected|client host .{0,80}blocked|helo command rejected|authentication required",
    re.IGNORECASE | re.DOTALL,
)
_ANY_ADDRESS: Final = re.compile(rb"<[^<>\s]*>|[^\s<>@\"]+@[^\s<>@\"]+")


class Step(Enum):
    """What a reply answers."""

    SESSION = auto()
    """Whatever comes before the first message: greeting, EHLO, STARTTLS, AUTH."""

    SENDER = auto()
    RECIPIENT = auto()
    DATA = auto()
    """The command DATA: 354 asks for the message."""

    FINAL_DOT = auto()


def is_positive(step: Step, code: int) -> bool:
    """Whether the server goes along."""
    return code == 354 if step is Step.DATA else 200 <= code <= 299


def kind_of_reply(step: Step, code: int, said: bytes = b"") -> FailureKind:
    """Whom a reply that is not positive concerns; `code` -1: it was none.

    Many servers put off what they have against the client until the recipient is named (Postfix's
    `smtpd_delay_reject`), so the words decide there: the enhanced status 5.7.1 also stands for refused contents.
    """
    if 400 <= code <= 499:
        return FailureKind.RETRYABLE
    if code in _NOT_LET_IN:
        return FailureKind.PROVIDER
    if not 500 <= code <= 599:
        return FailureKind.UNKNOWN if step is Step.FINAL_DOT else FailureKind.RETRYABLE
    if step is Step.SESSION or (step is Step.SENDER and code not in _TOO_MUCH_FOR_SENDER):
        return FailureKind.PROVIDER
    if step is Step.RECIPIENT and _REFUSES_US.search(said):
        return FailureKind.PROVIDER
    return FailureKind.PERMANENT


def category_of_reply(code: int) -> str:
    """The constant word for a reply."""
    return f"smtp_{code}" if 100 <= code <= 999 else "garbled_answer"


def detail_of_reply(code: int, said: bytes, message: OutgoingMessage | None) -> str:
    """A reply on one line, without addresses and without what is private of the message."""
    private: list[str] = []
    if message is not None:
        private = [
            message.id,
            message.address,
            message.address.partition("@")[0],
            message.subject,
            message.text,
        ]
        private += message.fields.values()
    readable = _ANY_ADDRESS.sub(b"[...]", said[:LONGEST_REPLY])
    return f"SMTP {code}: {excerpt(readable, private)}".rstrip(": ")
