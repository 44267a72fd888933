"""The circuit of a provider: after failures in a row it is left alone, but for one message now and then.

    closed ──failures in a row, or one refusal of us──▶ open ──reset time──▶ half-open
       ▲                                                 ▲                      │
       └──────────── the probe shows a sign of life ─────┼──────────────────────┤
                                                         └─── the probe fails ──┘

pybreaker keeps state and count. It is told of outcomes after the fact, never wrapped around a request: its
`call` holds a lock for as long as the call lasts. When a probe is due, and that there is one at a time, is
decided here: pybreaker reads the wall clock and lets everyone through a half-open circuit.

"In a row" is meant in the order of sending. A failure of a message that was sent before the latest one to be
answered says nothing: else the few requests of a batch that hang, which end last and together, would open
the circuit of a provider that answers all others.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import Lock
from typing import Final, NoReturn

import pybreaker
from loguru import logger

from scheduler.clock import Clock
from worker.channels.port import Accepted, Failed, FailureKind, NotAttempted, Outcome

WHILE_PROBING_SECONDS: Final = 1.0
"""How long to wait before asking again what the probe under way has shown."""


class CircuitState(StrEnum):
    """What a circuit lets through."""

    CLOSED = pybreaker.STATE_CLOSED
    """Everything."""

    OPEN = pybreaker.STATE_OPEN
    """Nothing; once the reset time is over, a probe."""

    HALF_OPEN = pybreaker.STATE_HALF_OPEN
    """One probe at a time, until one shows how the provider is."""


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """How many failures in a row open a circuit, and how long it stays open before each probe."""

    failures: int = 5
    reset_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class CircuitReport:
    """A circuit at one moment: since when it is closed or not, how often it has opened, and what opened it last.

    What follows an opening until the circuit is closed, probes that fail included, belongs to that opening.
    """

    provider: str
    state: CircuitState
    since: datetime
    openings: int
    category: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """That a provider refuses us, told once an opening: nobody but a person can put that right."""

    provider: str
    category: str
    detail: str


class CircuitListener:
    """Hears of a circuit's transitions, in its lock: it must neither wait nor raise. This one does nothing."""

    def changed(self) -> None:
        """The circuit has changed its state."""

    def refused(self, refusal: Refusal) -> None:
        """The provider refuses us."""


class _ProviderFailed(Exception):
    """How pybreaker is told of a failure; never leaves this module."""


