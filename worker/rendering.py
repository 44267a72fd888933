"""From an occasion and its recipients to messages a provider can be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import repeat
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
    RenderedText,
    TextColumns,
    as_attributes,
    as_dates,
    full_name,
)
from worker.channels.port import Failed, FailureKind, OutgoingMessage
from worker.claims import ReadyMessage

TEXT_ERROR: Final = "text_error"
"""Category of a message whose text could not be rendered for its recipient."""

_COLUMNS: Final = ("first_name", "last_name", "external_id", "locale", "timezone")
_NOTHING_SAID: Final = RenderedText("", "", None)
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
        # What the texts, and what the request of a provider, may name of the occasion.
        self._said_of_all: dict[str, Any] = {
            "occasion": occasion.key,
            "occasion_name": occasion.name,
            "local_date": batch.local_date,
        }

    def render(self, ready: Sequence[ReadyMessage], now: datetime) -> list[OutgoingMessage | Failed]:
        """Each message, in the order given."""
        locales = {message.recipient.locale for message in ready}
        if len(locales) == 1:
            return self._of_locale(ready, locales.pop(), now)
        parts = {
            locale: iter(
                self._of_locale([each for each in ready if each.recipient.locale == locale], locale, now)
            )
            for locale in locales
        }
        return [next(parts[message.recipient.locale]) for message in ready]

    def _of_locale(
        self, ready: Sequence[ReadyMessage], locale: str, now: datetime
    ) -> list[OutgoingMessage | Failed]:
        """Each message for readers of one language: column by column, for that is a third of the work."""
        recipients = [recipient for recipient, _, _ in ready]
        readers = _Readers(recipients, self._unsubscribe_urls(recipients))
        try:
            texts = self._texts.of(locale).many(self._said_of_all, readers.columns, len(ready))
        except RenderingFailed as error:
            return [_failed(error, now)] * len(ready)
        if texts is None:
            return self._one_by_one(ready, readers, now)
        return list(self._outgoing(ready, readers, texts))

    def _outgoing(
        self, ready: Sequence[ReadyMessage], readers: _Readers, texts: TextColumns
    ) -> Iterator[OutgoingMessage]:
        batch = self._batch
        before_id, after_id = around_user_id(batch.occasion_id, batch.local_date, batch.slot, batch.channel)
        occasion, local_date = self._occasion.key, batch.local_date.isoformat()
        # By their order, as arguments by name take Python almost three times as long here.
        return map(
            OutgoingMessage,
            [f"{before_id}{recipient.id}{after_id}" for recipient, _, _ in ready],
            repeat(batch.tenant_id),
            repeat(batch.channel),
            [address for _, address, _ in ready],
            texts.subjects,
            texts.bodies,
            # What the request of a provider may name: see `TEXT_FIELDS`.
            [
                {
                    "first_name": first_name,
                    "last_name": last_name,
                    "external_id": external_id,
                    "occasion": occasion,
                    "local_date": local_date,
                }
                for first_name, last_name, external_id in readers.named
            ],
            texts.htmls,
            readers.columns["locale"],
            readers.unsubscribe_urls,
        )

    def _one_by_one(
        self, ready: Sequence[ReadyMessage], readers: _Readers, now: datetime
    ) -> list[OutgoingMessage | Failed]:
        """Each message by itself: its text takes more than filling in, or is of no use for one of its readers."""
        failures: dict[int, Failed] = {}
        said: list[RenderedText] = []
        for place, (message, url) in enumerate(zip(ready, readers.unsubscribe_urls, strict=True)):
            try:
                said.append(self._said(message.recipient, url))
            except RenderingFailed as error:
                failures[place] = _failed(error, now)
                said.append(_NOTHING_SAID)
        outgoing = self._outgoing(ready, readers, TextColumns(*zip(*said, strict=True)))
        return [failures.get(place, message) for place, message in enumerate(outgoing)]

    def _said(self, recipient: Recipient, unsubscribe_url: str | None) -> RenderedText:
        texts = self._texts.of(recipient.locale)
        values = self._values(recipient, texts, unsubscribe_url)
        return texts.render(values, None if texts.are_plain else self._reading(recipient))

    def _reading(self, recipient: Recipient) -> Reading:
        return Reading(recipient.locale, self._batch.local_date, self._occasion.leap_day)

    def _unsubscribe_urls(self, recipients: Sequence[Recipient]) -> Sequence[str | None]:
        links, batch = self._links, self._batch
        if links is None:
            return [None] * len(recipients)
        return [
            links.unsubscribe_url(batch.tenant_id, recipient.id, batch.channel, batch.occasion_id)
            for recipient in recipients
        ]

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


class _Readers:
    """What is told of recipients: columns of equal length, by the name that texts have for them."""

    def __init__(self, recipients: Sequence[Recipient], unsubscribe_urls: Sequence[str | None]) -> None:
        told = dict(zip(Recipient._fields, zip(*recipients, strict=True), strict=True))
        self.unsubscribe_urls = unsubscribe_urls
        self.columns: dict[str, Sequence[str]] = {name: told[name] for name in _COLUMNS}
        first_names, last_names = self.columns["first_name"], self.columns["last_name"]
        self.columns["full_name"] = list(map(full_name, first_names, last_names))
        urls = [url for url in unsubscribe_urls if url is not None]
        if len(urls) == len(recipients):
            self.columns["unsubscribe_url"] = urls

    @property
    def named(self) -> Iterable[tuple[str, str, str]]:
        """First name, last name and external id of each."""
        columns = self.columns
        return zip(columns["first_name"], columns["last_name"], columns["external_id"], strict=True)


def _failed(error: RenderingFailed, now: datetime) -> Failed:
    return Failed(FailureKind.PERMANENT, TEXT_ERROR, str(error), None, now)
