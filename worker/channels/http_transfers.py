"""Requests as transfers of libcurl's multi.

Speed comes from setting up once whatever is constant: handles, connections, options. A message changes the body
and the header list of a handle, and what libcurl reports about it is collected by plain lists.

Limits: at most `MOST_CONCURRENCY` requests in flight, because libcurl is waited for with select(2), which knows no
file descriptor beyond 1,023. With `perform`, select was measured to be faster here than epoll with `socket_action`,
which calls back several times for each request. A connection that was idle for less than a second is not looked at
before it is used again: closed by the provider in that second, it makes an unknown outcome. Signatures for AWS carry
the time of the machine, not of the clock given.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from threading import Event

import pycurl

from worker.channels.destination import DestinationPolicy
from worker.channels.http_request import Request
from worker.channels.http_settings import HttpSettings
from worker.channels.http_transfer import Transfer
from worker.channels.http_transport import (
    IDLE_PAUSE_SECONDS,
    LONGEST_WAIT_SECONDS,
    Ended,
    Exchange,
    Trouble,
)


class Transfers:
    """As many transfers as the settings allow. `url` is None where each request brings its own."""

    def __init__(self, settings: HttpSettings, url: str | None) -> None:
        self._most = settings.concurrency
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, settings.concurrency)
        policy = (
            DestinationPolicy(settings.allowed_networks, settings.allowed_ports) if settings.guard else None
        )
        self._idle = [Transfer(settings, url, policy) for _ in range(settings.concurrency)]
        self._busy: dict[pycurl.Curl, Transfer] = {}

    @property
    def has_room(self) -> bool:
        """See `Transport`."""
        return bool(self._idle)

    @property
    def in_flight(self) -> Sequence[Exchange]:
        """See `Transport`."""
        return list(self._busy.values())

    def refresh(self) -> None:
        """See `Transport`: libcurl looks after its connections itself."""

    def start(self, request: Request, began_at: float) -> None:
        """See `Transport`."""
        transfer = self._idle.pop()
        self._busy[transfer.handle] = transfer
        transfer.take(request, began_at)
        self._multi.add_handle(transfer.handle)

    def ended(self) -> Sequence[Ended]:
        """See `Transport`."""
        self._multi.perform()
        _, whole, broken = self._multi.info_read(self._most)
        if not whole and not broken:
            self._wait()
            return ()
        return [
            *(Ended(self._busy[handle], handle.getinfo(pycurl.RESPONSE_CODE), None) for handle in whole),
            *(self._broken(self._busy[handle], Trouble(error, text)) for handle, error, text in broken),
        ]

    def release(self, exchange: Exchange) -> None:
        """See `Transport`. What is still in flight loses its connection."""
        assert isinstance(exchange, Transfer)
        self._multi.remove_handle(exchange.handle)
        del self._busy[exchange.handle]
        exchange.clear()
        self._idle.append(exchange)

    def close(self) -> None:
        """See `Transport`."""
        for transfer in self._idle:
            transfer.close()
        self._idle.clear()
        self._multi.close()

    def _broken(self, transfer: Transfer, trouble: Trouble) -> Ended:
        return Ended(transfer, transfer.final_status(), trouble)

    def _wait(self) -> None:
        """Wait until libcurl has something to do, for a moment at most."""
        try:
            if not self._multi.select(LONGEST_WAIT_SECONDS):
                # It returns at once while there is no socket: never turn on the spot.
                Event().wait(IDLE_PAUSE_SECONDS)
        except pycurl.error as error:
            if error.args[0] != errno.EINTR:
                raise
