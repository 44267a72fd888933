"""Amazon SES events as SNS delivers them: signed with a certificate of Amazon's.

Source: AWS, "Verifying the signatures of Amazon SNS messages" (signature versions 1 and 2) and "Contents of
event data that Amazon SES publishes to Amazon SNS". The message is found by the e-mail tag `daybreak_id` that
the preset sends. Only topics of the option `topic_arns` are believed, and their subscription is confirmed by
itself.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import Certificate, load_pem_x509_certificate
from loguru import logger
from werkzeug.exceptions import BadRequest

from api.callbacks.port import CallbackRequest, NotAuthentic, instant_of_text, parse_json, parse_key, storable
from api.jwks import NoRedirect
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry

_ADDRESS: Final = re.compile(r"https://sns\.[a-z0-9-]{3,}\.amazonaws\.com(\.cn)?/")
_CERTIFICATE: Final = re.compile(_ADDRESS.pattern + r"SimpleNotificationService-[0-9A-Za-z]+\.pem")
_SIGNED: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}
_SIGNED["UnsubscribeConfirmation"] = _SIGNED["SubscriptionConfirmation"]
_HASHES: Final = {"1": SHA1, "2": SHA256}
_KINDS: Final = {
    "Delivery": DeliveryEventKind.DELIVERED,
    "Bounce": DeliveryEventKind.BOUNCED,
    "Reject": DeliveryEventKind.BOUNCED,
    "Complaint": DeliveryEventKind.COMPLAINED,
}
_TIMEOUT_SECONDS: Final = 5
_LONGEST_CERTIFICATE: Final = 65_536

Fetch = Callable[[str], bytes]
"""The answer to a GET of an address of Amazon's."""


def fetch(url: str) -> bytes:
    """The beginning of what stands at `url`, which is Amazon's, by https; no redirect is followed. Raises OSError."""
    with urllib.request.build_opener(NoRedirect).open(url, timeout=_TIMEOUT_SECONDS) as answer:
        content: bytes = answer.read(_LONGEST_CERTIFICATE)
        return content


class SnsReader:
    """Reads SNS messages; `fetch` gets certificates and confirms subscriptions."""

    def __init__(self, fetch: Fetch = fetch) -> None:
        self._fetch = fetch
        # A certificate lives for a year; a handful of them are in use.
        self._certificate = lru_cache(maxsize=16)(self._load_certificate)

    def __call__(self, entry: ProviderEntry, request: CallbackRequest) -> list[DeliveryEvent]:
        """See `port.Reader`."""
        told = parse_json(request.body)
        if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
            raise BadRequest("the body is no message of SNS")
        self._verify(entry, told)
        match told["Type"]:
            case "Notification":
                event = _event(told, request)
                return [] if event is None else [event]
            case "SubscriptionConfirmation":
                self._confirm(entry, told)
        return []

    def _verify(self, entry: ProviderEntry, told: dict[str, str]) -> None:
        topics = entry.options.get("topic_arns")
        if not isinstance(topics, list | tuple) or not topics:
            raise ConfigurationError(
                f"provider {entry.name}: callbacks need the option topic_arns in the providers file"
            )
        names, version = _SIGNED.get(told.get("Type", "")), _HASHES.get(told.get("SignatureVersion", ""))
        if names is None or version is None or told.get("TopicArn") not in topics:
            raise NotAuthentic("not a signed message of a topic that is listed in topic_arns")
        signed = "".join(f"{name}\n{told[name]}\n" for name in names if name in told)
        try:
            signature = base64.b64decode(told.get("Signature", ""), validate=True)
            address = told.get("SigningCertURL", "")
            if not _CERTIFICATE.fullmatch(address):
                raise NotAuthentic("the signing certificate is not one of Amazon SNS")
            key = self._certificate(address).public_key()
            if not isinstance(key, rsa.RSAPublicKey):
                raise NotAuthentic("the signing certificate holds no RSA key")
            key.verify(signature, signed.encode(), padding.PKCS1v15(), version())
        except (InvalidSignature, binascii.Error):
            raise NotAuthentic("the signature does not fit the message") from None

    def _load_certificate(self, url: str) -> Certificate:
        try:
            return load_pem_x509_certificate(self._fetch(url))
        except (OSError, ValueError):
            raise NotAuthentic("the signing certificate cannot be read") from None

    def _confirm(self, entry: ProviderEntry, told: dict[str, str]) -> None:
        try:
            self._fetch(_of_amazon(told.get("SubscribeURL", "")))
        except OSError as error:
            logger.bind(provider=entry.name, cause=type(error).__name__).error("subscription_not_confirmed")
            raise BadRequest("the subscription could not be confirmed") from None
        logger.bind(provider=entry.name).info("subscription_confirmed")


def _of_amazon(url: str) -> str:
    # A port or a user in the address does not fit the pattern.
    if not _ADDRESS.match(url):
        raise NotAuthentic("an address in the message is not one of Amazon SNS")
    return url


def _event(told: dict[str, str], request: CallbackRequest) -> DeliveryEvent | None:
    try:
        event = parse_json(told["Message"])
    except BadRequest:
        # Amazon says in plain words that a topic works.
        return None
    if not isinstance(event, dict):
        return None
    # Events of configuration sets and notifications of identities name their type differently.
    kind_name = str(event.get("eventType") or event.get("notificationType"))
    kind, key = _KINDS.get(kind_name), parse_key(_tag(event))
    if kind is None or key is None or "MessageId" not in told:
        return None
    about = event.get(kind_name.lower())
    about = about if isinstance(about, dict) else {}
    return DeliveryEvent(
        event_id=storable(told["MessageId"]),
        key=key,
        kind=kind,
        occurred_at=instant_of_text(about.get("timestamp"), request.received_at),
        detail=" ".join(storable(about[name]) for name in ("bounceType", "bounceSubType") if name in about)
        or kind_name,
        is_permanent=about.get("bounceType") == "Permanent",
        address=_address(about),
    )


def _tag(event: dict[str, Any]) -> object:
    match event:
        case {"mail": {"tags": {"daybreak_id": [first, *_]}}}:
            return first
    return None


def _address(about: dict[str, Any]) -> str | None:
    for name in ("bouncedRecipients", "complainedRecipients"):
        match about.get(name):
            case [{"emailAddress": str(address)}]:
                return storable(address)
    return None
