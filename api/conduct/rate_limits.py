"""How much a caller may ask: a bucket of tokens for each, which refills steadily.

A caller is an API key or a token's subject; without one, a network address, an IPv6 one by its /64. Failures to
prove who one is have a smaller bucket, by address: past it they are answered 429, so that guessing slows down
itself and nobody else behind the same address. Health checks and callbacks are not counted: they must not be lost.

Limits: each process counts for itself, so a caller may have as many times the limit as there are processes. Behind a
proxy the address is the proxy's. Not the library `limits`: see decision 0013.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from ipaddress import IPv6Address, IPv6Network, ip_address
from threading import Lock
from typing import Any, Final, NamedTuple

from flask import Request

from api.access import ANONYMOUS
from api.answers import Answer
from api.problems import Problem, Refused, problem_answer
from scheduler.clock import Clock
from scheduler.domain.access import Actor

_WINDOW_SECONDS: Final = 60
_MOST_BUCKETS: Final = 10_000
_UNCOUNTED: Final = frozenset({"health", "callbacks"})


class Budget(NamedTuple):
    """What is left of a caller's bucket after a request."""

    is_exceeded: bool
    left: int
    seconds: float
    """Until the bucket is full again or, where it is exceeded, until it holds another token."""


class TokenBuckets:
    """Buckets of `per_minute` tokens by name. A bucket is one number: the instant at which it is full again."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._interval = _WINDOW_SECONDS / per_minute if per_minute else 0.0
        self._full_at: dict[str, float] = {}
        self._lock = Lock()

    def take(self, name: str) -> Budget:
        """Take a token, if there is one."""
        with self._lock:
            now = self._clock.monotonic()
            wanted = max(self._full_at.get(name, now), now) + self._interval
            missing_seconds = wanted - now - _WINDOW_SECONDS
            if missing_seconds > 1e-9:
                return Budget(is_exceeded=True, left=0, seconds=missing_seconds)
            if len(self._full_at) >= _MOST_BUCKETS and name not in self._full_at:
                self._forget(now)
            self._full_at[name] = wanted
        left = int((now + _WINDOW_SECONDS - wanted) / self._interval + 1e-6)
        return Budget(is_exceeded=False, left=left, seconds=wanted - now)

    def _forget(self, now: float) -> None:
        """Forget full buckets; if none is, the half that is fullest."""
        kept = {name: instant for name, instant in self._full_at.items() if instant > now}
        if len(kept) >= _MOST_BUCKETS:
            kept = dict(sorted(kept.items(), key=lambda each: each[1])[_MOST_BUCKETS // 2 :])
        self._full_at = kept


class RateLimits:
    """The limits of one process; 0 is none."""

    def __init__(self, clock: Clock, requests_per_minute: int, failures_per_minute: int) -> None:
        self._requests = TokenBuckets(clock, requests_per_minute)
        self._failures = TokenBuckets(clock, failures_per_minute)
        self._policy = ("RateLimit-Policy", f'"requests";q={requests_per_minute};w={_WINDOW_SECONDS}')

    @property
    def is_limiting(self) -> bool:
        """Whether requests are counted at all."""
        return self._requests.per_minute > 0

    def count_request(self, request: Request, g: Any) -> None:
        """Count a request on its caller. Raises Refused (429) where the bucket is empty."""
        if request.blueprint in _UNCOUNTED:
            return
        actor: Actor | None = g.get("actor")
        is_known = actor is not None and actor.name != ANONYMOUS.name
        name = f"{actor.tenant_id}:{actor.name}" if actor is not None and is_known else _address(request)
        budget = g.rate_budget = self._requests.take(name)
        if budget.is_exceeded:
            raise Refused(_too_many("too many requests", budget))

    def look_at(self, request: Request, g: Any, answer: Answer) -> Answer:
        """The answer with what is left; another one for an address that fails too often to prove who it is."""
        budget: Budget | None = g.get("rate_budget")
        if budget is not None:
            # draft-ietf-httpapi-ratelimit-headers
            left = ("RateLimit", f'"requests";r={budget.left};t={math.ceil(budget.seconds)}')
            answer.further += (self._policy, left)
        if "authentication_failed" in g and self._failures.per_minute:
            failures = self._failures.take(_address(request))
            if failures.is_exceeded:
                return problem_answer(_too_many("too many failures to authenticate", failures))
        return answer


def _too_many(what: str, budget: Budget) -> Problem:
    seconds = max(1, math.ceil(budget.seconds))
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many requests",
        f"{what}: ask again in {seconds} s",
        "/problems/too-many-requests",
        headers={"Retry-After": str(seconds)},
    )


def _address(request: Request) -> str:
    """Who asks, as far as the network tells; whoever has one IPv6 address has 2^64 of them."""
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        return "unknown"
    return str(IPv6Network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)
