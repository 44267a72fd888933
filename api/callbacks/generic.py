"""Callbacks of any service of your own: signed by the Standard Webhooks scheme.

Source: Standard Webhooks 1.0 (headers `webhook-id`, `webhook-timestamp`, `webhook-signature`). The body:

    {"events": [{"message_id": "1.42.20270228.0.email", "event": "delivered", "at": "2027-02-28T09:00:05Z"}]}

`event` is delivered, bounced, complained or unsubscribed; `permanent` (true: the address is no good) and
`detail` may be added to a bounce. Up to a thousand events in one request.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from api.callbacks.port import (
    CallbackRequest,
    NotAuthentic,
    credible,
    parse_json,
    parse_key,
    secret_option,
    storable,
)
from scheduler.domain.delivery_event import DeliveryEvent, DeliveryEventKind
from scheduler.domain.user import field_errors
from scheduler.errors import InvalidInput
from scheduler.provider_settings import ProviderEntry
from scheduler.standard_webhooks import ID_HEADER, InvalidSignature, verify

MOST_EVENTS: Final = 1_000


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message_id: Annotated[str, Field(max_length=200)]
    event: DeliveryEventKind
    at: AwareDatetime | None = None
    permanent: bool = False
    detail: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    events: Annotated[list[_Event], Field(max_length=MOST_EVENTS)]


def read(entry: ProviderEntry, request: CallbackRequest) -> list[DeliveryEvent]:
    """See `port.Reader`. Raises InvalidInput as well."""
    secret = secret_option(entry, "callback_secret")
    try:
        verify([secret], request.headers, request.body, now=request.received_at)
    except InvalidSignature as error:
        raise NotAuthentic(str(error)) from None
    try:
        told = _Body.model_validate(parse_json(request.body))
    except ValidationError as error:
        raise InvalidInput(field_errors(error)) from None
    request_id = request.headers[ID_HEADER]
    return [
        DeliveryEvent(
            event_id=storable(f"{request_id}.{number}"),
            key=key,
            kind=each.event,
            occurred_at=credible(each.at or request.received_at, request.received_at),
            detail=storable(each.detail),
            is_permanent=each.permanent,
        )
        for number, each in enumerate(told.events)
        if (key := parse_key(each.message_id)) is not None
    ]
