"""Access tokens for providers that take no lasting key: the JWT bearer grant of a service account.

The account's private key signs a short-lived assertion (RS256), which the token server exchanges for a bearer
token (RFC 7523 §2.1; https://developers.google.com/identity/protocols/oauth2/service-account). A token is kept
until shortly before it expires.

Limits: one thread at a time, as the provider that asks for it. Nothing of the key, the assertion, the token or
the token server's answer gets into an error.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urlencode

import jwt
import orjson
import pycurl
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from scheduler.clock import Clock
from worker.channels.http_answer import kind_of_error, kind_of_status, retry_after
from worker.channels.port import FailureKind

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFETIME: Final = timedelta(hours=1)  # the most that Google's token server takes
RENEWED_BEFORE_EXPIRY: Final = timedelta(minutes=5)
SHORTEST_USE: Final = timedelta(seconds=10)  # so that a server with short-lived tokens is not asked per batch
CONNECT_TIMEOUT_SECONDS: Final = 5
TOTAL_TIMEOUT_SECONDS: Final = 10
LONGEST_ANSWER: Final = 65_536  # bytes

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # it will stand in a header field
# RFC 6749 §5.2: errors that a repetition cannot mend.
_REFUSALS: Final = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)


class TokenUnavailable(Exception):
    """No token: `kind` says whether trying again helps; `category` and `detail` are as in `Failed`."""

    def __init__(
        self, kind: FailureKind, category: str, detail: str, retry_after: timedelta | None = None
    ) -> None:
        self.kind = kind
        self.category = category
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(detail)


class ServiceAccount(BaseModel):
    """The members of a Google service account's key file that are needed; others are ignored."""

    model_config = ConfigDict(frozen=True)

    type: Literal["service_account"]
    project_id: str = Field(pattern=r"^[a-z0-9.:-]{1,100}$")
    client_email: str = Field(min_length=3)
    private_key: SecretStr
    private_key_id: str | None = None
    token_uri: str = Field(pattern=r"^(https://|http://(127\.0\.0\.1|\[::1\]|localhost)[:/])[!-~]+$")

    @field_validator("private_key")
    @classmethod
    def _is_rsa(cls, value: SecretStr) -> SecretStr:
        """Found out when the worker starts, not with the first message."""
        try:
            key = load_pem_private_key(value.get_secret_value().encode(), password=None)
        except (TypeError, ValueError):
            raise ValueError("is no private key in PEM") from None
        if not isinstance(key, RSAPrivateKey):
            raise ValueError("is no RSA key")
        return value


def read_service_account(document: str) -> ServiceAccount:
    """The service account in a key file's text. Raises ValueError: one line that names what is wrong with it."""
    try:
        return ServiceAccount.model_validate_json(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = (f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in problems)
        raise ValueError("; ".join(told)) from None


class ServiceAccountTokens:
    """Calling it returns a bearer token for `scope`, from the token server where none is kept."""

    def __init__(self, account: ServiceAccount, scope: str, clock: Clock) -> None:
        self._account = account
        self._scope = scope
        self._clock = clock
        self._token = ""
        self._use_until: datetime | None = None

    def __call__(self) -> str:
        """The token; raises `TokenUnavailable`. Takes `TOTAL_TIMEOUT_SECONDS` at most."""
        now = self._clock.now()
        if self._use_until is None or now >= self._use_until:
            self._token, lifetime = _read_answer(*self._ask(now), now)
            self._use_until = now + max(lifetime - RENEWED_BEFORE_EXPIRY, SHORTEST_USE)
        return self._token

    def forget(self) -> None:
        """Ask for a new one next time: the provider did not take the one it was given."""
        self._use_until = None

    def _ask(self, now: datetime) -> tuple[int, list[bytes], bytes]:
        """Status, header lines and body of the token server's answer."""
        form = urlencode({"grant_type": GRANT_TYPE, "assertion": self._assertion(now)})
        head: list[bytes] = []
        body: list[bytes] = []
        handle = _handle(self._account.token_uri, form)
        handle.setopt(pycurl.HEADERFUNCTION, head.append)
        handle.setopt(pycurl.WRITEFUNCTION, body.append)
        try:
            handle.perform()
            return handle.getinfo(pycurl.RESPONSE_CODE), head, b"".join(body)
        except pycurl.error as error:
            # Whether the request arrived does not matter: asking twice for a token does no harm.
            _, category = kind_of_error(int(error.args[0]), was_sent=False)
            raise TokenUnavailable(
                FailureKind.RETRYABLE, f"token_{category}", "the token server could not be asked"
            ) from None
        finally:
            handle.close()

    def _assertion(self, now: datetime) -> str:
        """RFC 7523 §3; `scope` as Google takes it."""
        issued_at = int(now.timestamp())
        claims = {
            "iss": self._account.client_email,
            "scope": self._scope,
            "aud": self._account.token_uri,
            "iat": issued_at,
            "exp": issued_at + int(ASSERTION_LIFETIME.total_seconds()),
        }
        key_id = self._account.private_key_id
        headers = {"kid": key_id} if key_id else None
        return jwt.encode(claims, self._account.private_key.get_secret_value(), "RS256", headers)


def _read_answer(status: int, head: list[bytes], body: bytes, now: datetime) -> tuple[str, timedelta]:
    """The token and how long it lives (RFC 6749 §5.1); raises `TokenUnavailable`."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    members = answer if isinstance(answer, dict) else {}
    if status == HTTPStatus.OK:
        match members:
            case {"access_token": str(token), "expires_in": int(seconds)} if _TOKEN.fullmatch(token):
                return token, timedelta(seconds=min(seconds, 86_400))
        raise TokenUnavailable(
            FailureKind.RETRYABLE, "token_garbled", "the token server answered without a token"
        )
    error = members.get("error")
    if isinstance(error, str) and error in _REFUSALS:
        raise TokenUnavailable(
            FailureKind.PROVIDER, f"token_{error}", f"the token server refused the service account: {error}"
        )
    kind = kind_of_status(status)
    wait = retry_after(head, now) if kind is FailureKind.RETRYABLE else None
    raise TokenUnavailable(
        FailureKind.PROVIDER if kind is FailureKind.PERMANENT else kind,
        f"token_http_{status}",
        f"the token server answered HTTP {status}",
        wait,
    )


def _handle(url: str, form: str) -> pycurl.Curl:
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.URL, url),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.PROXY, ""),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.MAXFILESIZE, LONGEST_ANSWER),
        (pycurl.CONNECTTIMEOUT, CONNECT_TIMEOUT_SECONDS),
        (pycurl.TIMEOUT, TOTAL_TIMEOUT_SECONDS),
        (pycurl.NOSIGNAL, 1),
        (pycurl.USERAGENT, "Daybreak"),
        (pycurl.POSTFIELDS, form),
    ):
        handle.setopt(option, value)
    return handle
