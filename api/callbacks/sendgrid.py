"""SendGrid's Event Webhook: an ECDSA signature over the timestamp and the body; an array of events.

Source: Twilio SendGrid, "Getting Started with the Event Webhook Security Features" and "Event Webhook
Reference". The message is found by the custom argument `daybreak_id` that the preset sends.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from werkzeug.exceptions import BadRequest

from api.callbacks.port import (
    CallbackRequest,
    NotAuthentic,
    instant_of_seconds,
    parse_json,
    parse_key,
    secret_option,
    storable,
)
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.errors import ConfigurationError
from scheduler.provider_settings import ProviderEntry

SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"

_KINDS: Final = {
    "delivered": DeliveryEventKind.DELIVERED,
    "bounce": DeliveryEventKind.BOUNCED,
    "dropped": DeliveryEventKind.BOUNCED,
    "spamreport": DeliveryEventKind.COMPLAINED,
    "unsubscribe": DeliveryEventKind.UNSUBSCRIBED,
    "group_unsubscribe": DeliveryEventKind.UNSUBSCRIBED,
}
_HARD_BOUNCE: Final = "bounce"  # as against `blocked`, which passes


def read(entry: ProviderEntry, request: CallbackRequest) -> list[DeliveryEvent]:
    """See `port.Reader`."""
    _verify(secret_option(entry, "callback_public_key"), request)
    told = parse_json(request.body)
    if not isinstance(told, list):
        raise BadRequest("the body is not an array of events")
    events = [_event(each, request) for each in told if isinstance(each, dict)]
    return [event for event in events if event is not None]


def _verify(public_key: str, request: CallbackRequest) -> None:
    key = _load(public_key)
    signed = request.headers.get(TIMESTAMP, "").encode() + request.body
    try:
        signature = base64.b64decode(request.headers.get(SIGNATURE, ""), validate=True)
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        raise NotAuthentic(f"{SIGNATURE} does not fit the body") from None


def _load(public_key: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(base64.b64decode(public_key))
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigurationError(
            "callback_public_key is no elliptic curve key in base64, as SendGrid shows it"
        )
    return key


def _event(told: dict[str, Any], request: CallbackRequest) -> DeliveryEvent | None:
    key, kind = parse_key(told.get("daybreak_id")), _KINDS.get(str(told.get("event")))
    event_id, address = told.get("sg_event_id"), told.get("email")
    if key is None or kind is None or not isinstance(event_id, str):
        return None
    return DeliveryEvent(
        event_id=storable(event_id),
        key=key,
        kind=kind,
        occurred_at=instant_of_seconds(told.get("timestamp"), request.received_at),
        # The reason repeats addresses; type and status (RFC 3463) do not.
        detail=" ".join(storable(told[name]) for name in ("event", "type", "status") if told.get(name)),
        is_permanent=told.get("event") == "bounce" and told.get("type", _HARD_BOUNCE) == _HARD_BOUNCE,
        address=storable(address) if isinstance(address, str) else None,
    )
