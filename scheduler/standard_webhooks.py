"""Signatures of webhooks by the Standard Webhooks specification 1.0.0 (https://www.standardwebhooks.com).

A request carries `webhook-id` (the same at every attempt), `webhook-timestamp` (seconds since 1970, of this
attempt) and `webhook-signature`: one or more signatures with blanks between them, so that a secret can be
replaced while both hold. A signature is `v1,` and the Base64 of the HMAC-SHA256 of `id.timestamp.body`. A secret
is written `whsec_` and its bytes in Base64.

Only the symmetric scheme `v1` is known here; signatures of other versions are passed over.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
TOLERANCE: Final = timedelta(minutes=5)
MOST_SIGNATURES: Final = 20  # that are looked at in one request

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = range(24, 65)  # as the specification has them
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


class InvalidSignature(Exception):
    """The request is not from who holds a secret, or not of now; its text is one of a few constant ones."""


def decode_secret(secret: str) -> bytes:
    """The bytes of a secret, `whsec_` before it or not. Raises ValueError, which does not repeat it."""
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a webhook secret is whsec_ and Base64") from None
    if len(key) not in _SECRET_BYTES:
        raise ValueError("a webhook secret has from 24 to 64 bytes")
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature `v1,…` of a request sent at `timestamp`, in seconds since 1970. Raises ValueError."""
    return _signature(decode_secret(secret), message_id, str(timestamp), body)


def signed_headers(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a request, signed with each of the secrets. Raises ValueError."""
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
    }


def verify(
    secrets: Iterable[str],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> None:
    """Check that a request was signed with one of the secrets, within `tolerance` of `now`, either way.

    `headers` are found in whatever case their names are written. Raises InvalidSignature; ValueError for a secret
    that is none.
    """
    found = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, written, signatures = (
            found[name] for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
        )
    except KeyError:
        raise InvalidSignature("a header of the signature is missing") from None
    if not _TIMESTAMP.fullmatch(written):
        raise InvalidSignature("the timestamp is no number of seconds")
    if abs(now.timestamp() - int(written)) > tolerance.total_seconds():
        raise InvalidSignature("the timestamp is too far from now")
    given = [one.encode() for one in signatures.split(" ", MOST_SIGNATURES)[:MOST_SIGNATURES]]
    expected = [_signature(decode_secret(one), message_id, written, body).encode() for one in secrets]
    # Every pair is compared, each in constant time, so that time tells nothing of how far one was right.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in given]
    if not any(matches):
        raise InvalidSignature("no signature fits")


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()
