"""Twilio's message status callbacks: an HMAC-SHA1 over the address called and the sorted form.

Source: Twilio, "Validating Requests are coming from Twilio" and "Outbound Message Status in Status Callbacks".
The message is found by the parameter `id` of the callback address that the preset sends.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final
from urllib.parse import parse_qsl

from werkzeug.exceptions import BadRequest

from api.callbacks.port import CallbackRequest, NotAuthentic, parse_key, secret_option, storable
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.provider_settings import ProviderEntry

SIGNATURE: Final = "x-twilio-signature"

_KINDS: Final = {
    "delivered": DeliveryEventKind.DELIVERED,
    "read": DeliveryEventKind.DELIVERED,
    "undelivered": DeliveryEventKind.BOUNCED,
    "failed": DeliveryEventKind.BOUNCED,
}
_STOPPED: Final = "21610"
# Unknown or unreachable for good: not a number that takes messages.
_NO_SUCH_NUMBER: Final = frozenset({"21211", "21614", "30005", "30006"})


def read(entry: ProviderEntry, request: CallbackRequest) -> list[DeliveryEvent]:
    """See `port.Reader`."""
    try:
        form = parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=bool(request.body))
    except ValueError:
        raise BadRequest("the body is not a form") from None
    _verify(secret_option(entry, "auth_token"), request, form)
    told = dict(form)
    status, error_code = told.get("MessageStatus", ""), told.get("ErrorCode", "")
    key, kind, sid = parse_key(request.query.get("id")), _KINDS.get(status), told.get("MessageSid")
    if key is None or kind is None or not sid:
        return []
    if error_code == _STOPPED:
        kind = DeliveryEventKind.UNSUBSCRIBED
    return [
        DeliveryEvent(
            event_id=storable(f"{sid}.{status}"),
            key=key,
            kind=kind,
            occurred_at=request.received_at,
            detail=storable(f"{status} {error_code}".strip()),
            is_permanent=error_code in _NO_SUCH_NUMBER,
            address=storable(told["To"]) if "To" in told else None,
        )
    ]


def _verify(auth_token: str, request: CallbackRequest, form: list[tuple[str, str]]) -> None:
    signed = request.url + "".join(name + value for name, value in sorted(set(form)))
    digest = hmac.new(auth_token.encode(), signed.encode(), hashlib.sha1).digest()
    given = request.headers.get(SIGNATURE, "").encode("ascii", "replace")
    if not hmac.compare_digest(base64.b64encode(digest), given):
        raise NotAuthentic(f"{SIGNATURE} does not fit the address and the form")
