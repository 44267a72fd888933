"""The providers of one channel, in order: a message goes to the first that takes it.

A delivery gives its messages to the first provider whose circuit lets them through. What comes back untouched, as
the circuit opened on the way, goes to the next in the same delivery, and so does a message with which the provider
refused us: it is known not to have been accepted. Nothing else changes its provider. A retryable failure is tried
again later, in the same order: whether a provider is down is for its circuit to say, not for one message. Where a
provider's rate is used up, messages wait for it: a backup is there for failures, not for load.

A message that may have been accepted is given to no other provider, for only the one that had it knows its key:
`bound_to` holds it there, through every later attempt, for as long as the channel has that provider.

Limit: of a worker that was killed nothing tells which provider had its messages. They go to the first that takes
them; that is the same one unless a circuit opened or closed meanwhile.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from loguru import logger

from scheduler.domain.occasion import Channel
from worker.channels.guarded import CircuitProvider
from worker.channels.port import (
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
)


class FailoverProvider:
    """Gives the messages of `channel` to `providers`, the preferred one first. Used by one thread, as they are."""

    def __init__(self, channel: Channel, providers: Sequence[CircuitProvider]) -> None:
        if not providers:
            raise ValueError("a channel needs a provider")
        self._channel = channel
        self._providers = providers
        self._names = frozenset(provider.name for provider in providers)

    @property
    def name(self) -> str:
        """The preferred provider's; each failure names the one that failed."""
        return self._providers[0].name

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
        """Deliver each message through one provider, as far as they take them now."""
        attempt = _Attempt(messages, self._names)
        for provider in self._providers:
            self._give(provider, attempt, control)
        self._log(attempt)
        return attempt.outcomes

    def close(self) -> None:
        """Close the providers."""
        for provider in self._providers:
            provider.close()

    def _give(self, provider: CircuitProvider, attempt: _Attempt, control: DeliveryControl) -> None:
        """Give one provider what it is to have: messages bound to it, and what none before it has taken."""
        positions = attempt.positions_for(provider.name)
        if not positions:
            return
        paused_until = provider.pauses_until() if provider.is_open else None
        if paused_until is not None:
            outcomes: list[Outcome] = [NotAttempted(paused_until)] * len(positions)
        else:
            outcomes = provider.deliver([attempt.messages[position] for position in positions], control)
        attempt.take(
            provider.name, positions, outcomes, is_open=provider.is_open, stops=control.start_no_more()
        )

    def _log(self, attempt: _Attempt) -> None:
        for (provider, cause), messages in sorted(attempt.passed_on.items()):
            about = {"channel": self._channel.value, "provider": provider, "cause": cause}
            logger.bind(**about, messages=messages).info("failed_over")
        for provider, messages in sorted(attempt.released.items()):
            about = {"channel": self._channel.value, "provider": provider}
            logger.bind(**about, messages=messages).warning("provider_of_unknown_outcomes_gone")


class _Attempt:
    """One delivery on its way through the providers: the outcomes so far, and what the next may have."""

    def __init__(self, messages: Sequence[OutgoingMessage], names: Collection[str]) -> None:
        self.messages = messages
        self.outcomes: list[Outcome] = [NotAttempted()] * len(messages)
        self.passed_on: Counter[tuple[str, str]] = Counter()
        """Messages that a later provider took, by who did not and why."""
        self.released: Counter[str] = Counter()
        """Messages whose provider the channel has no longer, by its name."""
        self._bound: dict[str, list[int]] = defaultdict(list)
        self._free: list[int] = []
        self._refusals: dict[int, Failed] = {}
        self._causes: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for position, message in enumerate(messages):
            if message.bound_to in names:
                self._bound[message.bound_to or ""].append(position)
                continue
            self._free.append(position)
            if message.bound_to is not None:
                self.released[message.bound_to] += 1

    def positions_for(self, provider: str) -> list[int]:
        """Which messages this provider may have, in their order."""
        bound = self._bound.get(provider)
        return sorted(bound + self._free) if bound else self._free

    def take(
        self,
        provider: str,
        positions: Sequence[int],
        outcomes: Sequence[Outcome],
        *,
        is_open: bool,
        stops: bool,
    ) -> None:
        """Keep what became of the messages that a provider was given; what it leaves to the next stays free."""
        bound = set(self._bound.get(provider, ()))
        left: list[int] = []
        for position, outcome in zip(positions, outcomes, strict=True):
            cause = None if position in bound or stops else _reason_to_pass_on(outcome, is_open=is_open)
            if cause is None:
                self._end(position, outcome)
            else:
                left.append(position)
                self._causes[position].append((provider, cause))
                self._leave(position, outcome)
        self._free = left

    def _end(self, position: int, outcome: Outcome) -> None:
        """This provider has the last word on a message."""
        self.outcomes[position] = outcome
        if isinstance(outcome, NotAttempted):
            return
        if refusal := self._refusals.get(position):
            self.outcomes[position] = replace(outcome, refusals=(*refusal.refusals, refusal))
        self.passed_on.update(self._causes.get(position, ()))

    def _leave(self, position: int, outcome: Outcome) -> None:
        """Leave a message to the next provider; if none takes it, the last refusal counts, or the earliest retry."""
        known = self._refusals.get(position)
        if isinstance(outcome, Failed):
            refusals = () if known is None else (*known.refusals, known)
            self._refusals[position] = replace(outcome, refusals=refusals)
            self.outcomes[position] = self._refusals[position]
        elif known is None and isinstance(outcome, NotAttempted):
            self.outcomes[position] = _earlier(self.outcomes[position], outcome)


def _reason_to_pass_on(outcome: Outcome, *, is_open: bool) -> str | None:
    """Why a message goes to the next provider: a word to count by; None: it does not."""
    if isinstance(outcome, NotAttempted):
        return "circuit_open" if is_open else None
    if isinstance(outcome, Failed) and outcome.kind is FailureKind.PROVIDER:
        return outcome.category
    return None


def _earlier(before: Outcome, outcome: NotAttempted) -> NotAttempted:
    """Not attempted, and worth another try at the earlier of the two instants that are known."""
    known = before.retry_at if isinstance(before, NotAttempted) else None
    instants = [instant for instant in (known, outcome.retry_at) if instant is not None]
    return NotAttempted(min(instants, default=None))
