"""The providers of one channel, in order: a delivery goes to the first that takes messages.

Which one that is, is chosen before the messages are claimed, and its name is committed with the claim: should the
worker be lost, the log tells who may have accepted what it held. So one delivery gives what is bound to nobody to one
provider only. What that leaves untouched, as its circuit opens on the way, is handed back and due at once: the next
delivery goes to the next provider. So does a message with which the provider refused us, at no cost: it is known not
to have been accepted. Nothing else changes its provider. A retryable failure is tried again later, in the same order:
whether a provider is down is for its circuit to say, not for one message. Where a provider's rate is used up, messages
wait for it: a backup is there for failures, not for load.

A message that may have been accepted is given to no other provider, for only the one that had it knows its key:
`bound_to` holds it there, through every later attempt, for as long as the channel has that provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from loguru import logger

from scheduler.clock import Clock
from scheduler.domain.occasion import Channel
from worker.channels.guarded import CircuitProvider
from worker.channels.port import (
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
    Provider,
)


class FailoverProvider:
    """Gives the messages of `channel` to `providers`, the preferred one first. Used by one thread, as they are."""

    def __init__(self, channel: Channel, providers: Sequence[CircuitProvider], clock: Clock) -> None:
        if not providers:
            raise ValueError("a channel needs a provider")
        self._channel = channel
        self._providers = providers
        self._clock = clock
        self._chosen: CircuitProvider | None = None
        self.names = frozenset(provider.name for provider in providers)

    @property
    def name(self) -> str:
        """The preferred provider's; each failure names the one that failed."""
        return self._providers[0].name

    def choose(self) -> str:
        """Choose who is given what the next delivery has, and return its name: the first that takes messages now.

        Where none does, it is the first of all.
        """
        taking = (each for each in self._providers if not each.is_open or each.pauses_until() is None)
        self._chosen = next(taking, self._providers[0])
        return self._chosen.name

    def pauses_until(self) -> datetime | None:
        """None while a circuit lets messages through and that provider takes them; else the earliest end."""
        pauses: list[datetime] = []
        for provider in self._providers:
            until = provider.pauses_until()
            if until is None or not provider.is_open:
                return until
            pauses.append(until)
        return min(pauses)

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Deliver through the provider that was chosen, and what is bound to another one through that."""
        if self._chosen is None:
            self.choose()
        chosen = self._chosen or self._providers[0]
        self._chosen = None
        outcomes: list[Outcome] = [NotAttempted()] * len(messages)
        for provider in self._providers:
            positions = [
                position
                for position, message in enumerate(messages)
                if (message.bound_to or chosen.name) == provider.name
            ]
            if positions:
                given = [messages[position] for position in positions]
                for position, outcome in zip(positions, provider.deliver(given, control), strict=True):
                    outcomes[position] = outcome
        free = [position for position, message in enumerate(messages) if message.bound_to is None]
        self._log(chosen, len(free))
        if chosen.is_open and self.pauses_until() is None:
            for position in free:
                outcomes[position] = self._left_to_others(outcomes[position])
        return outcomes

    def close(self) -> None:
        """Close the providers."""
        for provider in self._providers:
            provider.close()

    def _left_to_others(self, outcome: Outcome) -> Outcome:
        """What was not accepted for sure is due again at once, and costs its message nothing."""
        if isinstance(outcome, NotAttempted):
            return NotAttempted(self._clock.now())
        if isinstance(outcome, Failed) and outcome.kind is FailureKind.PROVIDER:
            return replace(outcome, burns_attempt=False)
        return outcome

    def _log(self, chosen: CircuitProvider, messages: int) -> None:
        if chosen.name != self.name and messages:
            about = {"channel": self._channel.value, "provider": self.name, "instead": chosen.name}
            logger.bind(**about, messages=messages).info("failed_over")


def choose(provider: Provider) -> str:
    """The name of the provider that the next delivery begins at."""
    return provider.choose() if isinstance(provider, FailoverProvider) else provider.name


def providers_of(provider: Provider) -> frozenset[str]:
    """The names of all the providers among which a channel chooses."""
    return provider.names if isinstance(provider, FailoverProvider) else frozenset((provider.name,))
