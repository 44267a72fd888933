"""A provider that is given so many messages a second and no more, by all processes together.

Messages go in slices of about a second's worth. Each slice is reserved in the database (`provider_rates`) and
sent when its time has come, so any T seconds see no more than the rate allows for T, and one slice.

A thread waits `MOST_WAITING` in one delivery at most: what is left then is handed back for when the provider is
free, so a limited channel keeps no thread from the others for long, and nobody waits for a provider that others
have reserved for longer than that. While the database does not answer nothing is sent.

Limits: a slice is sent as a whole before the next is reserved, so a provider whose answers take longer than its
slices needs as many threads as overlap. What was reserved and not sent, as a circuit opened or a stop was asked
for, is lost to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from threading import Event
from typing import Final

from loguru import logger
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from scheduler.clock import Clock
from scheduler.store import provider_rates
from worker.channels.port import DeliveryControl, NotAttempted, Outcome, OutgoingMessage, Provider

SLICE: Final = timedelta(seconds=1)
MOST_WAITING: Final = timedelta(seconds=5)

_LOOK: Final = timedelta(milliseconds=100)  # at the stop signal, while waiting
_LATE: Final = timedelta(milliseconds=250)  # a slice that begins later than this is reserved anew
_WITHOUT_DATABASE: Final = timedelta(seconds=2)


class Rate:
    """The rate of one provider, and until when it is used up; shared by the threads of a process."""

    def __init__(self, provider: str, messages_per_second: float, engine: Engine, clock: Clock) -> None:
        self.slice = max(1, int(messages_per_second * SLICE.total_seconds()))
        """Messages that are reserved together at most."""
        self._provider = provider
        self._messages_per_second = messages_per_second
        self._engine = engine
        self._clock = clock
        self._used_up_until: datetime | None = None

    def reserve(self, messages: int, patience: timedelta) -> datetime | None:
        """From when on so many may be sent; None if that is further off than `patience`, or not known."""
        now = self._clock.now()
        try:
            with self._engine.begin() as connection:
                starts_at = provider_rates.reserve(
                    connection,
                    self._provider,
                    takes=timedelta(seconds=messages / self._messages_per_second),
                    latest=now + max(patience, timedelta()),
                    now=now,
                )
                if starts_at is None:
                    self._used_up_until = provider_rates.next_free_at(connection, self._provider)
                elif starts_at > now:
                    # The caller waits for it, so nobody else of this process need to.
                    self._used_up_until = starts_at
        except SQLAlchemyError as error:
            logger.bind(provider=self._provider, cause=type(error).__name__).warning("rate_not_reserved")
            self._used_up_until = now + _WITHOUT_DATABASE
            return None
        return starts_at

    def used_up_until(self) -> datetime | None:
        """The instant before which nothing can be reserved, as far as is known here; None: it may be now."""
        until = self._used_up_until
        return until if until is not None and until > self._clock.now() else None


class LimitedProvider:
    """Gives `provider` its messages at `rate`. Used by one thread, as the provider is."""

    def __init__(self, provider: Provider, rate: Rate, clock: Clock) -> None:
        self._provider = provider
        self._rate = rate
        self._clock = clock

    @property
    def name(self) -> str:
        """The provider's."""
        return self._provider.name

    def pauses_until(self) -> datetime | None:
        """When the rate has room again, where it is known to be used up."""
        return self._rate.used_up_until() or self._provider.pauses_until()

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Deliver slice by slice, each in its time; what there was no time for was not attempted."""
        outcomes: list[Outcome] = []
        waiting = _Waiting(self._clock, control)
        while len(outcomes) < len(messages):
            piece = messages[len(outcomes) : len(outcomes) + self._rate.slice]
            if not self._may_send(len(piece), waiting):
                break
            sent = self._provider.deliver(piece, control)
            outcomes += sent
            if any(isinstance(outcome, NotAttempted) for outcome in sent):
                break
        rest = NotAttempted(self._rate.used_up_until())
        return outcomes + [rest] * (len(messages) - len(outcomes))

    def close(self) -> None:
        """Close the provider."""
        self._provider.close()

    def _may_send(self, messages: int, waiting: _Waiting) -> bool:
        """Reserve a slice and wait until it begins. Once waited for too long, or told to stop: False."""
        while not waiting.is_stopped():
            starts_at = self._rate.reserve(messages, waiting.left)
            if starts_at is None or not waiting.wait(starts_at):
                return False
            if self._clock.now() - starts_at <= _LATE:
                return True
        return False


class _Waiting:
    """How long one delivery has waited for its slices."""

    def __init__(self, clock: Clock, control: DeliveryControl) -> None:
        self.left = MOST_WAITING
        self._clock = clock
        self._control = control

    def is_stopped(self) -> bool:
        """Whether nothing more may be sent."""
        return self._control.start_no_more()

    def wait(self, until: datetime) -> bool:
        """Wait for an instant; False: stopped before it came."""
        began_at = self._clock.monotonic()
        while (now := self._clock.now()) < until:
            if self.is_stopped():
                return False
            self._clock.wait(Event(), min(until, now + _LOOK))
        self.left -= timedelta(seconds=self._clock.monotonic() - began_at)
        return True
