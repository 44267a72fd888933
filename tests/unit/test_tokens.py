"""JWT bearer tokens: who they let in, and every trick by which they must not (RFC 8725)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from api.jwks import KeySet
from api.tokens import InvalidToken, TokenReader
from scheduler.clock import SettableClock
from scheduler.domain.access import ROLE_SCOPES, Role
from scheduler.settings import Settings

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
SECRET = "a secret that both sides know of, and nobody else"
ISSUER = "https://login.example.com/"
AUDIENCE = "daybreak"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLISHED = {
    "keys": [
        RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True) | {"kid": "r"},
        ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True) | {"kid": "e"},
    ]
}


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that let somebody in; None takes one away."""
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "exp": int((NOW + timedelta(minutes=5)).timestamp()),
        "roles": ["viewer"],
    } | changes
    return {name: value for name, value in made.items() if value is not None}


def shared(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, "HS256")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


def reader(clock: SettableClock, *, published: bool = False, **changes: Any) -> TokenReader:
    settings: dict[str, Any] = {
        "jwt_secret": None if published else SecretStr(SECRET),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
    } | changes
    keys = KeySet("https://x.example", clock, lambda _: json.dumps(PUBLISHED).encode()) if published else None
    return TokenReader(Settings(**settings), clock, keys)


def test_a_token_says_who_and_what(clock: SettableClock) -> None:
    holder = reader(clock).read(shared(roles=["viewer", "operator", "queen"]))
    assert (holder.tenant_id, holder.subject) == (1, "ada")
    assert holder.scopes == ROLE_SCOPES[Role.VIEWER] | ROLE_SCOPES[Role.OPERATOR]


@pytest.mark.parametrize(
    ("name", "value"),
    [("roles", "viewer queen"), ("roles", ["viewer"]), ("realm.roles", ["viewer"])],
)
def test_roles_stand_in_a_list_or_a_text_at_the_claim_that_is_set(
    clock: SettableClock, name: str, value: object
) -> None:
    given = {"realm": {"roles": value}, "roles": None} if "." in name else {"roles": value}
    assert reader(clock, jwt_roles_claim=name).read(shared(**given)).scopes == ROLE_SCOPES[Role.VIEWER]


@pytest.mark.parametrize("value", [None, [], "", "Admin", 7, {"admin": True}, [["admin"]], ["queen"]])
def test_without_a_role_of_ours_nothing_is_allowed(clock: SettableClock, value: object) -> None:
    assert reader(clock).read(shared(roles=value)).scopes == frozenset()


@pytest.mark.parametrize(("value", "tenant"), [(7, 7), ("7", 7)])
def test_the_tenant_stands_at_the_claim_that_is_set(clock: SettableClock, value: object, tenant: int) -> None:
    found = reader(clock, jwt_tenant_claim="app.tenant").read(shared(app={"tenant": value}))
    assert found.tenant_id == tenant


@pytest.mark.parametrize("value", [None, "", "one", "1; 2", 0, -1, 1.0, True, "²", [1], 2**31, "9" * 30])
def test_a_tenant_that_is_no_id_lets_nobody_in(clock: SettableClock, value: object) -> None:
    with pytest.raises(InvalidToken):
        reader(clock, jwt_tenant_claim="tenant").read(shared(tenant=value))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://login.example.com"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"aud": []},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 201},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 10**13},
        {"nbf": int(NOW.timestamp()) + 31},
        {"iat": int(NOW.timestamp()) + 31},
        {"nbf": "now"},
    ],
)
def test_a_claim_that_is_missing_or_wrong_lets_nobody_in(
    clock: SettableClock, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken):
        reader(clock).read(shared(**changes))


def test_it_ends_by_our_clock_with_a_leeway_for_theirs(clock: SettableClock) -> None:
    token = shared(nbf=int(NOW.timestamp()) + 29)
    reader(clock).read(token)
    clock.advance(timedelta(minutes=5, seconds=29))
    reader(clock).read(token)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(InvalidToken, match="expired"):
        reader(clock).read(token)


@pytest.mark.parametrize(("key", "algorithm", "name"), [(RSA_KEY, "RS256", "r"), (EC_KEY, "ES256", "e")])
def test_published_keys_check_what_their_owner_signed(
    clock: SettableClock, key: Any, algorithm: str, name: str
) -> None:
    token = jwt.encode(claims(), key, algorithm, headers={"kid": name})
    assert reader(clock, published=True).read(token).subject == "ada"
    with pytest.raises(InvalidToken):
        reader(clock, published=True).read(jwt.encode(claims(), key, algorithm, headers={"kid": "x"}))
    with pytest.raises(InvalidToken):
        reader(clock, published=True).read(jwt.encode(claims(), key, algorithm))


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned() -> str:
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims())}."


def signed_with_the_public_key() -> str:
    """Whoever takes any algorithm would check this HMAC under the public key, which everybody has."""
    public = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'r'})}.{part(claims())}"
    signature = jwt.get_algorithm_by_name("HS256").sign(head.encode(), public)
    return f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def with_its_own_key() -> str:
    """RFC 8725 §3.10: a token that brings the key it is to be checked with."""
    other = rsa.generate_private_key(65537, 2048)
    own = RSAAlgorithm.to_jwk(other.public_key(), as_dict=True)
    return jwt.encode(claims(), other, "RS256", headers={"jwk": own, "kid": "r"})


def from_elsewhere() -> str:
    other = rsa.generate_private_key(65537, 2048)
    return jwt.encode(claims(), other, "RS256", headers={"jku": "https://evil.example/keys", "kid": "r"})


def by_another_hash() -> str:
    return jwt.encode(claims(), RSA_KEY, "RS512", headers={"kid": "r"})


def for_an_extension() -> str:
    return jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "r", "crit": ["exp"]})


def cut_off() -> str:
    return jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "r"}).rpartition(".")[0] + "."


def nested() -> str:
    """A header that is too deep to be read."""
    header = b'{"alg":"HS256","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    return base64.urlsafe_b64encode(header).decode().rstrip("=") + "." + shared().partition(".")[2]


def that_is_no_object() -> str:
    return base64.urlsafe_b64encode(b'["HS256"]').decode().rstrip("=") + "." + shared().partition(".")[2]


TRICKS: list[Callable[[], str]] = [
    unsigned,
    signed_with_the_public_key,
    with_its_own_key,
    from_elsewhere,
    by_another_hash,
    for_an_extension,
    cut_off,
    nested,
    that_is_no_object,
    lambda: "",
    lambda: "a.b.c",
    lambda: "ü.ü.ü",
    lambda: shared(),
]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_gets_by_published_keys(clock: SettableClock, trick: Callable[[], str]) -> None:
    with pytest.raises(InvalidToken):
        reader(clock, published=True).read(trick())


@pytest.mark.parametrize("trick", TRICKS[:-1])
def test_no_trick_gets_by_a_shared_secret(clock: SettableClock, trick: Callable[[], str]) -> None:
    with pytest.raises(InvalidToken):
        reader(clock).read(trick())


def test_another_secret_lets_nobody_in(clock: SettableClock) -> None:
    with pytest.raises(InvalidToken):
        reader(clock).read(jwt.encode(claims(), SECRET + "!", "HS256"))


def test_where_no_tokens_are_taken_none_is(clock: SettableClock) -> None:
    with pytest.raises(InvalidToken, match="algorithm"):
        TokenReader(Settings(), clock).read(shared())