class Circuit:
    """The circuit of one provider; shared by the threads of a process."""

    def __init__(
        self, provider: str, clock: Clock, policy: CircuitPolicy, listener: CircuitListener | None = None
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._policy = policy
        self._listener = listener or CircuitListener()
        self._lock = Lock()
        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=policy.failures,
            reset_timeout=policy.reset_seconds,
            # It would count whatever is raised, the end of the process included.
            exclude=[lambda error: not isinstance(error, _ProviderFailed)],
            state_storage=self._storage,
            name=provider,
            throw_new_error_on_trip=False,
        )
        self._is_probing = False
        self._failed_probes = 0
        # Seconds of the monotonic clock.
        self._alive_at = -math.inf
        self._probe_due = -math.inf
        self._closed_at = -math.inf
        self._excuses_refusals = True
        self._openings = 0
        self._is_in_opening = False
        self._is_refusal_told = False
        self._category: str | None = None
        self._since = clock.now()

    @property
    def state(self) -> CircuitState:
        """What is let through now."""
        return CircuitState(self._storage.state)

    @property
    def is_closed(self) -> bool:
        """Whether everything is let through."""
        return self._storage.state == pybreaker.STATE_CLOSED

    @property
    def failed_probes(self) -> int:
        """How many probes in a row have failed."""
        return self._failed_probes

    @property
    def excuses_refusals(self) -> bool:
        """Whether the refusals that came with the latest opening are not to be held against their messages.

        So it is, unless the circuit had been closed for less than its reset time: then it may be the message
        that is refused, not we, and it must not open the circuit of all others for ever.
        """
        return self._excuses_refusals

    def report(self) -> CircuitReport:
        """How it is now, for people."""
        with self._lock:
            return CircuitReport(self.provider, self.state, self._since, self._openings, self._category)

    def pauses_until(self) -> datetime | None:
        """The instant before which nothing is let through, as things are; None: a message would be now."""
        if self.is_closed:
            return None
        with self._lock:
            left_seconds = WHILE_PROBING_SECONDS if self._is_probing else self._seconds_to_probe()
            return None if left_seconds <= 0 else self._clock.now() + timedelta(seconds=left_seconds)

    def note(self, outcome: Outcome, began_at: float) -> None:
        """Learn from a message other than a probe, sent at `began_at` of the monotonic clock.

        What was in flight when the circuit opened changes nothing any more.
        """
        failure = None if type(outcome) is Accepted else _failure(outcome)
        if failure is None:
            self._note_life(outcome, began_at)
            return
        with self._lock:
            is_recent = began_at >= self._alive_at or failure.kind is FailureKind.PROVIDER
            if self.is_closed and is_recent:
                self._fail(failure)

    def begin_probe(self) -> bool:
        """Whether the caller may send one message now to see how the provider is; it must call `end_probe`."""
        with self._lock:
            if self.is_closed or self._is_probing or self._seconds_to_probe() > 0:
                return False
            if self.state is CircuitState.OPEN:
                self._breaker.half_open()
                self._log("INFO", "circuit_half_open")
                self._listener.changed()
            self._is_probing = True
            return True

    def end_probe(self, outcome: Outcome | None, began_at: float) -> None:
        """Close or open by what the probe has shown; None: nothing, so that another one may begin."""
        with self._lock:
            self._is_probing = False
            if outcome is None:
                return
            failure = _failure(outcome)
            if failure is None:
                self._close(began_at)
            else:
                self._failed_probes += 1
                self._fail(failure)

    def _note_life(self, outcome: Outcome, began_at: float) -> None:
        if isinstance(outcome, NotAttempted):
            return
        # Without the lock, for it is asked of every message: the worst is that one failure counts too many.
        if began_at > self._alive_at:
            self._alive_at = began_at
        if self._storage.counter and self.is_closed:
            with self._lock:
                if self.is_closed:
                    self._breaker.call(_succeed)

    def _fail(self, failure: Failed) -> None:
        if failure.kind is FailureKind.PROVIDER:
            self._storage.increment_counter()
            self._breaker.open()
        else:
            with suppress(_ProviderFailed):
                self._breaker.call(_fail)
        if self.state is CircuitState.OPEN:
            self._open(failure)

    def _open(self, failure: Failed) -> None:
        now = self._clock.monotonic()
        self._excuses_refusals = now - self._closed_at >= self._policy.reset_seconds
        self._probe_due = now + self._policy.reset_seconds
        self._category = failure.category
        self._tell(failure)
        self._count_opening()

    def _tell(self, failure: Failed) -> None:
        """Say so loudly once an opening: each probe that fails is a line for those who look."""
        about = {"category": failure.category, "kind": failure.kind.value}
        if failure.kind is FailureKind.PROVIDER and not self._is_refusal_told:
            # Nobody but a person can put right that we are refused.
            self._is_refusal_told = True
            self._log("ERROR", "circuit_opened", **about)
            self._listener.refused(Refusal(self.provider, failure.category, failure.detail))
        elif self._is_in_opening:
            self._log("INFO", "circuit_probe_failed", probes=self._failed_probes, **about)
        else:
            self._log("WARNING", "circuit_opened", **about)

    def _count_opening(self) -> None:
        """Count it, unless it is a probe that has failed."""
        if not self._is_in_opening:
            self._is_in_opening = True
            self._openings += 1
            self._since = self._clock.now()
        self._listener.changed()

    def _close(self, began_at: float) -> None:
        failures = self._storage.counter
        self._breaker.call(_succeed)
        self._failed_probes = 0
        self._alive_at = began_at
        self._closed_at = self._clock.monotonic()
        self._is_in_opening = self._is_refusal_told = False
        self._since = self._clock.now()
        self._log("INFO", "circuit_closed", failures=failures)
        self._listener.changed()

    def _seconds_to_probe(self) -> float:
        return self._probe_due - self._clock.monotonic()

    def _log(self, level: str, event: str, **fields: object) -> None:
        """Log a transition, with the failures in a row so far."""
        about = {"provider": self.provider, "failures": self._storage.counter, **fields}
        logger.bind(**about).log(level, event)


def _failure(outcome: Outcome) -> Failed | None:
    """The outcome, if the provider and not the message is to blame."""
    if isinstance(outcome, Failed) and outcome.kind is not FailureKind.PERMANENT:
        return outcome
    return None


def _fail() -> NoReturn:
    raise _ProviderFailed


def _succeed() -> None:
    pass
