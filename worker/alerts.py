"""Tells people that a provider refuses us: one request to the address they gave, from a thread of its own.

The body is JSON, `{"text": …}`, as chat services take it. Nothing of a delivery waits for it: while the thread is
busy a few alerts are kept, further ones are dropped, and whatever goes wrong is logged only. An alert holds the
provider's name and what it said, which is free of addresses, texts and secrets.
"""

from __future__ import annotations

from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Final

import orjson
import pycurl
from loguru import logger
from pydantic import SecretStr

TIMEOUT_SECONDS: Final = 5.0
MOST_KEPT: Final = 20

_LOOK_SECONDS: Final = 0.2
_LONGEST_ANSWER: Final = 65_536  # bytes
_ACCEPTED: Final = range(200, 300)


class Alerts:
    """Posts alerts to `url`; without one they are in the logs only."""

    def __init__(self, url: SecretStr | None, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._texts: Queue[str] = Queue(MOST_KEPT)
        self._closed = Event()
        self._thread = Thread(target=self._post_all, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin to post."""
        if self._url is not None:
            self._thread.start()

    def close(self) -> None:
        """Post what is kept, for as long as one request may take, and end."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(self._timeout_seconds + 1)

    def tell(self, text: str) -> None:
        """Have `text` posted; returns at once, from any thread."""
        if self._url is None:
            return
        try:
            self._texts.put_nowait(text)
        except Full:
            logger.warning("alert_dropped")

    def _post_all(self) -> None:
        while not (self._closed.is_set() and self._texts.empty()):
            try:
                text = self._texts.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            self._post(text)

    def _post(self, text: str) -> None:
        try:
            status = self._request(orjson.dumps({"text": text}))
        except pycurl.error as error:
            logger.bind(cause=f"curl_{error.args[0]}").warning("alert_failed")
            return
        if status not in _ACCEPTED:
            logger.bind(cause=f"http_{status}").warning("alert_failed")

    def _request(self, body: bytes) -> int:
        assert self._url is not None
        handle = pycurl.Curl()
        try:
            for option, value in (
                (pycurl.URL, self._url.get_secret_value()),
                (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
                (pycurl.PROXY, ""),
                (pycurl.POSTFIELDS, body),
                (pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"]),
                (pycurl.USERAGENT, "Daybreak"),
                (pycurl.FOLLOWLOCATION, 0),
                (pycurl.MAXFILESIZE, _LONGEST_ANSWER),
                (pycurl.TIMEOUT_MS, round(self._timeout_seconds * 1000)),
                (pycurl.NOSIGNAL, 1),
                (pycurl.WRITEFUNCTION, len),
            ):
                handle.setopt(option, value)
            handle.perform()
            return int(handle.getinfo(pycurl.RESPONSE_CODE))
        finally:
            handle.close()
