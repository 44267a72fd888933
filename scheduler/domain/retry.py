"""When a failed message is tried again: exponential backoff with full jitter, bounded by a cap.

Source: Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. Full jitter draws
the wait from zero up to the exponential bound, which spreads a provider's recovery load best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final

# 2**64 seconds is beyond any cap; a float would overflow near 2**1024.
_MOST_DOUBLINGS: Final = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a message is tried; raises ValueError for values that make no sense."""

    max_attempts: int = 5
    base_seconds: float = 1.0
    cap_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        if not (math.isfinite(self.base_seconds) and self.base_seconds >= 0):
            raise ValueError("base_seconds must be a number from 0")
        if not (math.isfinite(self.cap_seconds) and self.cap_seconds >= self.base_seconds):
            raise ValueError("cap_seconds must be a number from base_seconds")


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Try again after `retry_in`, a whole number of seconds and at least one."""

    retry_in: timedelta


def decide_retry(
    policy: RetryPolicy, attempt: int, retry_after: timedelta | None, random: Random
) -> RetryDecision | None:
    """Whether a message is tried again after its `attempt`-th attempt (from 1) failed; None: never again.

    `retry_after` is what the provider asked for (RFC 9110 §10.2.3): a lower bound, itself bounded by the
    cap, so that no provider can postpone a message for ever. Waits are rounded up to whole seconds so that
    the failures of one batch can share a batch again.
    """
    if attempt < 1:
        raise ValueError("attempts are counted from 1")
    if attempt >= policy.max_attempts:
        return None
    bound = min(policy.cap_seconds, policy.base_seconds * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))
    wait_seconds = random.uniform(0, bound)
    if retry_after is not None:
        wait_seconds = max(wait_seconds, min(retry_after.total_seconds(), policy.cap_seconds))
    return RetryDecision(timedelta(seconds=max(1, math.ceil(wait_seconds))))
