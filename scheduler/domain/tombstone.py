"""What is kept of somebody who was erased: a keyed hash of their external id, and nothing they could be known by.

It tells that an external id is one of those erased, to whoever has both the id and the key. Limit: under another
secret key nothing is recognized any more; the key must be kept for as long as erasures are to hold.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from pydantic import SecretStr

_PURPOSE: Final = b"daybreak.erased-user:"


class Tombstones:
    """Makes the hashes under one secret key, each for one tenant."""

    def __init__(self, secret_key: SecretStr) -> None:
        self._keyed = hmac.new(secret_key.get_secret_value().encode(), _PURPOSE, hashlib.sha256)

    def of(self, tenant_id: int, external_id: str) -> bytes:
        """The hash of an external id: 32 bytes."""
        keyed = self._keyed.copy()
        keyed.update(f"{tenant_id}:{external_id}".encode())
        return keyed.digest()
