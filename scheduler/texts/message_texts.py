"""The texts of one occasion: which of them a reader gets, and what it says to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from scheduler.domain.occasion import MessageText, Occasion
from scheduler.errors import InvalidInput
from scheduler.texts.bounds import TextForm
from scheduler.texts.compiled import CompiledText, compile_text
from scheduler.texts.environment import Named, Reading
from scheduler.texts.failure import RenderingFailed
from scheduler.texts.grammar import GROUPS
from scheduler.texts.locales import ranges


class RenderedText(NamedTuple):
    """What a message says to one reader. Personal: for the message only."""

    subject: str
    body: str
    html: str | None


class TextColumns(NamedTuple):
    """What messages say to many readers, in their order. Personal, as `RenderedText` is."""

    subjects: Sequence[str]
    bodies: Sequence[str]
    htmls: Sequence[str | None]


class CompiledTexts:
    """Subject, body and HTML of one language, ready to be rendered."""

    def __init__(self, subject: CompiledText, body: CompiledText, html: CompiledText | None) -> None:
        self._subject = subject
        self._body = body
        self._html = html
        self.are_plain = subject.is_plain and body.is_plain and (html is None or html.is_plain)
        """Whether they can be rendered without a reading."""
        variables = subject.variables | body.variables | (html.variables if html else frozenset())
        self.name_groups = not variables.isdisjoint(GROUPS)
        """Whether any of them names a user's dates or attributes."""

    def render(self, values: Mapping[str, Any], reading: Reading | None) -> RenderedText:
        """What they say with `values`; see `CompiledText.render`."""
        return RenderedText(
            self._subject.render(values, reading),
            self._body.render(values, reading),
            None if self._html is None else self._html.render(values, reading),
        )

    def many(
        self, shared: Mapping[str, Any], columns: Mapping[str, Sequence[str]], count: int
    ) -> TextColumns | None:
        """What they say to each of `count` readers; see `CompiledText.many`. None where one of them cannot."""
        subjects, bodies = (text.many(shared, columns, count) for text in (self._subject, self._body))
        if subjects is None or bodies is None:
            return None
        if self._html is None:
            return TextColumns(subjects, bodies, [None] * count)
        htmls = self._html.many(shared, columns, count)
        return None if htmls is None else TextColumns(subjects, bodies, htmls)


class OccasionTexts:
    """The texts of one occasion by language, compiled when first asked for."""

    def __init__(self, occasion: Occasion, *, with_html: bool) -> None:
        """Leave HTML out where the channel has no use for it."""
        self._own = occasion.text
        self._by_tag = {tag.lower(): text for tag, text in occasion.translations.items()}
        self._with_html = with_html
        self._found: dict[str, CompiledTexts | RenderingFailed] = {}

    def of(self, locale: str) -> CompiledTexts:
        """The texts for readers of a locale: `en-GB`, else `en`, else the occasion's own (RFC 4647 §3.4).

        Raises RenderingFailed where they are stored and none the less invalid.
        """
        found = self._found.get(locale)
        if found is None:
            found = self._found[locale] = self._compiled(text_for(locale, self._by_tag, self._own))
        if isinstance(found, RenderingFailed):
            raise found
        return found

    def _compiled(self, text: MessageText) -> CompiledTexts | RenderingFailed:
        try:
            return compile_texts(text, with_html=self._with_html)
        except InvalidInput as error:
            return RenderingFailed(f"the occasion's text is invalid: {error}")


def text_for(locale: str, by_tag: Mapping[str, MessageText], own: MessageText) -> MessageText:
    """The text for readers of a locale, of those by their tags in lower case."""
    return next((by_tag[tag] for tag in ranges(locale) if tag in by_tag), own)


def compile_texts(text: MessageText, *, with_html: bool) -> CompiledTexts:
    """The texts of one language. Raises InvalidInput."""
    return CompiledTexts(
        compile_text(text.subject, TextForm.SUBJECT),
        compile_text(text.body, TextForm.BODY),
        compile_text(text.html, TextForm.HTML) if with_html and text.html is not None else None,
    )


def needs_details(occasion: Occasion) -> bool:
    """Whether any of its texts names a user's dates or attributes. What is invalid needs nothing."""
    for text in (occasion.text, *occasion.translations.values()):
        try:
            texts = compile_texts(text, with_html=True)
        except InvalidInput:
            continue
        if texts.name_groups:
            return True
    return False


def full_name(first_name: str, last_name: str) -> str:
    """Both names, or the one there is."""
    return f"{first_name} {last_name}" if first_name and last_name else first_name or last_name


def as_dates(values: Mapping[str, date] | None) -> Named:
    """A user's dates, as the variable `dates`."""
    return Named("dates", () if values is None else values.items())


def as_attributes(values: Mapping[str, object] | None) -> Named:
    """A user's attributes, as the variable `attributes`: one that is null is missing."""
    return Named("attributes", _present(() if values is None else values.items()))


def _present(values: Iterable[tuple[str, object]]) -> Iterable[tuple[str, object]]:
    return ((name, value) for name, value in values if value is not None)
