"""How requests reach a provider: what `HttpProvider` and its two transports say to each other.

| transport | for |
|---|---|
| `http_kept.KeptConnections` | one URL for all requests: libcurl opens the connections, requests and answers are ours |
| `http_transfers.Transfers` | everything else, such as URLs that users gave: libcurl does it all |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from worker.channels.answer_rules import Answer
from worker.channels.http_request import Request
from worker.channels.http_settings import HttpSettings

LONGEST_ANSWER: Final = 65_536  # bytes
LONGEST_RESULT: Final = 1_024  # bytes, on the average, for each message in a request
LONGEST_WAIT_SECONDS: Final = 0.05  # for an answer, before the stop signal is looked at again
IDLE_PAUSE_SECONDS: Final = 0.001  # when there is no socket to wait for yet
DNS_CACHE_SECONDS: Final = 60


class Exchange(Protocol):
    """A request under way, and what came back."""

    request: Request
    began_at: float
    """Seconds of the monotonic clock."""

    @property
    def is_forbidden(self) -> bool:
        """Whether there was no address to connect to but refused ones."""

    def may_have_arrived(self) -> bool:
        """Whether any byte of the request has left."""

    def answer(self, status: int, *, is_whole: bool) -> Answer:
        """What came back."""


class Trouble(NamedTuple):
    """How a request or its answer broke off: an error of libcurl, and its words."""

    error: int
    text: str


class Ended(NamedTuple):
    """An exchange that is over. `status` 0: no answer came, or an interim one. Without trouble the answer is whole."""

    exchange: Exchange
    status: int
    trouble: Trouble | None


class Transport(Protocol):
    """Carries requests, each once at most. Used by one thread."""

    def refresh(self) -> None:
        """Called before the requests of a delivery: whatever was closed meanwhile is used no more."""

    @property
    def has_room(self) -> bool:
        """Whether another request may be started."""

    @property
    def in_flight(self) -> Sequence[Exchange]:
        """The exchanges that were started and not released."""

    def start(self, request: Request, began_at: float) -> None:
        """Start a request, for which there must be room."""

    def ended(self) -> Sequence[Ended]:
        """What has ended since it was last asked; where that is nothing yet, after `LONGEST_WAIT_SECONDS` at most."""

    def release(self, exchange: Exchange) -> None:
        """Forget an exchange, ended or not: its place may be used for another."""

    def close(self) -> None:
        """Close all connections."""


def longest_answer(settings: HttpSettings) -> int:
    """How many bytes of an answer are read."""
    return LONGEST_ANSWER + LONGEST_RESULT * (settings.batch.most if settings.batch else 0)
