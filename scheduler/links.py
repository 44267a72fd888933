"""Links that are sent to recipients: short signed tokens that say what may be done, and for whom.

A token holds ids of ours and nothing personal, and is signed with HMAC-SHA256 under a key derived from
`DAYBREAK_SECRET_KEY` for this purpose alone. It does not expire: the link in a message of years ago must still
work (RFC 8058 §7 knows no end either). Whoever holds it can do what it says, as whoever holds the message can.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from itsdangerous import BadSignature, Signer
from pydantic import SecretStr

from scheduler.domain.occasion import Channel
from scheduler.errors import NotFound

_SALT: Final = "daybreak.unsubscribe"
_LARGEST_IDENTITY: Final = 2**63 - 1
_CLAIM: Final = re.compile(
    rf"(?P<tenant>[0-9]{{1,10}})-(?P<user>[0-9]{{1,19}})-(?P<channel>{'|'.join(Channel)})-(?P<occasion>[0-9]{{1,10}})"
)


class InvalidLink(NotFound):
    """The token is none of ours. It is not repeated: a genuine one cut short is still somebody's."""

    def __init__(self) -> None:
        super().__init__("link", "")

    def __str__(self) -> str:
        """No hint at what is wrong with it."""
        return "this link is not valid"


@dataclass(frozen=True, slots=True)
class UnsubscribeLink:
    """What a link is about: the messages of one occasion to one user on one channel."""

    tenant_id: int
    user_id: int
    channel: Channel
    occasion_id: int


class LinkSigner:
    """Makes links and reads them. May be shared between threads.

    `public_url` is where recipients reach the API; a path in it is kept.
    """

    def __init__(self, secret_key: SecretStr, public_url: str) -> None:
        self._signer = Signer(
            secret_key.get_secret_value(),
            salt=_SALT,
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )
        self._address = f"{public_url.rstrip('/')}/unsubscribe/"

    def unsubscribe_url(self, tenant_id: int, user_id: int, channel: Channel, occasion_id: int) -> str:
        """Where the recipient of such a message ends them. The same for equal arguments."""
        return self._address + self._signer.sign(f"{tenant_id}-{user_id}-{channel}-{occasion_id}").decode()

    def read(self, token: str) -> UnsubscribeLink:
        """What a token says. Raises InvalidLink unless it was signed with this key."""
        try:
            claim = _CLAIM.fullmatch(self._signer.unsign(token).decode("ascii"))
        except (BadSignature, UnicodeError):
            raise InvalidLink from None
        if claim is None or int(claim["user"]) > _LARGEST_IDENTITY:
            raise InvalidLink
        return UnsubscribeLink(
            int(claim["tenant"]), int(claim["user"]), Channel(claim["channel"]), int(claim["occasion"])
        )
