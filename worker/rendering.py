"""From an occasion and its recipients to messages a provider can be given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from scheduler.domain.message import around_user_id
from scheduler.domain.occasion import Channel, Occasion
from scheduler.links import LinkSigner
from scheduler.store.batches import LeasedBatch
from scheduler.store.users import Recipient
from scheduler.texts.environment import Reading
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.message_texts import (
    CompiledTexts,
    OccasionTexts,
    RowTexts,
    as_attributes,
    as_dates,
    full_name,
)
from worker.channels.port import Failed, FailureKind, OutgoingMessage
from worker.claims import ReadyMessage

TEXT_ERROR: Final = "text_error"
"""Category of a message whose text could not be rendered for its recipient."""

_COLUMNS: Final = (*Recipient._fields, "full_name")
_WITH_HTML: Final = (Channel.EMAIL, Channel.IN_APP)


class Renderer:
    """Renders the texts of occasions. May be shared between threads.

    Without `links` (None) messages carry no link to unsubscribe, and a text that names one fails.
    """

    def __init__(self, links: LinkSigner | None = None) -> None:
        self._links = links

    def render(
        self, batch: LeasedBatch, occasion: Occasion, ready: Sequence[ReadyMessage], now: datetime
    ) -> list[OutgoingMessage | Failed]:
        """Each message as it goes out, in the order given; a failure at `now` for one that has no text.

        What a failure says is about the text and holds nothing of the recipient.
        """
        return _BatchRendering(batch, occasion, self._links).render(ready, now)


class _BatchRendering:
    """What the messages of one batch have in common."""

    def __init__(self, batch: LeasedBatch, occasion: Occasion, links: LinkSigner | None) -> None:
        self._batch = batch
        self._occasion = occasion
        self._links = links
        self._texts = OccasionTexts(occasion, with_html=batch.channel in _WITH_HTML)
        self._before_id, self._after_id = around_user_id(
            batch.occasion_id, batch.local_date, batch.slot, batch.channel
        )
        # What the texts, and what the request of a provider, may name of the occasion.
        self._said_of_all: dict[str, Any] = {
            "occasion": occasion.key,
            "occasion_name": occasion.name,
            "local_date": batch.local_date,
        }
        self._columns = _COLUMNS if links is None else (*_COLUMNS, "unsubscribe_url")
        self._row_texts: dict[str, RowTexts | None] = {}
        self._told_of_all = {"occasion": occasion.key, "local_date": batch.local_date.isoformat()}

    def render(self, ready: Sequence[ReadyMessage], now: datetime) -> list[OutgoingMessage | Failed]:
        tenant_id, channel = self._batch.tenant_id, self._batch.channel
        before_id, after_id, links, said_in = self._before_id, self._after_id, self._links, self._said
        told_of_all = self._told_of_all
        rendered: list[OutgoingMessage | Failed] = []
        # One loop with few calls: it is run for every message there is.
        for recipient, address, _ in ready:
            unsubscribe_url = None if links is None else self._unsubscribe_url(links, recipient)
            try:
                subject, body, html = said_in(recipient, unsubscribe_url)
            except RenderingFailed as error:
                rendered.append(Failed(FailureKind.PERMANENT, TEXT_ERROR, str(error), None, now))
                continue
            # What the request of a provider may name: see `TEXT_FIELDS`.
            fields = {
                "first_name": recipient.first_name,
                "last_name": recipient.last_name,
                "external_id": recipient.external_id,
                **told_of_all,
            }
            # By their order, as arguments by name take Python almost three times as long here.
            rendered.append(
                OutgoingMessage(
                    f"{before_id}{recipient.id}{after_id}",
                    tenant_id,
                    channel,
                    address,
                    subject,
                    body,
                    fields,
                    html,
                    recipient.locale,
                    unsubscribe_url,
                )
            )
        return rendered

    def _said(self, recipient: Recipient, unsubscribe_url: str | None) -> tuple[str, str, str | None]:
        """What it says: most texts name so little that they are filled in but for the recipient once a batch."""
        locale = recipient.locale
        if locale not in self._row_texts:
            self._row_texts[locale] = self._texts.of(locale).for_rows(self._said_of_all, self._columns)
        row_texts = self._row_texts[locale]
        if row_texts is not None:
            row = (*recipient, full_name(recipient.first_name, recipient.last_name), unsubscribe_url)
            subject, body, html = row_texts
            return subject(row), body(row), None if html is None else html(row)
        texts = self._texts.of(locale)
        values = self._values(recipient, texts, unsubscribe_url)
        return texts.render(values, None if texts.are_plain else self._reading(recipient))

    def _reading(self, recipient: Recipient) -> Reading:
        return Reading(recipient.locale, self._batch.local_date, self._occasion.leap_day)

    def _unsubscribe_url(self, links: LinkSigner, recipient: Recipient) -> str:
        batch = self._batch
        return links.unsubscribe_url(batch.tenant_id, recipient.id, batch.channel, batch.occasion_id)

    def _values(
        self, recipient: Recipient, texts: CompiledTexts, unsubscribe_url: str | None
    ) -> dict[str, Any]:
        """What the texts may name, as far as it is there."""
        values: dict[str, Any] = {
            "first_name": recipient.first_name,
            "last_name": recipient.last_name,
            "full_name": full_name(recipient.first_name, recipient.last_name),
            "external_id": recipient.external_id,
            "locale": recipient.locale,
            "timezone": recipient.timezone,
            **self._said_of_all,
        }
        if unsubscribe_url is not None:
            values["unsubscribe_url"] = unsubscribe_url
        if texts.name_groups:
            values["dates"] = as_dates(recipient.dates)
            values["attributes"] = as_attributes(recipient.attributes)
        return values
