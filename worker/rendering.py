"""From an occasion and its recipients to messages a provider can be given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from scheduler.domain.message import TEXT_FIELDS, MessageKey
from scheduler.domain.occasion import Occasion
from scheduler.store.batches import LeasedBatch
from worker.channels.port import Failed, OutgoingMessage
from worker.claims import ReadyMessage
from worker.templates import Template, compile_template


def render(
    batch: LeasedBatch, occasion: Occasion, ready: Sequence[ReadyMessage], _now: datetime
) -> list[OutgoingMessage | Failed]:
    """Each message as it goes out, in the order given; a failure (at `now`) for one that cannot be rendered."""
    return [_render(batch, occasion, message) for message in ready]


def _render(batch: LeasedBatch, occasion: Occasion, message: ReadyMessage) -> OutgoingMessage:
    recipient = message.recipient
    fields = {
        "first_name": recipient.first_name,
        "last_name": recipient.last_name,
        "external_id": recipient.external_id,
        "occasion": occasion.key,
        "local_date": batch.local_date.isoformat(),
    }
    key = MessageKey(batch.occasion_id, recipient.id, batch.local_date, batch.slot, batch.channel)
    return OutgoingMessage(
        id=key.text,
        tenant_id=batch.tenant_id,
        channel=batch.channel,
        address=message.address,
        subject=_template(occasion.subject).render(fields),
        text=_template(occasion.body).render(fields),
        fields=fields,
        locale=recipient.locale,
    )


@lru_cache(maxsize=1_000)
def _template(source: str) -> Template:
    return compile_template(source, TEXT_FIELDS)
