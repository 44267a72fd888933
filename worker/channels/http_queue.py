"""The order in which the requests of a batch are started, so that a slow host does not hold up the others.

Requests are written when their turn comes. One for a host that has as many in flight as it may waits in a line of
its host, and those behind it go on.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

from worker.channels.http_request import Request


class RequestQueue:
    """Requests that have not been started. `host_limit` None: any number may be in flight to one host."""

    def __init__(
        self, requests: Iterator[Request], host_limit: int | None, may_start: Callable[[], bool]
    ) -> None:
        self._requests = requests
        self._limit = host_limit
        self._may_start = may_start
        self._first: deque[Request] = deque()
        self._in_flight: Counter[str] = Counter()
        self._lines: dict[str, deque[Request]] = {}

    def next(self) -> Request | None:
        """The request to start now; it counts as in flight. None: there is none, or none may be started."""
        while self._first:
            if not self._may_start():
                return None
            request = self._first.popleft()
            if self._has_room(request):
                return request
        if self._limit is None:
            return next(self._requests, None)
        return next(filter(self._has_room, self._requests), None)

    def put_first(self, requests: Iterable[Request]) -> None:
        """Requests to be started before all others."""
        self._first.extend(requests)

    def put_back(self, request: Request) -> None:
        """Take back what `next` gave and could not be started."""
        self._first.appendleft(request)
        self._leave(request)

    def ended(self, request: Request) -> None:
        """A request is no longer in flight: the next for its host may be started."""
        if self._limit is None:
            return
        line = self._leave(request)
        if line:
            self._first.append(line.popleft())

    def _has_room(self, request: Request) -> bool:
        """Whether the request may be started as far as its host is concerned; if not, it waits there."""
        if self._limit is None or request.host is None:
            return True
        if self._in_flight[request.host] >= self._limit:
            self._lines.setdefault(request.host, deque()).append(request)
            return False
        self._in_flight[request.host] += 1
        return True

    def _leave(self, request: Request) -> deque[Request] | None:
        if self._limit is None or request.host is None:
            return None
        self._in_flight[request.host] -= 1
        return self._lines.get(request.host)
