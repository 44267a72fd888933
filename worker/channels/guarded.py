"""A provider behind its circuit: while that is open, messages come back untouched.

The circuit hears of each message as it ends, so a batch that meets a dead provider stops after the failures
that open the circuit, and what was in flight beside them. Half-open, one message is sent alone; once the
provider has answered it, the rest of its batch follows, so that the oldest batch is also the first to go on.

What a failure costs its message:

| failure | attempt |
|---|---|
| retryable or unknown, while the circuit is closed | burned |
| of a probe | not burned (but a first attempt of unknown outcome is: it may have been accepted) |
| the provider refuses us (401, 403) | not burned, unless the circuit had just been closed: see `Circuit` |

A message that alone makes a sound provider fail could be the probe for ever, as the oldest of all. So with
every tenth probe in a row that fails its batch comes back a second late, and another takes its turn.

A provider that an operator has put on hold is as one whose circuit is open, without probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from worker.breaker import Circuit
from worker.channels.port import (
    Accepted,
    DeliveryControl,
    Failed,
    FailureKind,
    NotAttempted,
    Outcome,
    OutgoingMessage,
    Provider,
    all_named,
)

PROBES_PER_TURN: Final = 10
STEP_ASIDE: Final = timedelta(seconds=1)


class CircuitProvider:
    """Gives `provider` what `circuit` lets through. Used by one thread, as the provider is."""

    def __init__(
        self, provider: Provider, circuit: Circuit, held_until: Callable[[], datetime | None] = lambda: None
    ) -> None:
        """`held_until`: when to ask again, while the provider is on hold; None: it is not."""
        self._provider = provider
        self._circuit = circuit
        self._held_until = held_until
        self._steps_aside = False

    @property
    def name(self) -> str:
        """The provider's."""
        return self._provider.name

    @property
    def is_open(self) -> bool:
        """Whether it lets no more through than a probe, or is on hold."""
        return not self._circuit.is_closed or self._held_until() is not None

    def pauses_until(self) -> datetime | None:
        """When the probe is due, while the circuit is open; when to ask again, while it is on hold."""
        if held := self._held_until():
            return held
        until = self._circuit.pauses_until()
        if until is None:
            return self._provider.pauses_until()
        return until + STEP_ASIDE if self._steps_aside else until

    def deliver(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Deliver as far as the circuit allows; what it does not let through was not attempted."""
        self._steps_aside = False
        if held := self._held_until():
            return [NotAttempted(held)] * len(messages)
        probed = self._probe(messages, control) if self._circuit.begin_probe() else []
        outcomes = probed + self._send(messages[len(probed) :], control)
        return all_named(outcomes, self.name)

    def close(self) -> None:
        """Close the provider."""
        self._provider.close()

    def _send(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        if not self._circuit.is_closed:
            return [NotAttempted(self.pauses_until())] * len(messages)
        guarded = _Guarded(control, self._circuit, self._held_until)
        outcomes = self._provider.deliver(messages, guarded)
        paused_until = self.pauses_until() if self.is_open else None
        return [
            outcome if type(outcome) is Accepted else self._explained(outcome, paused_until)
            for outcome in outcomes
        ]

    def _explained(self, outcome: Outcome, paused_until: datetime | None) -> Outcome:
        """The outcome with what the circuit knows of it."""
        if isinstance(outcome, NotAttempted):
            return outcome if paused_until is None else NotAttempted(paused_until)
        is_refusal = isinstance(outcome, Failed) and outcome.kind is FailureKind.PROVIDER
        return _excuse(outcome) if is_refusal and self._circuit.excuses_refusals else outcome

    def _probe(self, messages: Sequence[OutgoingMessage], control: DeliveryControl) -> list[Outcome]:
        """Send one message; where that shows nothing of the provider, as it was refused here, the next."""
        probe = _Probe(control)
        outcomes: list[Outcome] = []
        try:
            for message in messages:
                outcomes += self._provider.deliver([message], probe)
                if probe.shown is not None or isinstance(outcomes[-1], NotAttempted):
                    break
        finally:
            self._circuit.end_probe(probe.shown, probe.began_at)
        if probe.shown is not None and not self._circuit.is_closed:
            self._steps_aside = self._circuit.failed_probes % PROBES_PER_TURN == 0
            outcomes[-1] = _excuse(outcomes[-1])
        return outcomes


class _Guarded:
    """What a delivery through a closed circuit asks and tells."""

    def __init__(
        self, control: DeliveryControl, circuit: Circuit, held_until: Callable[[], datetime | None]
    ) -> None:
        self._control = control
        self._circuit = circuit
        self._held_until = held_until
        self.abandon = control.abandon

    def start_no_more(self) -> bool:
        """See the port."""
        return not self._circuit.is_closed or bool(self._held_until()) or self._control.start_no_more()

    def note(self, outcome: Outcome, began_at: float) -> None:
        """See the port."""
        self._circuit.note(outcome, began_at)
        self._control.note(outcome, began_at)


class _Probe:
    """What the delivery of a probe asks, and what it has shown."""

    def __init__(self, control: DeliveryControl) -> None:
        self._control = control
        self.start_no_more = control.start_no_more
        self.abandon = control.abandon
        self.shown: Outcome | None = None
        self.began_at = 0.0

    def note(self, outcome: Outcome, began_at: float) -> None:
        """See the port."""
        self.shown = outcome
        self.began_at = began_at
        self._control.note(outcome, began_at)


def _excuse(outcome: Outcome) -> Outcome:
    return replace(outcome, burns_attempt=False) if isinstance(outcome, Failed) else outcome
