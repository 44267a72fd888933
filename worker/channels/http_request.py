"""From messages to HTTP requests: what both forms, one message each and many in one, have in common, and the first.

See `http_batch.py` for the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

from scheduler.clock import Clock
from scheduler.errors import ConfigurationError
from scheduler.standard_webhooks import decode_secret, signed_headers
from worker.channels.form_body import CONTENT_TYPE, FormBody, compile_form_body
from worker.channels.http_settings import HttpSettings
from worker.channels.json_body import FIELDS_PLACE, MESSAGES_PLACE, JsonBody, compile_json_body
from worker.channels.port import OutgoingMessage
from worker.channels.request_fields import ATTRIBUTES, FieldReader, Unsendable
from worker.channels.request_head import KEY_HEADER, HeaderTemplates, UrlTemplate, host_of
from worker.templates import MissingFieldError

# Without it libcurl holds back a long body until the server asks for it.
NO_EXPECTATION: Final = "Expect:"

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_KEYS: Final = re.compile(rf"{_KEY.pattern}(?:\n{_KEY.pattern})*")

MayStart = Callable[[], bool]
Refuse = Callable[[int, Unsendable], None]
Line = str | bytes


@dataclass(slots=True)
class Request:
    """One request: the messages it carries, by their places in the batch, and what is sent.

    `constant` are the header lines that all requests of a delivery have, the same object in each; `lines` are its own,
    besides `key`, the `Idempotency-Key` (None: it has none). `url` is None where all requests go to the same one;
    `host` is None where it does not matter.
    """

    positions: Sequence[int]
    body: bytes
    constant: Sequence[Line]
    key: str | None
    lines: Sequence[Line] = ()
    url: str | None = None
    host: str | None = None

    def header_lines(self) -> list[Line]:
        """All of them."""
        key = () if self.key is None else (f"{KEY_HEADER}: {self.key}",)
        return [*self.constant, *self.lines, *key]


class Writer(Protocol):
    """Writes requests. Both forms compile their templates first, and raise ConfigurationError where they do not."""

    @property
    def constant_url(self) -> str | None:
        """The URL of all requests, if they have the same."""

    def requests(
        self, messages: Sequence[OutgoingMessage], more: Sequence[str], may_start: MayStart, refuse: Refuse
    ) -> Iterator[Request]:
        """The requests for the messages, written one by one as they are asked for; `more` are headers of each.

        `may_start` is asked before each request, and where it says no, nothing follows. `refuse` is told of
        messages that cannot be written.
        """

    def halves(self, request: Request, /) -> list[Request]:
        """Two requests for the messages of one; none where it has but one, or must not be sent again."""


class Head:
    """URL and headers of the requests of one provider."""

    def __init__(self, settings: HttpSettings, clock: Clock, *more: str) -> None:
        self._clock = clock
        self._url = UrlTemplate(settings.url)
        content_type = CONTENT_TYPE if settings.body_form == "form" else "application/json"
        self._headers = HeaderTemplates(settings.headers, content_type)
        self._more = more
        self._secrets = settings.signing_secrets
        _check_secrets(self._secrets)
        self.sends_key = settings.sends_key
        self._tells_hosts = settings.host_connections is not None
        self.names = self._url.names | self._headers.names
        self.constant_url = self._url.constant
        # Requests that differ in their key alone are the most, and are written with the least ado.
        self.is_plain = not self.names and not self._secrets

    def constant_lines(self, more: Iterable[str]) -> list[Line]:
        """The header lines that are the same in all requests of one delivery."""
        return [*self._headers.constant, *self._more, *more]

    def address(self, values: Mapping[str, str]) -> tuple[str | None, str | None]:
        """URL and host for a message, each None where it does not matter. Raises as `UrlTemplate.render` does."""
        url = None if self.constant_url is not None else self._url.render(values)
        return url, host_of(url) if url is not None and self._tells_hosts else None

    def changing_lines(self, values: Mapping[str, str]) -> list[bytes]:
        """The header lines that depend on the message. Raises as `HeaderTemplates.render` does."""
        return self._headers.render(values)

    def signature_lines(self, key: str, body: bytes) -> list[str]:
        """The header lines that say from whom the request is."""
        if not self._secrets:
            return []
        sent_at = int(self._clock.now().timestamp())
        signed = signed_headers(self._secrets, key, sent_at, body)
        return [f"{name}: {value}" for name, value in signed.items()]


class SingleRequests:
    """One request for each message."""

    def __init__(self, settings: HttpSettings, clock: Clock) -> None:
        self._head = Head(settings, clock)
        is_form = settings.body_form == "form"
        self._body = compile_form_body(settings.body) if is_form else compile_json_body(settings.body)
        check_places(self._body, ())
        self._reader = FieldReader(self._head.names | self._body.names)
        self._direct = None
        if isinstance(self._body, JsonBody) and self._head.is_plain:
            self._direct = self._body.direct_encoder(ATTRIBUTES)

    @property
    def constant_url(self) -> str | None:
        """See `Writer`."""
        return self._head.constant_url

    def requests(
        self, messages: Sequence[OutgoingMessage], more: Sequence[str], may_start: MayStart, refuse: Refuse
    ) -> Iterator[Request]:
        """See `Writer`."""
        constant = self._head.constant_lines(more)
        for position, message in enumerate(messages):
            if not may_start():
                return
            try:
                request = self._write(position, message, constant)
            except Unsendable as refused:
                refuse(position, refused)
            else:
                yield request

    def halves(self, _request: Request, /) -> list[Request]:
        """See `Writer`."""
        return []

    def _write(self, position: int, message: OutgoingMessage, constant: list[Line]) -> Request:
        check_key(message.id)
        head = self._head
        key = message.id if head.sends_key else None
        try:
            if self._direct is not None:
                return Request((position,), self._direct(message), constant, key)
            values = self._reader.read(message)
            body = encode(self._body, values, message)
            if head.is_plain:
                return Request((position,), body, constant, key)
            url, host = head.address(values)
            lines: list[Line] = [*head.changing_lines(values), *head.signature_lines(message.id, body)]
        except MissingFieldError as error:
            raise Unsendable("missing_field", str(error)) from None
        except (TypeError, UnicodeEncodeError):
            raise not_unicode() from None
        return Request((position,), body, constant, key, lines, url, host)


def encode(body: JsonBody | FormBody, values: Mapping[str, str], message: OutgoingMessage) -> bytes:
    """The body for one message. Raises MissingFieldError; TypeError or UnicodeEncodeError: it is no Unicode."""
    if not body.places:
        return body.encode(values)
    return body.encode(values, {FIELDS_PLACE: orjson.Fragment(orjson.dumps(dict(message.fields)))})


def check_key(key: str) -> None:
    """Raises Unsendable for an id that could break out of its header."""
    if not _KEY.fullmatch(key):
        raise Unsendable("invalid_id", "its id cannot stand in a header field")


def are_keys(lines: str, count: int) -> bool:
    """Whether these are `count` ids, a line each, that `check_key` has nothing against."""
    return lines.count("\n") == count - 1 and _KEYS.fullmatch(lines) is not None


def check_places(body: JsonBody | FormBody, wanted: Iterable[str]) -> None:
    """Raises ConfigurationError unless the body has each of the `wanted` places once; fields it may have anyway."""
    if body.places.count(MESSAGES_PLACE) != list(wanted).count(MESSAGES_PLACE):
        raise ConfigurationError('the body holds "{messages}" once with batch, and never without it')


def not_unicode() -> Unsendable:
    """For a message that cannot be written at all."""
    return Unsendable("not_unicode", "it cannot be written as UTF-8")


def _check_secrets(secrets: Iterable[str]) -> None:
    try:
        for secret in secrets:
            decode_secret(secret)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
