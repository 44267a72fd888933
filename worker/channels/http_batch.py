"""Many messages in one HTTP request, and what happens to one that is refused.

Messages that have the same URL, headers and body around their elements go together. The key of a request is the
SHA-256 of its messages' ids, sorted, with line feeds between them: the same messages make the same key. Tried
again in other company a message has another key, so a provider must tell messages apart by the id in the element,
or its channel hold what has an unknown outcome.

A request that is permanently refused is sent again in halves, and those in theirs, down to the messages that are
refused alone: at most 2n - 1 requests for n messages, within the time of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from scheduler.clock import Clock
from worker.channels.http_request import (
    NO_EXPECTATION,
    Head,
    Line,
    MayStart,
    Refuse,
    Request,
    are_keys,
    check_key,
    check_places,
    encode,
    not_unicode,
)
from worker.channels.http_settings import BatchForm, HttpSettings
from worker.channels.json_body import FIELDS_PLACE, MESSAGES_PLACE, compile_json_body
from worker.channels.port import OutgoingMessage
from worker.channels.request_fields import ATTRIBUTES, FieldReader, Unsendable
from worker.templates import MissingFieldError

# Where the elements go. No encoded value holds it, for in a string a quote is escaped.
_ELEMENTS: Final = '"\ue000daybreak messages\ue000"'.encode()


class _Envelope(NamedTuple):
    """What the messages of a request share."""

    url: str | None
    host: str | None
    lines: tuple[bytes, ...]
    body: bytes


@dataclass(slots=True)
class _Elements:
    """The messages of a request that grows: where they stand in the batch, and what is sent of them."""

    positions: list[int] = field(default_factory=list)
    messages: list[OutgoingMessage] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    size: int = 0

    def array(self) -> bytes:
        """All of them, as JSON."""
        return b"[" + b",".join(self.encoded) + b"]"


@dataclass(slots=True)
class JoinedRequest(Request):
    """A request with what it was put together from."""

    envelope: _Envelope = field(kw_only=True)
    messages: Sequence[OutgoingMessage] = field(kw_only=True)


class JoinedRequests:
    """Requests with many messages each."""

    def __init__(self, settings: HttpSettings, batch: BatchForm, clock: Clock) -> None:
        self._batch = batch
        self._head = Head(settings, clock, NO_EXPECTATION)
        self._body = compile_json_body(settings.body)
        self._element = compile_json_body(batch.element)
        check_places(self._body, (MESSAGES_PLACE,))
        check_places(self._element, ())
        shared = self._head.names | self._body.names
        self._reader = FieldReader(shared | self._element.names)
        self._envelope: _Envelope | None = None
        if not shared and FIELDS_PLACE not in self._body.places:
            self._envelope = self._enclose({}, {})
        self._direct = self._element.direct_encoder(ATTRIBUTES)
        self._array = self._element.array_encoder(ATTRIBUTES)

    @property
    def constant_url(self) -> str | None:
        """See `Writer`."""
        return self._head.constant_url

    def requests(
        self, messages: Sequence[OutgoingMessage], more: Sequence[str], may_start: MayStart, refuse: Refuse
    ) -> Iterator[Request]:
        """See `Writer`."""
        constant = self._head.constant_lines(more)
        first = 0
        while first < len(messages):
            request = self._at_once(messages, first, constant)
            if request is None:
                yield from self._one_by_one(messages, first, constant, may_start, refuse)
                return
            if not may_start():
                return
            yield request
            first += len(request.positions)

    def _at_once(
        self, messages: Sequence[OutgoingMessage], first: int, constant: Sequence[Line]
    ) -> JoinedRequest | None:
        """The request for as many messages as there may be in one. None where each must be looked at: requests that
        differ, elements that are more than fields, one that cannot be sent, or too much for one request.
        """
        if self._array is None or self._envelope is None:
            return None
        together = messages[first : first + self._batch.most]
        try:
            array = self._array(together)
        except TypeError:
            return None
        lines = _lines_of_ids(together)
        if len(array) - len(b"[]") > self._batch.most_bytes or not are_keys(lines, len(together)):
            return None
        positions = range(first, first + len(together))
        return self._put_together(self._envelope, positions, together, array, constant)

    def _one_by_one(
        self,
        messages: Sequence[OutgoingMessage],
        first: int,
        constant: Sequence[Line],
        may_start: MayStart,
        refuse: Refuse,
    ) -> Iterator[JoinedRequest]:
        """The requests for the messages from `first` on, each message encoded by itself."""
        most, most_bytes = self._batch.most, self._batch.most_bytes
        growing: dict[_Envelope, _Elements] = {}
        latest: _Envelope | None = None
        elements = _Elements()
        for position in range(first, len(messages)):
            message = messages[position]
            try:
                envelope, encoded = self._write(message)
            except Unsendable as refused:
                refuse(position, refused)
                continue
            if envelope is not latest:
                elements = growing.setdefault(envelope, _Elements())
                latest = envelope
            if elements.encoded and (
                len(elements.encoded) >= most or elements.size + len(encoded) > most_bytes
            ):
                if not may_start():
                    return
                yield self._grown(envelope, elements, constant)
                elements = growing[envelope] = _Elements()
            elements.positions.append(position)
            elements.messages.append(message)
            elements.encoded.append(encoded)
            elements.size += len(encoded) + 1
        for envelope, elements in growing.items():
            if not may_start():
                return
            yield self._grown(envelope, elements, constant)

    def halves(self, request: Request, /) -> list[Request]:
        """See `Writer`."""
        if not isinstance(request, JoinedRequest) or len(request.positions) < 2 or not self._batch.narrows:
            return []
        middle = len(request.positions) // 2
        halves: list[Request] = []
        for part in (slice(middle), slice(middle, None)):
            messages = request.messages[part]
            array = _Elements(encoded=[self._write(message)[1] for message in messages]).array()
            positions = request.positions[part]
            halves.append(self._put_together(request.envelope, positions, messages, array, request.constant))
        return halves

    def _write(self, message: OutgoingMessage) -> tuple[_Envelope, bytes]:
        check_key(message.id)
        try:
            if self._direct is not None and self._envelope is not None:
                return self._envelope, self._direct(message)
            values = self._reader.read(message)
            envelope = self._envelope or self._enclose(values, message.fields)
            element = self._element
            return envelope, encode(element, values, message) if element.places else element.encode(values)
        except MissingFieldError as error:
            raise Unsendable("missing_field", str(error)) from None
        except (TypeError, UnicodeEncodeError):
            raise not_unicode() from None

    def _enclose(self, values: Mapping[str, str], fields: Mapping[str, str]) -> _Envelope:
        url, host = self._head.address(values)
        inserted = {MESSAGES_PLACE: orjson.Fragment(_ELEMENTS)}
        if FIELDS_PLACE in self._body.places:
            inserted[FIELDS_PLACE] = orjson.Fragment(orjson.dumps(dict(fields)))
        lines = tuple(self._head.changing_lines(values))
        return _Envelope(url, host, lines, self._body.encode(values, inserted))

    def _grown(self, envelope: _Envelope, elements: _Elements, constant: Sequence[Line]) -> JoinedRequest:
        return self._put_together(envelope, elements.positions, elements.messages, elements.array(), constant)

    def _put_together(
        self,
        envelope: _Envelope,
        positions: Sequence[int],
        messages: Sequence[OutgoingMessage],
        array: bytes,
        constant: Sequence[Line],
    ) -> JoinedRequest:
        body = envelope.body.replace(_ELEMENTS, array)
        key = sha256(_lines_of_ids(messages).encode()).hexdigest()
        return JoinedRequest(
            positions,
            body,
            constant,
            key if self._head.sends_key else None,
            [*envelope.lines, *self._head.signature_lines(key, body)],
            envelope.url,
            envelope.host,
            envelope=envelope,
            messages=messages,
        )


def _lines_of_ids(messages: Sequence[OutgoingMessage]) -> str:
    return "\n".join(sorted([message.id for message in messages]))
