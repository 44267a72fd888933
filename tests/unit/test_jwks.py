"""Keys that somebody else publishes: fetched seldom, kept while they cannot be, and only those for our algorithms."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from api.jwks import KeySet, KeysNotFetched
from scheduler.clock import SettableClock

URL = "https://keys.example.com/jwks.json"


def rsa_key(name: str | None, **members: str) -> dict[str, Any]:
    key = rsa.generate_private_key(65537, 2048).public_key()
    return RSAAlgorithm.to_jwk(key, as_dict=True) | ({"kid": name} if name else {}) | members


def ec_key(name: str) -> dict[str, Any]:
    return ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True) | {
        "kid": name
    }


class Publisher:
    """Publishes `keys`, until it `fails`; counts who asks."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.fails = False
        self.asked = 0

    def fetch(self, _url: str) -> bytes:
        self.asked += 1
        if self.fails:
            raise ConnectionRefusedError
        return json.dumps({"keys": self.keys}).encode()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(datetime(2027, 3, 1, tzinfo=UTC))


def test_keys_are_fetched_once_and_found_by_name_and_algorithm(clock: SettableClock) -> None:
    publisher = Publisher(rsa_key("one"), ec_key("two"))
    keys = KeySet(URL, clock, publisher.fetch)
    assert keys.key("one", "RS256") is not None
    assert keys.key("two", "ES256") is not None
    assert keys.key("one", "ES256") is None
    assert keys.key(None, "RS256") is None, "which of two keys?"
    assert publisher.asked == 1


def test_a_single_key_needs_no_name(clock: SettableClock) -> None:
    for name in (None, "one"):
        keys = KeySet(URL, clock, Publisher(rsa_key(name)).fetch)
        assert keys.key(None, "RS256") is not None


def test_a_new_name_is_asked_for_but_made_up_ones_not_each_time(clock: SettableClock) -> None:
    publisher = Publisher(rsa_key("old"), ec_key("other"))
    keys = KeySet(URL, clock, publisher.fetch)
    assert keys.key("old", "RS256")
    publisher.keys.append(rsa_key("new"))
    for number in range(50):
        assert keys.key(f"made-up-{number}", "RS256") is None
    assert publisher.asked == 1
    clock.advance(timedelta(seconds=31))
    assert keys.key("new", "RS256") is not None
    assert publisher.asked == 2


def test_a_key_that_is_withdrawn_ends(clock: SettableClock) -> None:
    publisher = Publisher(rsa_key("old"), rsa_key("new"))
    keys = KeySet(URL, clock, publisher.fetch)
    assert keys.key("old", "RS256")
    del publisher.keys[0]
    clock.advance(timedelta(minutes=11))
    assert keys.key("new", "RS256")
    assert keys.key("old", "RS256") is None


def test_known_keys_outlive_an_outage_of_their_publisher_for_an_hour(clock: SettableClock) -> None:
    publisher = Publisher(rsa_key("one"))
    keys = KeySet(URL, clock, publisher.fetch)
    assert keys.key("one", "RS256")
    publisher.fails = True
    clock.advance(timedelta(minutes=50))
    assert keys.key("one", "RS256")
    clock.advance(timedelta(minutes=11))
    with pytest.raises(KeysNotFetched):
        keys.key("one", "RS256")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"keys": 1}', b'{"keys": [' + b"{}," * 200 + b"{}]}"])
def test_what_is_no_set_of_keys_is_none(clock: SettableClock, body: bytes) -> None:
    with pytest.raises(KeysNotFetched):
        KeySet(URL, clock, lambda _: body).key("one", "RS256")


def test_keys_for_other_algorithms_and_uses_are_left_out(clock: SettableClock) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw", "kid": "secret"}
    publisher = Publisher(
        secret,
        rsa_key("enc", use="enc"),
        rsa_key("ps", alg="PS256"),
        rsa_key("list") | {"alg": ["RS256"]},
        rsa_key("object") | {"kid": {}},
        {"kty": "??"},
        {"kty": "RSA", "n": 5, "e": {}},
        rsa_key("one"),
    )
    keys = KeySet(URL, clock, publisher.fetch)
    assert keys.key("one", "RS256")
    for name in ("secret", "enc", "ps"):
        assert keys.key(name, "HS256") is None
        assert keys.key(name, "RS256") is None
