"""E-mail addresses: whether one has the form of an address that mail can be sent to.

The rules are those of the package `email-validator`: no reserved domains, no address literals, internationalized
addresses as RFC 6531 has them. It takes 50 µs for one, and an import has 25 for a whole person, so the addresses that
nearly all people have, plain ASCII ones, are known by a pattern that it agrees with. Nothing is asked of the network:
whether a domain takes mail is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

MOST_OCTETS: Final = 254  # RFC 5321 §4.5.3.1.3, without the angle brackets

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# No two hyphens in a row: they may stand for something else (RFC 5890 §2.3.1).
_LABEL: Final = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"

PLAIN_PATTERN: Final = rf"^{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+[A-Za-z]{{2,63}}$"
"""What plain addresses look like; others are taken as well if they are right."""

_MOST_BEFORE_AT: Final = 64  # RFC 5321 §4.5.3.1.1
_PLAIN: Final = re.compile(
    rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:(?=[^.]{{1,63}}\.){_LABEL}\.)+([A-Za-z]{{2,63}})"
)
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*")
# RFC 6761 and those since: no mail can be sent there.
_RESERVED: Final = frozenset({"arpa", "invalid", "local", "localhost", "onion", "test"})


def check_mailbox(address: str) -> str:
    """Return `address` if it is one; otherwise raise a ValueError that says what is wrong, without repeating it."""
    if len(address.encode()) > MOST_OCTETS:
        raise ValueError(f"must be at most {MOST_OCTETS} octets long")
    plain = _PLAIN.fullmatch(address)
    if plain is None:
        return _check_fully(address)
    if plain.group(1).lower() in _RESERVED:
        raise ValueError(
            f"must not be in .{plain.group(1).lower()}: that domain is reserved and takes no mail"
        )
    return address


def are_plain(addresses: Sequence[str]) -> bool:
    """Whether all of these are plain addresses that `check_mailbox` takes. Other right ones may be among others.

    Looked at together: the parts before the @, joined by dots, must be atoms and single dots.
    """
    if not addresses:
        return True
    parts = [address.rpartition("@") for address in addresses]
    names = [name for name, _, _ in parts]
    joined = ".".join(names)
    return (
        joined != ""
        and max(map(len, addresses)) <= MOST_OCTETS
        and max(map(len, names)) <= _MOST_BEFORE_AT
        and _ATOMS.fullmatch(joined) is not None
        and ".." not in joined
        and joined[0] != "."
        and joined[-1] != "."
        and all(map(_is_plain_domain, {domain for _, _, domain in parts}))
    )


@lru_cache(maxsize=4096)
def _is_plain_domain(domain: str) -> bool:
    plain = _PLAIN.fullmatch(f"a@{domain}")
    return plain is not None and plain.group(1).lower() not in _RESERVED


def _check_fully(address: str) -> str:
    # Loaded where it is needed: most processes never see such an address.
    from email_validator import EmailNotValidError, validate_email

    try:
        # Strict: at most 64 characters before the @ (RFC 5321 §4.5.3.1.1).
        validate_email(address, check_deliverability=False, strict=True)
    except EmailNotValidError:
        raise ValueError("must be an e-mail address such as name@example.com") from None
    return address
