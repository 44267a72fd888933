"""The URL and the headers of a request, from templates with fields.

In a URL a value is percent-encoded, so that it stays inside the segment of the path or the part of the query
where it stands. A URL that is nothing but one field is the value of that field as it is.

A header whose name ends in `?` is left out where none of its fields has a value. Values may be any text without
control characters; beyond ASCII they are sent as UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from scheduler.errors import ConfigurationError, InvalidInput
from scheduler.setting_values import HEADER_NAME
from worker.channels.request_fields import Unsendable
from worker.templates import Template, compile_template

KEY_HEADER: Final = "Idempotency-Key"
LONGEST_URL: Final = 8_000  # characters

_URL: Final = re.compile(r"https?://(?![/?#])[\x21-\x7e]+", re.IGNORECASE)
_LITERAL_HOST: Final = re.compile(r"https?://[^\s/?#@]+[/?#]", re.IGNORECASE)
_DOT_SEGMENT: Final = re.compile(r"/\.\.?(?=/|$)")
# RFC 9110 §5.5, without what is beyond ASCII.
_PLAIN_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Theirs is the framing of the request, or it is the message's identity.
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade", KEY_HEADER.lower()}
)


class UrlTemplate:
    """A URL with fields; `constant` where it has none. Raises ConfigurationError."""

    def __init__(self, source: str) -> None:
        self._template = _compile("url", source)
        self.names = frozenset(self._template.names)
        self._only_field = self._template.only_field
        self.constant = None if self.names else self._template.render({})
        if self.constant is not None:
            _check_constant(self.constant)
        elif self._only_field is None and not _LITERAL_HOST.match(self._template.beginning):
            raise ConfigurationError("url takes fields in its path and query, or is one field alone")

    def render(self, values: Mapping[str, str]) -> str:
        """The URL for the values of one message. Raises Unsendable, `MissingFieldError`, UnicodeEncodeError."""
        if self._only_field is not None:
            url = self._template.fill(values)
            if len(url) > LONGEST_URL or not _URL.fullmatch(url) or not _has_plain_host(url):
                raise Unsendable("invalid_url", "its URL is no address of http or https")
            return url
        encoded = {name: quote(values[name], safe="") for name in self.names if name in values}
        url = self._template.fill(encoded)
        # Dots are never encoded, and would lead out of the path they stand in.
        if _DOT_SEGMENT.search(url.partition("?")[0]) or len(url) > LONGEST_URL:
            raise Unsendable("invalid_url", "a value cannot stand in the URL")
        return url


class HeaderTemplates:
    """The headers of a request. Raises ConfigurationError."""

    def __init__(self, headers: Mapping[str, str], content_type: str) -> None:
        self.constant: list[str] = []
        self._changing: list[tuple[str, Template, tuple[str, ...] | None]] = []
        for written, source in headers.items():
            name = written.removesuffix("?")
            _check_name(name)
            template = _compile(f"header {name}", source)
            if template.names:
                self._changing.append((name, template, template.names if name != written else None))
            elif not _PLAIN_VALUE.fullmatch(value := template.render({})):
                raise ConfigurationError(f"header {name!r} is not a valid field")
            else:
                self.constant.append(f"{name}: {value}")
        if not any(name.lower().removesuffix("?") == "content-type" for name in headers):
            self.constant.append(f"Content-Type: {content_type}")
        self.names = frozenset(name for _, template, _ in self._changing for name in template.names)

    def render(self, values: Mapping[str, str]) -> list[bytes]:
        """The lines that depend on the message. Raises Unsendable, `MissingFieldError`, UnicodeEncodeError."""
        return list(self._lines(values))

    def _lines(self, values: Mapping[str, str]) -> Iterator[bytes]:
        for name, template, optional in self._changing:
            if optional is not None and not any(values.get(field) for field in optional):
                continue
            value = template.render(values).strip()
            if _CONTROL.search(value):
                raise Unsendable("invalid_header", f"control characters in the header {name}")
            # Without a value libcurl takes a header for one to remove, unless it ends so.
            yield f"{name}: {value}".encode() if value else f"{name};".encode()


def _compile(place: str, source: str) -> Template:
    try:
        return compile_template(source, None)
    except InvalidInput as error:
        raise ConfigurationError(f"{place}: {error}") from None


def _check_constant(url: str) -> None:
    if not _URL.fullmatch(url):
        raise ConfigurationError("url takes http:// or https:// and printable ASCII")


def _check_name(name: str) -> None:
    if not HEADER_NAME.fullmatch(name):
        raise ConfigurationError(f"header {name!r} is not a valid field")
    if name.lower() in _OWN_HEADERS:
        raise ConfigurationError(f"header {name!r} is set by Daybreak itself")


def _has_plain_host(url: str) -> bool:
    """Whether the URL names a host and nobody who logs in there."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False


def host_of(url: str) -> str:
    """Host and port of a URL, as it is written."""
    return urlsplit(url).netloc.lower()
